"""The HTTPS server: takes connections, counts them before the TLS handshake, and looks after those that are slow."""

import asyncio
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from provider.api.http.guard import Guard
from provider.api.http.limits import Place, Verdict
from provider.api.http.protocol import Protocol, Stamp
from shared.errors import Refused
from shared.logs import log

BACKLOG = 2048
ACCEPTED_AT_ONCE = 64
"""Then others get their turn."""
FULL_PAUSE_S = 0.2
"""Before it is tried again to accept, when the process has no file descriptors left."""
SHUTDOWN_S = 5.0
"""A connection that ends: so long a client may take to read what was said last, and to say goodbye."""
LOST_S = 60
"""An idle connection is asked after this long whether anybody is there still."""


class Server(uvicorn.Server):
    """uvicorn, with our own way of taking connections.

    It leaves signals to us: uvicorn raises them anew when it has ended, and the process would end with it, before our
    parts have.
    """

    def __init__(
        self,
        app: Any,
        listen: str,
        *,
        guard: Guard,
        tls: Callable[[], ssl.SSLContext],
        stamp: Stamp,
        member: Callable[[bytes], bool],
        draining: Callable[[], bool] = lambda: False,
    ) -> None:
        """`listen` is address:port. `tls` is asked anew for each connection; `stamp` gives the headers of answers that
        the application has no part in; `member` says whether a verified certificate (DER) is a node's of this cluster:
        one that was removed has its certificate still. While `draining`, idle connections are closed early."""
        host, _, port = listen.rpartition(":")
        super().__init__(
            uvicorn.Config(
                app,
                host=host.strip("[]"),
                port=int(port),
                http=Protocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,  # see provider.api.http.source
                timeout_graceful_shutdown=3,
                backlog=BACKLOG,
            )
        )
        self._guard, self._tls, self._stamp, self._member = guard, tls, stamp, member
        self._draining = draining
        self.ready = asyncio.Event()
        """Set once it listens."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    @property
    def port(self) -> int:
        """The port that it listens on."""
        listener: Any = self.servers[0]
        return int(listener.sockets[0].getsockname()[1])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Raises `Refused` where it cannot listen."""
        self._guard.fit()
        try:
            listening = sockets or await _listening(self.config.host, self.config.port)
        except OSError as error:
            raise Refused(f"cannot listen on {self.config.host}:{self.config.port}: {error}") from None
        self.servers: list[Any] = [_Listener(self, listening)]
        self.started = True
        self.ready.set()

    def protocol(self, place: Place) -> Protocol:
        return Protocol(
            self.config,
            self.server_state,
            {},
            guard=self._guard,
            place=place,
            stamp=self._stamp,
            member=self._member,
        )

    @property
    def guard(self) -> Guard:
        return self._guard

    def tls(self) -> ssl.SSLContext:
        return self._tls()

    def look(self) -> None:
        """Looks at each connection."""
        now_s, draining = asyncio.get_running_loop().time(), self._draining()
        for connection in list(self.server_state.connections):
            if isinstance(connection, Protocol):
                connection.look(now_s, draining=draining)


class _Listener:
    """Accepts by itself. `loop.create_server` would tell of a connection only after its handshake: nobody would count
    those that never do one, and each takes a file descriptor."""

    def __init__(self, server: Server, sockets: list[socket.socket]) -> None:
        self._server, self._guard, self.sockets = server, server.guard, sockets
        self._loop = asyncio.get_running_loop()
        self._handshakes: set[asyncio.Task[None]] = set()
        self._closed = False
        api = self._guard.api
        shortest_s = min(api.head_timeout_s, api.body_grace_s, api.idle_timeout_s, api.unread_timeout_s)
        self._every_s = min(1.0, shortest_s / 4)
        self._looking = self._loop.call_later(self._every_s, self._look)
        self._listen()

    def close(self) -> None:
        self._closed = True
        self._looking.cancel()
        self._rest()
        for listening in self.sockets:
            listening.close()
        for handshake in self._handshakes:
            handshake.cancel()

    async def wait_closed(self) -> None:
        await asyncio.gather(*self._handshakes, return_exceptions=True)

    def _listen(self) -> None:
        if not self._closed:
            for listening in self.sockets:
                self._loop.add_reader(listening, self._accept, listening)

    def _rest(self) -> None:
        for listening in self.sockets:
            self._loop.remove_reader(listening)

    def _look(self) -> None:
        self._server.look()
        self._looking = self._loop.call_later(self._every_s, self._look)

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                accepted, address = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # no descriptors, no memory: it passes
                self._guard.refused["descriptors"] += 1
                log(why=str(error)).warning("no more connections can be taken for the moment")
                self._rest()
                self._loop.call_later(FULL_PAUSE_S, self._listen)
                return
            place = self._guard.enter(address[0])
            if place.verdict is Verdict.CUT:
                self._guard.refused[place.why] += 1
                accepted.close()
                continue
            task = self._loop.create_task(self._shake_hands(accepted, place))
            self._handshakes.add(task)
            task.add_done_callback(self._handshakes.discard)

    async def _shake_hands(self, accepted: socket.socket, place: Place) -> None:
        protocol = self._server.protocol(place)
        try:
            _configure(accepted, self._guard.api.unread_timeout_s)
            await self._loop.connect_accepted_socket(
                lambda: protocol,
                accepted,
                ssl=self._server.tls(),
                ssl_handshake_timeout=self._guard.api.handshake_timeout_s,
                ssl_shutdown_timeout=SHUTDOWN_S,
            )
        except (OSError, asyncio.CancelledError):  # of TLS, too
            self._guard.refused["handshake"] += 1
        finally:
            if protocol.transport is None:  # it never came to be: nobody will hear that it is lost
                place.leave()


def _configure(accepted: socket.socket, unread_s: float) -> None:
    """Where a client has gone without a word, TCP would say so after a quarter of an hour. The kernel counts what a
    client does not read, too: it must not be faster than we are."""
    accepted.setblocking(False)
    accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    accepted.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, LOST_S)
    accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int((unread_s + 10) * 1000))


async def _listening(host: str, port: int) -> list[socket.socket]:
    """Raises `OSError`."""
    found = await asyncio.get_running_loop().getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    sockets: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            one = socket.socket(family, kind, protocol)
            sockets.append(one)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            one.setblocking(False)
            one.bind(address)
            one.listen(BACKLOG)
    except OSError:
        for one in sockets:
            one.close()
        raise
    return sockets
