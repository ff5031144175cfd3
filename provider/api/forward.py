"""Taking a write to the primary: the same request, under the same token and the same idempotency key.

A node that forwards shows its certificate, and adds what the primary believes for its sake: the client's address, for
the audit. Nothing else: the primary checks the client's token itself.

Why not a general HTTP client: they send an idempotent request again by themselves when a connection breaks, and do not
say whether the first one went out. Here that is the whole question: a write that was not sent may go to the next
primary, one that was sent and not answered may have been done. (Also, at 64 clients the pool of the one that we use
elsewhere took ten times as long as the write itself.)
"""

import asyncio
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

import httptools

_REQUEST_HEADERS = ("authorization", "content-type", "idempotency-key", "if-match", "if-none-match")
_RESPONSE_HEADERS = ("content-type", "etag", "location", "retry-after")
_REVISION = "bellwether-revision"
CONNECT_S = 1.0
IDLE_S = 30.0
"""Idle connections are given up before the other side ends them (75 s): a request must not meet a closing one."""
ANSWER_MAX_BYTES = 16 * 1024 * 1024
HEAD_MAX_BYTES = 256 * 1024
"""As much as comes at once; the parser itself would keep a header of any length."""


@dataclass(frozen=True, slots=True)
class Forwarded:
    """The primary's answer. `revision` is the state that it answered from."""

    status: int
    headers: dict[str, str]
    body: bytes
    revision: int


class NotSent(Exception):
    """The request did not reach the primary: nothing was done."""


class NotAnswered(Exception):
    """The request was sent, and there is no answer: it may have been done."""


class _Connection(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._answer: asyncio.Future[Forwarded] | None = None
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self._size = 0
        """Bytes of the answer so far, its head included."""
        self._has_head = False
        self.idle_since_s = 0.0
        self.tls: ssl.SSLContext | None = None
        """What it was made with."""

    @property
    def usable(self) -> bool:
        fresh = time.monotonic() - self.idle_since_s < IDLE_S
        return fresh and self._transport is not None and not self._transport.is_closing()

    async def ask(self, request: bytes) -> Forwarded:
        """Raises `NotSent`, `NotAnswered`. Cancelled, the connection is closed: its answer would be taken for the next
        one's."""
        if self._transport is None or self._transport.is_closing():  # since it was chosen
            raise NotSent("the connection was closed")
        self._answer = asyncio.get_running_loop().create_future()
        self._size, self._has_head = 0, False
        self._transport.write(request)
        try:
            return await self._answer
        except asyncio.CancelledError:
            self.close()
            raise
        finally:
            self._answer = None
            self.idle_since_s = time.monotonic()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # ── asyncio.Protocol ──

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._answer is None or self._answer.done():
            self.close()  # nobody asked: it would be taken for the answer to what is asked next
            return
        self._size += len(data)
        if self._size > ANSWER_MAX_BYTES:
            self._fail(f"the answer is larger than {ANSWER_MAX_BYTES} bytes")
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(f"not HTTP: {error!r}")
        if not self._has_head and self._size > HEAD_MAX_BYTES:
            self._fail(f"the answer's head is larger than {HEAD_MAX_BYTES} bytes")

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(str(error) if error is not None else "the connection was closed")
        # They hold each other, and the TLS beneath them, some 35 KB that no garbage collector counts.
        self._transport = None
        del self._parser

    def _fail(self, why: str) -> None:
        self.close()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(NotAnswered(why))

    # ── httptools ──

    def on_message_begin(self) -> None:
        self._headers, self._body = {}, []

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self._has_head = self._parser.get_status_code() >= 200

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        if self._parser.get_status_code() < 200:  # not the answer yet
            return
        revision = self._headers.get(_REVISION, "0")
        if not revision.isdecimal() or len(revision) > 18:
            self._fail(f"{revision[:80]!r} is no revision")
            return
        answer = Forwarded(
            status=self._parser.get_status_code(),
            headers={name: self._headers[name] for name in _RESPONSE_HEADERS if name in self._headers},
            body=b"".join(self._body),
            revision=int(revision),
        )
        if not self._parser.should_keep_alive():
            self.close()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(answer)


class Forwarder:
    """Connections to the other nodes. On the event loop only."""

    def __init__(self, *, node: str, tls: Callable[[], ssl.SSLContext], timeout_s: float) -> None:
        """`tls` is asked for each request: what was connected with another one shows a certificate that was replaced,
        and the others know only a node's last two. `timeout_s` is how long an answer may take."""
        self._node, self._timeout_s = node, timeout_s
        self._tls = tls
        self._idle: dict[str, list[_Connection]] = {}

    async def send(
        self, url: str, *, method: str, target: str, headers: dict[str, str], body: bytes, client: str | None = None
    ) -> Forwarded:
        """Raises `NotSent` or `NotAnswered`. `target` is path and query as the client sent them, `client` its address.

        Whoever gets a request with `Bellwether-Forwarded` and is not primary says so instead of passing it on.
        """
        lines = [f"{method} {target} HTTP/1.1", f"Host: {urlsplit(url).netloc}", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {headers[name]}" for name in _REQUEST_HEADERS if name in headers]
        lines.append(f"Bellwether-Forwarded: {self._node}")
        if client is not None:
            lines.append(f"Bellwether-Client: {client}")
        lines += ["", ""]
        request = "\r\n".join(lines).encode("latin-1") + body
        connection = await self._connection(url)
        try:
            answer = await asyncio.wait_for(connection.ask(request), self._timeout_s)
        except TimeoutError:
            raise NotAnswered(f"no answer within {self._timeout_s:g} s") from None
        idle = self._idle.setdefault(url, [])
        idle.append(connection)
        while not idle[0].usable:  # after a burst: the first are those that are not needed any more
            idle.pop(0).close()
            if not idle:
                break
        return answer

    async def close(self) -> None:
        for connections in self._idle.values():
            for connection in connections:
                connection.close()
        self._idle.clear()

    async def _connection(self, url: str) -> _Connection:
        """The one used last, so that those not needed any more grow old; or a new one. Raises `NotSent`."""
        idle, tls = self._idle.get(url, []), self._tls()
        while idle:
            connection = idle.pop()
            if connection.usable and connection.tls is tls:
                return connection
            connection.close()
        try:
            parts = urlsplit(url)
            connecting = asyncio.get_running_loop().create_connection(
                _Connection, parts.hostname or "", parts.port or 443, ssl=tls, server_hostname=parts.hostname
            )
            _, connection = await asyncio.wait_for(connecting, CONNECT_S)
        except (OSError, TimeoutError, ValueError) as error:  # ValueError: an address that is none
            raise NotSent(str(error) or "no connection in time") from None
        connection.tls = tls
        return connection
