"""The server's side of one connection: what uvicorn leaves open.

uvicorn's protocol turns bytes into requests and answers into bytes. This one refuses what is too much, too slow or can
be read in two ways before the application hears of it, and serves one request at a time: a client that sends the next
before it has its answer gets that one, and the connection ends (a server may do that; RFC 9112, 9.3.2). So nothing is
kept for later, and there is no timer for each request: the server looks at all connections now and then (`look`).
"""

import asyncio
import ssl
import urllib.parse
from collections.abc import Callable
from typing import Any, cast

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from provider.api.http.guard import Guard
from provider.api.http.heads import wrong
from provider.api.http.limits import Phase, Place, Verdict
from provider.api.http.source import PEER
from provider.api.http.traffic import QUIET_S
from provider.api.views import problem, to_json
from shared.errors import BellwetherError, Invalid, TooLarge, TooManyRequests, TooSlow

UNSENT_MAX_BYTES = 131_072
"""What may wait for a client to read it, before whoever writes has to wait as well."""
HEAD = b"HTTP/1.1 "
"""How the head of an answer begins. A body that begins so is held back for a moment, too: no harm."""
PIECE_BYTES = 16_384
"""The parser is given so much at once while it is in a body, that a head behind it cannot be much longer unseen."""

GOODBYE_S = 0.5
"""For clients to acknowledge that a server which ends closes their connection."""

Stamp = Callable[[], list[tuple[bytes, bytes]]]
"""The headers that every answer of this node carries."""


class _Stop(Exception):
    """The parser is to go no further."""


