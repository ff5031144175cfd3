"""The adapter to RabbitMQ, and the only module that imports pika.

One thread runs pika's I/O loop for as long as the link lives; connections come and go on it. Other threads reach it by
putting something on a queue and waking the loop: published messages, acknowledgements, the wish to close. Each
connection is a `_Session`; a callback of a former one is ignored, so nothing of a lost connection reaches the next.

Publishes have a channel of their own, and each subscription has one: an acknowledgement with `multiple` covers a whole
channel, and an error closes one.
"""

import threading
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import pika
from pika.adapters.select_connection import IOLoop
from pika.exceptions import AMQPError, ConnectionWrongStateError

from shared.backoff import Backoff
from shared.bus import Credentials, Outcome, Topology
from shared.consumer import Consumer
from shared.iothread import IOThread
from shared.logs import log
from shared.outbox import Message, Outbox
from shared.tls import client_context

_REFUSED = "ACCESS_REFUSED"
"""What RabbitMQ says to a wrong password (AMQP 403)."""
Step = Callable[[Callable[[Any], None]], object]
"""Begins one request to the broker; the argument is to be called with the answer."""


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
    `thread` (see `io_thread`) is one that other links use too: then `close` does not wait.
    """

    def __init__(
        self,
        *,
        name: str,
        endpoints: Sequence[str] | Callable[[], Sequence[str]],
        credentials: Credentials,
        topology: Topology = Topology(),  # noqa: B008 - immutable
        on_up: Callable[[str], None] | None = None,
        on_down: Callable[[str], None] | None = None,
        heartbeat_s: int = 10,
        connect_timeout_s: float = 10.0,
        backoff: Backoff | None = None,
        stamp_user: bool = True,
        limit: int = 20_000,
        quiet: bool = False,
        thread: IOThread | None = None,
    ) -> None:
        self.name = name
        self._endpoints = endpoints if callable(endpoints) else partial(tuple, endpoints)
        if not self._endpoints():
            raise ValueError("a link needs at least one endpoint")
        self._credentials, self._topology = credentials, topology
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
        self._session: _Session | None = None
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
    ) -> None:
        self._outbox.put(Message(exchange, key, body, on_done, time.monotonic() + deadline_s))
        if self._ended.is_set():
            self._outbox.abandon()  # there is no thread any more that would
        else:
            self.wake()

    def wake(self) -> None:
        """Have the link's thread look at what was published and acknowledged; many calls at once make one look."""
        if not self._waking:
            self._waking = True
            self._loop.add_callback_threadsafe(self._flush)

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
        session = self._session = _Session(self, self._loop, self._outbox, endpoint, self._passwords[0])
        try:
            credentials = replace(self._credentials, password=session.password)
            parameters = _parameters(endpoint, credentials, self._heartbeat_s, self._connect_timeout_s)
        except OSError as error:  # the CA file cannot be read: perhaps it is being replaced
            self._lost(session, f"cannot use {self._credentials.ca_file}: {error}")
            return
        self._loop.call_later(self._connect_timeout_s, partial(self._too_slow, session))
        session.open(parameters, self._topology, self._properties)

    def _too_slow(self, session: "_Session") -> None:
        if session is self._session and not session.up:
            self.lost(session, f"no connection within {self._connect_timeout_s:g} s")

    def established(self, session: "_Session") -> None:
        """The topology stands and the subscriptions run."""
        if session is not self._session:
            return
        session.up, self._problem, self._refusals = True, None, 0
        self._up_since_s = time.monotonic()
        log(link=self.name, endpoint=session.endpoint).info("connected to the broker")
        if self._on_up is not None:
            self._on_up(session.endpoint)
        self._flush()
        self._listen(session, -1)

    def _listen(self, session: "_Session", heard: int, silences: int = 0) -> None:
        """Every half heartbeat. pika has a check of its own, which takes up to twice (heartbeat + 5 s)."""
        if session is not self._session or not session.up:
            return
        now_heard = session.bytes_received
        silences = silences + 1 if now_heard == heard else 0
        if silences > 1:
            self.lost(session, f"the broker has been silent for {self._heartbeat_s} s")
        else:
            self._loop.call_later(self._heartbeat_s / 2, partial(self._listen, session, now_heard, silences))

    def lost(self, session: "_Session", reason: str) -> None:
        """The session has ended, or must end."""
        if session is self._session:
            self._lost(session, reason)

    def _lost(self, session: "_Session | None", reason: str) -> None:
        self._session = None
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
        self._next_endpoint = (self._next_endpoint + 1) % len(self._endpoints())
        self._loop.call_later(self._pause_s(was_up=was_up), self._connect)
        if news:
            level = "WARNING" if was_up else self._level
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
        if was_up and time.monotonic() - self._up_since_s > self._backoff.longest_s:
            self._backoff.reset()
        if was_up or self._next_endpoint == 0:
            return self._backoff.next_s()
        return 0.0


