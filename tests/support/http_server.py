"""The API's server with an application of the test's own, on a thread of its own."""

import asyncio
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trustme
import uvicorn
import uvloop
from uvicorn._types import ASGIReceiveCallable, ASGISendCallable, Scope

from provider.api.protocol import PEER, Protocol
from shared.tls import server_context

AUTHORITY = trustme.CA()
STRANGER = trustme.CA()
PATIENCE_S = 20.0


async def echo(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    """Answers with what the server made of the request."""
    body = b""
    more = True
    while more:
        message: Any = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message["body"]
        more = message["more_body"]
    seen: Any = scope
    peer = seen[PEER]
    said = json.dumps(
        {
            "method": seen["method"],
            "path": seen["path"],
            "peer": peer.hex() if peer is not None else None,
            "body": len(body),
        }
    ).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(said))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})  # type: ignore[typeddict-item]
    await send({"type": "http.response.body", "body": said, "more_body": False})


@dataclass(slots=True)
class Served:
    """A server that runs."""

    port: int
    tls: ssl.SSLContext

    def connect(self, identity: trustme.LeafCert | None = None, **options: Any) -> ssl.SSLSocket:
        """A connection whose handshake is done. `identity` is the client's certificate."""
        context = client(identity)
        for name, value in options.items():
            setattr(context, name, value)
        return self.wrap(context)

    def wrap(self, context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> ssl.SSLSocket:
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)
        try:
            return context.wrap_socket(plain, server_hostname="127.0.0.1", session=session)
        except OSError:
            plain.close()
            raise


def client(identity: trustme.LeafCert | None = None) -> ssl.SSLContext:
    """Trusts the server; shows `identity`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    AUTHORITY.configure_trust(context)
    if identity is not None:
        identity.configure_cert(context)
    return context


@contextmanager
def serving(directory: Path) -> Iterator[Served]:
    """Serves `echo` within this block."""
    own = AUTHORITY.issue_cert("127.0.0.1")
    own.private_key_and_cert_chain_pem.write_to_path(directory / "own.pem")
    AUTHORITY.cert_pem.write_to_path(directory / "ca.pem")
    tls = server_context(directory / "own.pem", directory / "own.pem", directory / "ca.pem")
    config = uvicorn.Config(
        echo, http=Protocol, ws="none", lifespan="off", log_config=None, ssl_context_factory=lambda _c, _d: tls
    )
    server = uvicorn.Server(config)
    listening = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(server.serve([listening]))

    thread = threading.Thread(target=run, name="server")
    thread.start()
    try:
        yield Served(listening.getsockname()[1], tls)
    finally:
        server.should_exit = True
        thread.join(PATIENCE_S)
        listening.close()
