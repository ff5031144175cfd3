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
import uvloop
from starlette.types import Receive, Scope, Send

from provider.api.guard import Guard
from provider.api.server import Server
from provider.api.source import PEER
from provider.settings import ApiSettings
from shared.tls import server_context

AUTHORITY = trustme.CA()
STRANGER = trustme.CA()
PATIENCE_S = 20.0
LARGE_BYTES = 20_000_000


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with what the server made of the request. `/early` before it has read the body; `/large` with 20 MB;
    `/slow` after a moment."""
    size, more = 0, scope["path"] != "/early"
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size += len(message["body"])
        more = message["more_body"]
    if scope["path"] == "/slow":
        await asyncio.sleep(0.5)
    seen = {
        "method": scope["method"],
        "path": scope["path"],
        "query": scope["query_string"].decode(),
        "peer": scope[PEER].hex() if scope[PEER] is not None else None,
        "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]],
        "body": size,
    }
    said = b"x" * LARGE_BYTES if scope["path"] == "/large" else json.dumps(seen).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(said))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for start in range(0, len(said), 1_000_000):
        piece = said[start : start + 1_000_000]
        await send({"type": "http.response.body", "body": piece, "more_body": start + 1_000_000 < len(said)})


@dataclass(slots=True)
class Served:
    """A server that runs."""

    port: int
    guard: Guard

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
def serving(directory: Path, **limits: Any) -> Iterator[Served]:
    """Serves `echo` within this block. `limits` are settings of `[api]`."""
    own = AUTHORITY.issue_cert("127.0.0.1")
    own.private_key_and_cert_chain_pem.write_to_path(directory / "own.pem")
    AUTHORITY.cert_pem.write_to_path(directory / "ca.pem")
    tls = server_context(directory / "own.pem", directory / "own.pem", directory / "ca.pem")
    guard = Guard(ApiSettings(listen="127.0.0.1:0", **limits))
    server = Server(echo, "127.0.0.1:0", guard=guard, tls=lambda: tls, stamp=lambda: [(b"bellwether-node", b"p1")])
    listens = threading.Event()

    async def serve() -> None:
        running = asyncio.create_task(server.serve())
        await server.ready.wait()
        listens.set()
        await running

    def run() -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve())

    thread = threading.Thread(target=run, name="server")
    thread.start()
    try:
        assert listens.wait(PATIENCE_S)
        yield Served(server.port, guard)
    finally:
        server.should_exit = True
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