class _Session:
    """One connection, from the attempt to its end."""

    def __init__(self, link: RabbitLink, loop: IOLoop, outbox: Outbox, endpoint: str, password: str) -> None:
        self.endpoint = endpoint
        self.password = password
        self.up = False
        self.blocked: str | None = None
        self.consumers: list[Consumer] = []
        self._link, self._loop, self._outbox = link, loop, outbox
        self._connection: Any = None
        self._channel: Any = None
        self._tag = 0

    def open(self, parameters: pika.ConnectionParameters, topology: Topology, properties: pika.BasicProperties) -> None:
        self._topology, self._properties = topology, properties
        self._connection = _Connection(
            parameters,
            on_open_callback=self._on_open,
            on_open_error_callback=self._on_closed,
            on_close_callback=self._on_closed,
            custom_ioloop=self._loop,
        )
        self._connection.add_on_connection_blocked_callback(self._on_blocked)
        self._connection.add_on_connection_unblocked_callback(self._on_unblocked)

    @property
    def bytes_received(self) -> int:
        return int(self._connection.bytes_received)

    def send(self, message: Message) -> None:
        self._tag += 1
        self._properties.message_id = str(self._tag)  # a returned message carries no tag, but its properties
        self._outbox.sent(self._tag, message)
        self._channel.basic_publish(message.exchange, message.key, message.body, self._properties, mandatory=True)

    def close(self) -> None:
        """Say goodbye; `lost` follows."""
        self.up = False
        try:
            self._connection.close()
        except ConnectionWrongStateError:
            self._link.lost(self, "closed")

    def abort(self, reason: str) -> None:
        """Cut the connection, without a word to the broker: it may hang. Nothing of it is heard any more."""
        self.up = False
        for consumer in self.consumers:
            consumer.live = False
        connection, self._connection = self._connection, None
        if connection is not None and not connection.is_closed:
            # pika's public way to end a connection waits for the broker; its own heartbeat uses this one.
            connection._terminate_stream(AMQPError(reason))

    def _on_open(self, _connection: object) -> None:
        if self._connection is not None:
            self._advance(self._set_up(), None)

    def _advance(self, steps: Generator[Step, Any, None], answer: object) -> None:
        """Take the broker's answer to one step and begin the next."""
        if self._connection is None:
            return
        try:
            step = steps.send(answer)
        except StopIteration:
            self._link.established(self)
        else:
            step(partial(self._advance, steps))

    def _set_up(self) -> Generator[Step, Any, None]:
        channel = yield self._open_channel
        yield partial(_call, partial(channel.confirm_delivery, self._on_confirm))
        channel.add_on_return_callback(self._on_return)
        for exchange in self._topology.exchanges:
            declare = partial(channel.exchange_declare, exchange.name, exchange_type=exchange.kind, durable=True)
            yield partial(_call, declare)
        for queue in self._topology.queues:
            options = {"durable": queue.durable, "exclusive": queue.exclusive, "arguments": dict(queue.arguments)}
            yield partial(_call, partial(channel.queue_declare, queue.name, **options))
            for exchange_name, key in queue.bindings:
                yield partial(_call, partial(channel.queue_bind, queue.name, exchange_name, routing_key=key))
        self._channel = channel
        for subscription in self._topology.subscriptions:
            consumer = Consumer((yield self._open_channel), subscription, self._link.wake, self._on_cancelled)
            self.consumers.append(consumer)
            yield consumer.limit
            yield consumer.begin

    def _open_channel(self, done: Callable[[Any], None]) -> None:
        def opened(channel: Any) -> None:
            channel.add_on_close_callback(self._on_channel_closed)
            done(channel)

        self._connection.channel(on_open_callback=opened)

    def _on_channel_closed(self, _channel: object, error: BaseException) -> None:
        if self._connection is not None and not self._connection.is_closing:  # else the connection's end follows
            self._link.lost(self, _reason(error))

    def _on_closed(self, _connection: object, error: BaseException) -> None:
        self._link.lost(self, _reason(error))

    def _on_cancelled(self, queue: str) -> None:
        self._link.lost(self, f"the broker cancelled the subscription of {queue}: the queue is gone or has moved")

    def _on_blocked(self, _connection: object, frame: Any) -> None:
        self.blocked = str(frame.method.reason)
        log(link=self._link.name, reason=self.blocked).warning("the broker takes no messages")

    def _on_unblocked(self, _connection: object, _frame: object) -> None:
        self.blocked = None
        log(link=self._link.name).info("the broker takes messages again")
        self._link.wake()

    def _on_confirm(self, frame: Any) -> None:
        if self.up:
            method = frame.method
            outcome = Outcome.CONFIRMED if method.NAME == "Basic.Ack" else Outcome.REJECTED
            self._outbox.confirm(method.delivery_tag, multiple=method.multiple, outcome=outcome)

    def _on_return(self, _channel: object, _method: object, properties: Any, _body: bytes) -> None:
        if self.up:
            self._outbox.returned(int(properties.message_id))


