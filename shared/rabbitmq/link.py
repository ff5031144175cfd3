"""A link that heals itself.

One thread runs pika's I/O loop for as long as the link lives; connections come and go on it. Other threads reach it by
putting something on a queue and waking the loop: published messages, acknowledgements, the wish to close. Each
connection is a `Session`; a callback of a former one is ignored, so nothing of a lost connection reaches the next.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import pika
from pika.adapters.select_connection import IOLoop

from shared.backoff import Backoff
from shared.bus import AnyTopology, Credentials, Delivery, Outcome, Subscription, Topology
from shared.iothread import IOThread
from shared.logs import log
from shared.outbox import Message, Outbox
from shared.rabbitmq.session import Session, parameters

_REFUSED = "ACCESS_REFUSED"
"""What RabbitMQ says to a wrong password (AMQP 403)."""
_HOME = "back to the broker where it belongs"
HOME_LONGEST_S = 60.0
"""The longest pause between two looks at the first endpoint, while another one is in use."""


class RabbitLink:
    """Implements `shared.bus.Link`. See there for what is promised; here is what RabbitMQ adds.

    `endpoints` (`amqps://host:port`, or `amqp://` without TLS) are tried in their order, going on from the one that was
    lost; a function is asked for them at each attempt, on the link's thread, and never has none. Each round without
    success waits `backoff` longer. On the link's thread, `on_up(endpoint)` is called when the
    topology stands and all subscriptions run, `on_down(reason)` when that ends, and when there is a new reason why it
    does not come about. `stamp_user` sets each message's `user_id`, which the broker verifies. `connect_timeout_s`
    bounds an attempt up to `on_up`; a broker that is silent for `heartbeat_s` (it sends something twice in that time)
    is given up within half as much again. Up to `limit` messages may be unsettled, more end UNKNOWN at once. An
    exchange that does not exist costs the connection. `quiet`: that it does not come up is nothing to warn of.
    `thread` (see `io_thread`) is one that other links use too: then `close` does not wait. `home_after_s`: the first
    endpoint is where the link belongs. At another one it looks so many seconds later whether it would be served at the
    first, and goes there; and it is where it turns to first when it has lost another.
    """

    def __init__(
        self,
        *,
        name: str,
        endpoints: Sequence[str] | Callable[[], Sequence[str]],
        credentials: Credentials,
        topology: AnyTopology = Topology(),  # noqa: B008 - immutable
        on_up: Callable[[str], None] | None = None,
        on_down: Callable[[str], None] | None = None,
        heartbeat_s: int = 10,
        connect_timeout_s: float = 10.0,
        backoff: Backoff | None = None,
        stamp_user: bool = True,
        limit: int = 20_000,
        quiet: bool = False,
        thread: IOThread | None = None,
        home_after_s: float | None = None,
    ) -> None:
        self.name = name
        self._endpoints = endpoints if callable(endpoints) else partial(tuple, endpoints)
        if not self._endpoints():
            raise ValueError("a link needs at least one endpoint")
        self._credentials = credentials
        self._topology = topology if callable(topology) else lambda: topology
        self._on_up, self._on_down = on_up, on_down
        self._heartbeat_s, self._connect_timeout_s = heartbeat_s, connect_timeout_s
        self._backoff = backoff or Backoff()
        self._properties = pika.BasicProperties(
            content_type="application/json", delivery_mode=2, user_id=credentials.username if stamp_user else None
        )
        self._io = thread or io_thread(f"link {name}")
        self._shares = thread is not None
        if not self._shares:
            self._io.on_error = self._failed
        self._loop = self._io.loop
        self._outbox = Outbox(limit)
        self._level = "DEBUG" if quiet else "WARNING"
        self._waking = False
        self._session: Session | None = None
        self._scout: Session | None = None
        """Looks whether the first endpoint would serve us, while another one does."""
        self._home = Backoff(home_after_s, HOME_LONGEST_S) if home_after_s is not None else None
        self._next_endpoint = 0
        self._passwords = (credentials.password, *credentials.others)
        self._refusals = 0
        """Of different passwords, by the endpoint in turn."""
        self._up_since_s = 0.0
        self._alarm_s: float | None = None
        self._timer: object = None
        self._problem: str | None = "not connected yet"
        self._closing = threading.Event()
        self._ended = threading.Event()

    # ── any thread ───────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def endpoint(self) -> str | None:
        session = self._session
        return session.endpoint if session is not None and session.up else None

    @property
    def password(self) -> str | None:
        session = self._session
        return session.password if session is not None and session.up else None

    @property
    def blocked(self) -> str | None:
        """Why the broker takes no messages at present (an alarm), in its own words; else None."""
        session = self._session
        return None if session is None else session.blocked

    def start(self) -> None:
        self._io.at_end.add(self._end)
        self._loop.add_callback_threadsafe(self._connect)
        self._io.start()

    def publish(
        self,
        exchange: str,
        key: str,
        body: bytes,
        *,
        on_done: Callable[[Outcome], None] | None = None,
        deadline_s: float = 5.0,
        lasting: bool = True,
    ) -> None:
        self._outbox.put(Message(exchange, key, body, on_done, time.monotonic() + deadline_s, lasting=lasting))
        if self._ended.is_set():
            self._outbox.abandon()  # there is no thread any more that would
        else:
            self.wake()

    def wake(self) -> None:
        """Have the link's thread look at what was published and acknowledged; many calls at once make one look."""
        if not self._waking:
            self._waking = True
            self._loop.add_callback_threadsafe(self._flush)

    def restart(self, reason: str) -> None:
        self._loop.add_callback_threadsafe(partial(self._restart, reason))

    def close(self, timeout_s: float = 5.0) -> None:
        if not self._closing.is_set():
            self._closing.set()
            self._loop.add_callback_threadsafe(partial(self._begin_close, timeout_s))
        if not self._shares:
            self._io.join(timeout_s + 1.0)

    # ── the link's thread: the loop ──────────────────────────────────────────────────────────────────────────────────

    def _failed(self, error: Exception) -> None:
        log(link=self.name).opt(exception=error).error("the link failed; it connects anew")
        self._lost(self._session, f"internal error: {error!r}")

    def _end(self) -> None:
        """The link is no more."""
        if self._ended.is_set():
            return
        self._io.at_end.discard(self._end)
        self._ended.set()  # first: what is put after this is its publisher's to settle
        self._outbox.abandon()
        session, self._session = self._session, None
        if session is not None:  # the broker was too slow with its goodbye
            session.abort("closed")
        self._end_scout()
        if not self._shares:
            self._io.stop()

    def _flush(self) -> None:
        # Cleared first: what is put from now on wakes the loop again, what was put before is seen below.
        self._waking = False
        self._outbox.accept()
        session = self._session
        if session is not None and session.up:
            for consumer in session.consumers:
                consumer.flush()
            if session.blocked is None:  # it would not read them, and take them too late when it does
                for message in self._outbox.take(time.monotonic()):
                    session.send(message)
        else:
            self._outbox.lapse()
        self._watch_deadlines()

    def _watch_deadlines(self) -> None:
        now_s = time.monotonic()
        next_s = self._outbox.expire(now_s)
        if next_s is None or (self._alarm_s is not None and now_s < self._alarm_s <= next_s):
            return
        if self._alarm_s is not None and self._alarm_s > now_s:
            self._loop.remove_timeout(self._timer)
        self._alarm_s = next_s
        self._timer = self._loop.call_later(max(0.0, next_s - now_s), self._deadline)

    def _deadline(self) -> None:
        self._alarm_s = None
        self._watch_deadlines()

    def _begin_close(self, timeout_s: float) -> None:
        session = self._session
        self._flush()  # what was published and acknowledged just before still goes out
        self._outbox.abandon()
        if session is None or not session.up:  # what has not begun needs no goodbye, and pika stumbles over it
            self._end()
            return
        self._loop.call_later(timeout_s, self._end)  # a broker that hangs says no goodbye
        session.close()

    # ── the link's thread: connections ───────────────────────────────────────────────────────────────────────────────

    def _connect(self) -> None:
        if self._closing.is_set() or self._session is not None:
            return
        endpoints = self._endpoints()
        self._next_endpoint %= len(endpoints)
        endpoint = endpoints[self._next_endpoint]
        session = self._session = Session(self, self._loop, self._outbox, endpoint, self._passwords[0])
        self._open(session, self._topology())

    def _open(self, session: Session, topology: Topology) -> None:
        try:
            credentials = replace(self._credentials, password=session.password)
            how = parameters(session.endpoint, credentials, self._heartbeat_s, self._connect_timeout_s)
        except OSError as error:  # the CA file cannot be read: perhaps it is being replaced
            self.lost(session, f"cannot use {self._credentials.ca_file}: {error}")
            return
        self._loop.call_later(self._connect_timeout_s, partial(self._too_slow, session))
        session.open(how, topology, self._properties)

    def _too_slow(self, session: Session) -> None:
        if session in (self._session, self._scout) and not session.up:
            self.lost(session, f"no connection within {self._connect_timeout_s:g} s")

    def established(self, session: Session) -> None:
        """The topology stands and the subscriptions run."""
        if session is self._scout:
            self._go_home()
        if session is not self._session:
            return
        session.up, self._problem, self._refusals = True, None, 0
        self._up_since_s = time.monotonic()
        log(link=self.name, endpoint=session.endpoint).info("connected to the broker")
        if self._on_up is not None:
            self._on_up(session.endpoint)
        self._flush()
        self._listen(session, -1)
        self._look_home_later()

    def _listen(self, session: Session, heard: int, silences: int = 0) -> None:
        """Every half heartbeat. pika has a check of its own, which takes up to twice (heartbeat + 5 s)."""
        if session is not self._session or not session.up:
            return
        now_heard = session.bytes_received
        silences = silences + 1 if now_heard == heard else 0
        if silences > 1:
            self.lost(session, f"the broker has been silent for {self._heartbeat_s} s")
        else:
            self._loop.call_later(self._heartbeat_s / 2, partial(self._listen, session, now_heard, silences))

    def lost(self, session: Session, reason: str) -> None:
        """The session has ended, or must end."""
        if session is self._session:
            self._lost(session, reason)
        elif session is self._scout:
            self._end_scout()
            self._look_home_later()

    def _restart(self, reason: str) -> None:
        if self._session is not None and self._session.up:
            self._lost(self._session, reason)

    # ── the link's thread: back to the first endpoint ────────────────────────────────────────────────────────────────

    def _is_away(self, session: Session) -> bool:
        return self._home is not None and session.endpoint != self._endpoints()[0]

    def _look_home_later(self) -> None:
        session = self._session
        if self._home is not None and session is not None and self._is_away(session):
            self._loop.call_later(self._home.next_s(), partial(self._look_home, session))

    def _look_home(self, session: Session) -> None:
        """Whether it would serve us is seen on a connection beside ours: what reads here reads there, from the end."""
        if session is not self._session or self._scout is not None or not self._is_away(session):
            return
        scout = self._scout = Session(self, self._loop, self._outbox, self._endpoints()[0], session.password)
        self._open(scout, _only_read(self._topology()))

    def _go_home(self) -> None:
        self._end_scout()
        self._restart(_HOME)

    def _end_scout(self) -> None:
        scout, self._scout = self._scout, None
        if scout is not None:
            scout.abort("seen enough")

    def _lost(self, session: Session | None, reason: str) -> None:
        self._session = None
        self._end_scout()
        was_up = session is not None and session.up
        if session is not None:
            session.abort(reason)
        self._outbox.lose()
        if self._closing.is_set():
            self._end()
            return
        if session is not None and not was_up and _REFUSED in reason and self._another_password():
            self._loop.call_later(0.0, self._connect)
            return
        news, self._problem = was_up or reason != self._problem, reason
        endpoint = session.endpoint if session is not None else "?"
        away = session is not None and was_up and self._is_away(session)
        self._next_endpoint = 0 if away else (self._next_endpoint + 1) % len(self._endpoints())
        self._loop.call_later(self._pause_s(was_up=was_up), self._connect)
        if news:
            level = self._level if not was_up else "INFO" if reason == _HOME else "WARNING"
            log(link=self.name, endpoint=endpoint, reason=reason).log(level, "no connection to the broker")
            if self._on_down is not None:
                self._on_down(reason)

    def _another_password(self) -> bool:
        """Turn to the next one; False after all were refused, with the first in its place again."""
        self._passwords = (*self._passwords[1:], self._passwords[0])
        self._refusals = (self._refusals + 1) % len(self._passwords)
        return self._refusals > 0

    def _pause_s(self, *, was_up: bool) -> float:
        """Always a little, so that a fleet does not return in step; longer after each round without success."""
        up_s = time.monotonic() - self._up_since_s
        if was_up and up_s > self._backoff.longest_s:
            self._backoff.reset()
        if was_up and self._home is not None and up_s > HOME_LONGEST_S:
            self._home.reset()
        if was_up or self._next_endpoint == 0:
            return self._backoff.next_s()
        return 0.0


def _only_read(topology: Topology) -> Topology:
    """To see whether a broker has what a link reads there: the queues that are not its own, from their ends on."""
    own = {queue.name for queue in topology.queues}
    return Topology(
        subscriptions=tuple(
            Subscription(one.queue, _ignore, arguments=lambda: {"x-stream-offset": "next"})
            for one in topology.subscriptions
            if one.queue not in own
        )
    )


def _ignore(_delivery: Delivery) -> None:
    """The connection in use reads it."""


def io_thread(name: str) -> IOThread:
    """A thread that several links may share. To be stopped when the last one was closed."""
    return IOThread(IOLoop(), name)
