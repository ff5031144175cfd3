"""The API's server with an application of the test's own, on a thread of its own."""

import asyncio
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import trustme
import uvloop
from starlette.types import Receive, Scope, Send

from provider.api.http.guard import Guard
from provider.api.http.server import Server
from provider.api.http.source import PEER
from provider.settings import ApiSettings
from shared.tls import server_context

AUTHORITY = trustme.CA()
STRANGER = trustme.CA()
PATIENCE_S = 20.0
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
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


@dataclass(frozen=True, slots=True)
class Said:
    """An answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(slots=True)
class Served:
    """A server that runs."""

    port: int
    guard: Guard
    directory: Path
    tls: list[ssl.SSLContext]
    removed: set[bytes]
    """Certificates of nodes that are none any more."""

    def connect(
        self, identity: trustme.LeafCert | None = None, *, source: str = "127.0.0.1", **options: Any
    ) -> ssl.SSLSocket:
        """A connection whose handshake is done. `identity` is the client's certificate."""
        context = client(identity)
        for name, value in options.items():
            setattr(context, name, value)
        return self.wrap(context, source=source)

    def wrap(
        self, context: ssl.SSLContext, session: ssl.SSLSession | None = None, *, source: str = "127.0.0.1"
    ) -> ssl.SSLSocket:
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S, source_address=(source, 0))
        try:
            return context.wrap_socket(plain, server_hostname="127.0.0.1", session=session)
        except OSError:
            plain.close()
            raise

    def trust(self, authority: trustme.CA, directory: Path) -> None:
        """Clients' certificates are to be `authority`'s from now on."""
        authority.cert_pem.write_to_path(directory / "ca.pem")
        own = self.directory / "own.pem"
        self.tls[:] = [server_context(own, own, directory / "ca.pem")]

    def until(self, condition: Callable[[], bool]) -> None:
        """Waits for something that the server comes to by itself."""
        deadline_s = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline_s, (self.guard.refused, self.guard.connections.total)
            time.sleep(0.01)


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
    tls = [server_context(directory / "own.pem", directory / "own.pem", directory / "ca.pem")]
    guard = Guard(ApiSettings(listen="127.0.0.1:0", **limits))
    removed: set[bytes] = set()
    server = Server(
        echo,
        "127.0.0.1:0",
        guard=guard,
        tls=lambda: tls[0],
        stamp=lambda: [(b"bellwether-node", b"p1")],
        member=lambda der: der not in removed,
    )
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
        yield Served(server.port, guard, directory, tls, removed)
    finally:
        server.should_exit = True
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def answered(connection: ssl.SSLSocket, method: str = "GET") -> Said:
    """The next answer on a connection."""
    with closing(HTTPResponse(connection, method=method)) as response:
        response.begin()
        return Said(response.status, dict(response.headers.items()), response.read())


def ask(connection: ssl.SSLSocket, request: bytes = GET) -> Any:
    """The JSON that one request is answered with."""
    connection.sendall(request)
    said = answered(connection)
    assert said.status == 200, said
    return said.json


def told(server: Served, *sent: bytes) -> Said:
    """The answer to what no client would send; the connection ends behind it."""
    with server.connect() as connection:
        with suppress(OSError):  # refused before all was sent
            for piece in sent:
                connection.sendall(piece)
        said = answered(connection)
        assert ended(connection)
    return said


def ended(connection: ssl.SSLSocket) -> bool:
    """Waits for the server to end a connection, and drops what it still sent."""
    with suppress(OSError):
        while connection.recv(1_000_000):
            pass
    return True


def problem(said: Said, status: int, code: str) -> None:
    assert (said.status, said.json["status"], said.json["code"]) == (status, status, code), said
    assert said.headers["content-type"] == "application/problem+json"
    assert said.headers["bellwether-node"] == "p1"
    assert said.headers["connection"] == "close"


def served(server: Served) -> None:
    """Another client is."""
    with server.connect() as another:
        assert ask(another)["path"] == "/"