class Protocol(HttpToolsProtocol):
    """One connection."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        *,
        guard: Guard,
        place: Place,
        stamp: Stamp,
        member: Callable[[bytes], bool],
    ) -> None:
        super().__init__(config, server_state, app_state)
        self.peer: bytes | None = None
        self._guard, self._place, self._stamp, self._member = guard, place, stamp, member
        self._head_max, self._lines_max = guard.api.head_max_bytes, guard.api.head_max_lines
        self._phase, self._since_s = Phase.FIRST, self.loop.time()
        self._unread_since_s: float | None = None
        self._size = 0
        """Bytes of the head, then of the body, that have come."""
        self._refusal: tuple[BellwetherError, int, str] | None = None
        self._deaf = False
        """Nothing more is read from this client."""
        self._ending = False

    # ── asyncio.Protocol ──

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=UNSENT_MAX_BYTES)
        self._enter(Phase.FIRST)
        self.peer = _certificate(transport)
        if self.peer is not None and self._member(self.peer):
            self._place.known()
        if self._place.verdict is not Verdict.SERVE:
            self._refuse(_too_many(self._place), 429, self._place.why)

    def connection_lost(self, exc: Exception | None) -> None:
        self._place.leave()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        while data and not self._deaf:
            if self._phase is Phase.ANSWER:
                if data.strip(b"\r\n"):  # some send a line end too many behind a body
                    self._end_after_answer()
                return
            if self._phase is Phase.IDLE:
                self._enter(Phase.HEAD)
            in_head = self._phase in (Phase.FIRST, Phase.HEAD)
            # Never more than a head may have: one that is complete within it is not too long.
            room = self._head_max - self._size if in_head else PIECE_BYTES
            piece, data = (data, b"") if len(data) <= room else (data[:room], data[room:])
            if not self._feed(piece):
                return
            if self._phase in (Phase.FIRST, Phase.HEAD):
                if in_head:
                    self._size += len(piece)
                if self._size >= self._head_max:
                    self._refuse_head(f"more than {self._head_max} bytes", "head_max_bytes")

    def pause_writing(self) -> None:
        self._unread_since_s = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._unread_since_s = None
        super().resume_writing()

    # ── the parser ──

    def _feed(self, piece: bytes) -> bool:
        """Whether the connection goes on."""
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade:
            self._refusal = self._refusal or (Invalid("this server changes to no other protocol"), 400, "malformed")
        except httptools.HttpParserError as error:
            if self._deaf:  # the next request before the answer
                return False
            if self._refusal is None:
                self._refusal = (Invalid(f"this is not HTTP/1.1 as this server reads it: {error}"), 400, "malformed")
        if self._refusal is not None:
            self._refuse(*self._refusal)
        return not self._deaf

    def on_message_begin(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._end_after_answer()
            raise _Stop
        if self._phase is Phase.IDLE:
            self._enter(Phase.HEAD)
        super().on_message_begin()
        self.scope[PEER] = self.peer  # type: ignore[literal-required] # a key of ours

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._phase not in (Phase.FIRST, Phase.HEAD):  # they would come among those that were checked
            self._stop(Invalid("headers behind a body (trailers) are not understood"), 400, "malformed")
        if len(self.headers) >= self._lines_max:
            self._stop(
                TooLarge(
                    f"more than {self._lines_max} headers; api.head_max_lines in provider.toml is this limit",
                ),
                431,
                "head_max_lines",
            )
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        version, parser = self.parser.get_http_version(), self.parser
        why = wrong(version, self.url, self.headers, upgrade=parser.should_upgrade())
        if why is not None:
            self._stop(Invalid(why), 400, "malformed")
        scope = self.scope
        raw_path, _, query = self.url.partition(b"?")
        path = raw_path.decode("ascii")
        scope["method"] = parser.get_method().decode("ascii")
        scope["http_version"] = version
        scope["path"] = urllib.parse.unquote(path) if "%" in path else path
        scope["raw_path"] = raw_path
        scope["query_string"] = query
        self.cycle = RequestResponseCycle(
            scope=scope,
            transport=cast(asyncio.Transport, Joined(self.transport, self.loop)),
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=version != "1.0" and parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        self._enter(Phase.BODY)
        self._start_asgi_task(self.cycle, self.app)

    def on_body(self, body: bytes) -> None:
        self._size += len(body)
        if self.cycle.response_complete:
            return
        self.cycle.body += body
        if len(self.cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        self.cycle.message_event.set()

    def on_message_complete(self) -> None:
        if self.cycle.response_complete:
            self._enter(Phase.IDLE)
            return
        self._enter(Phase.ANSWER)
        self.cycle.more_body = False
        self.cycle.message_event.set()

    # ── answers ──

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            if self._ending:
                self.loop.call_later(GOODBYE_S, self.transport.abort)
            return
        self._enter(Phase.IDLE if self._phase is Phase.ANSWER else Phase.REST)
        self.flow.resume_reading()

    def shutdown(self) -> None:
        """The server ends. Clients that do not say goodbye are not waited for."""
        self._ending = True
        super().shutdown()
        if self.transport.is_closing():
            self.loop.call_later(GOODBYE_S, self.transport.abort)

    def look(self, now_s: float, *, draining: bool = False) -> None:
        """Ends this connection where patience with its client has come to an end; where the node is `draining`, also
        one on which nothing has been asked for a while."""
        unread_s = now_s - self._unread_since_s if self._unread_since_s is not None else 0.0
        patience = self._guard.patience
        if self.flow.read_paused and self._phase is Phase.BODY:
            self._enter(Phase.BODY)  # the application takes its time, not the client
        quiet = self._phase is Phase.IDLE and now_s - self._since_s > QUIET_S
        if unread_s > patience.unread_s:
            self._count("unread")
            self.transport.abort()
        elif draining and quiet and not self._place.member:  # nodes expect each other to keep connections for longer
            self.transport.close()
        elif self._deaf or not patience.lost(self._phase, now_s - self._since_s, self._size):
            return
        elif self._phase is Phase.BODY:
            self._refuse(
                TooSlow(
                    f"the body came slower than {patience.body_min_bytes_per_s:g} bytes a second for more than "
                    f"{patience.body_grace_s:g} s; api.body_min_bytes_per_s in provider.toml is this limit"
                ),
                408,
                "slow_body",
            )
        elif self._phase is Phase.IDLE or not self._size:  # nothing was begun, so nothing is answered
            if self._phase is not Phase.IDLE:
                self._count("silent")
            self.transport.close()
        elif self._phase is Phase.REST:
            self._count("slow_body")
            self.transport.close()
        else:
            self._refuse(
                TooSlow(
                    f"the head of this request was not complete after {patience.head_s:g} s; "
                    "api.head_timeout_s in provider.toml is this limit"
                ),
                408,
                "slow_head",
            )

    # ── within ──

    def _enter(self, phase: Phase) -> None:
        self._phase, self._since_s, self._size = phase, self.loop.time(), 0

    def _stop(self, error: BellwetherError, status: int, reason: str) -> None:
        """In a callback of the parser. Raises `_Stop`."""
        self._refusal = (error, status, reason)
        raise _Stop

    def _refuse_head(self, what: str, setting: str) -> None:
        self._refuse(
            TooLarge(f"the head of this request has {what}; api.{setting} in provider.toml is this limit"), 431, setting
        )

    def _end_after_answer(self) -> None:
        """The client went on before it had its answer: it gets that one, and no other."""
        self._deaf = True
        self._count("pipelined")
        self.flow.pause_reading()
        self.cycle.keep_alive = False

    def _count(self, reason: str) -> None:
        self._guard.refused[reason] += 1

    def _refuse(self, error: BellwetherError, status: int, reason: str) -> None:
        """Answers, and ends the connection: what is still sent is not read as a request any more."""
        self._count(reason)
        self._deaf = True
        cycle = self.cycle
        under_way = cycle is not None and not cycle.response_complete
        if under_way:
            cycle.disconnected = True
            cycle.message_event.set()
        if not (under_way and cycle.response_started):
            body = to_json(problem(error, status))
            headers = [
                *self.server_state.default_headers,
                *self._stamp(),
                (b"content-type", b"application/problem+json"),
                (b"content-length", b"%d" % len(body)),
                (b"connection", b"close"),
            ]
            if error.retryable:
                headers.append((b"retry-after", b"1"))
            lines = [b"%s: %s\r\n" % header for header in headers]
            self.transport.write(b"".join([STATUS_LINE[status], *lines, b"\r\n", body]))
        self.transport.close()


class Joined:
    """A connection, as an answer is written to it: the head is held back until the first piece of the body is there, or
    until the loop has nothing else to do at once. One TLS record and one packet for both, for us and for the client."""

    __slots__ = ("_held", "_loop", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop, self._held = transport, loop, b""

    def write(self, data: bytes) -> None:
        if self._held:
            data, self._held = self._held + data, b""
        elif data.startswith(HEAD):
            self._held = data
            self._loop.call_soon(self._flush)
            return
        self._transport.write(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def _flush(self) -> None:
        held, self._held = self._held, b""
        if held and not self._transport.is_closing():
            self._transport.write(held)


def _too_many(place: Place) -> TooManyRequests:
    if place.why == "in_all":
        limit, whose, name = place.connections.in_all, "on this node", "connections_max"
    else:
        limit, whose, name = place.connections.per_client, "from your address", "connections_per_client"
    return TooManyRequests(f"more than {limit} connections {whose}; api.{name} in provider.toml is this limit")


def _certificate(transport: asyncio.Transport) -> bytes | None:
    """The client's certificate, which the handshake verified; None where it showed none.

    None also where a session was resumed: its certificate was verified when the session began, not now. (TLS 1.3 has no
    such sessions here, but TLS 1.2 cannot be kept from them.)
    """
    tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
    if tls is None or tls.session_reused:
        return None
    return tls.getpeercert(binary_form=True)
