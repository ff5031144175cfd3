"""The server's side of one connection: what uvicorn leaves open."""

import asyncio
import ssl

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

PEER = "bellwether.peer"
"""In the scope of each request: the verified client certificate of its connection as DER bytes, or None."""


class Protocol(HttpToolsProtocol):
    """Tells the application whose connection a request came by."""

    peer: bytes | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's
        super().connection_made(transport)
        self.peer = _certificate(transport)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope[PEER] = self.peer  # type: ignore[literal-required] # a key of ours


def _certificate(transport: asyncio.Transport) -> bytes | None:
    """The client's certificate, which the handshake verified; None where it showed none.

    None also where a session was resumed: its certificate was verified when the session began, not now. (TLS 1.3 has no
    such sessions here, but TLS 1.2 cannot be kept from them.)
    """
    tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
    if tls is None or tls.session_reused:
        return None
    return tls.getpeercert(binary_form=True)