class _Connection(pika.SelectConnection):  # type: ignore[misc]
    """pika writes method, header and body of a message one by one: with TLS three records, three packets. Not here."""

    def _output_marshaled_frames(self, marshaled_frames: Sequence[bytes]) -> None:
        super()._output_marshaled_frames([b"".join(marshaled_frames)])


def io_thread(name: str) -> IOThread:
    """A thread that several links may share. To be stopped when the last one was closed."""
    return IOThread(IOLoop(), name)


def _parameters(
    endpoint: str, credentials: Credentials, heartbeat_s: int, timeout_s: float
) -> pika.ConnectionParameters:
    """Raises `OSError` where the CA file cannot be read."""
    url = urlsplit(endpoint)
    secure = url.scheme == "amqps"
    options = pika.SSLOptions(client_context(credentials.ca_file), url.hostname) if secure else None
    return pika.ConnectionParameters(
        host=url.hostname or "localhost",
        port=url.port or (5671 if secure else 5672),
        virtual_host=credentials.vhost,
        credentials=pika.PlainCredentials(credentials.username, credentials.password),
        ssl_options=options,
        heartbeat=heartbeat_s,
        connection_attempts=1,  # trying again is ours
        socket_timeout=2 * timeout_s,
        stack_timeout=2 * timeout_s,  # never: the link's own timer comes first
        # Sent and not acknowledged by the peer's kernel for this long: it is gone (tcp(7); milliseconds).
        tcp_options={"TCP_USER_TIMEOUT": heartbeat_s * 1000},
    )


def _call(request: Callable[..., object], done: Callable[[Any], None]) -> None:
    """One of pika's requests as a step."""
    request(callback=done)


def _reason(error: BaseException) -> str:
    """pika wraps what happened in what it means, several times over; the innermost text is what an operator needs."""
    if isinstance(error, AMQPError) and len(error.args) == 2 and isinstance(error.args[0], int):
        return f"{error.args[1]} (AMQP {error.args[0]})"
    causes = getattr(error, "exceptions", None) or [getattr(error, "exception", None), *error.args]
    inner = [one for one in causes if isinstance(one, BaseException)]
    return _reason(inner[-1]) if inner else str(error) or repr(error)
