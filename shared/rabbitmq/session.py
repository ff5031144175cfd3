"""One connection to RabbitMQ, from the attempt to its end. On the thread of the link that owns it.

Publishes have a channel of their own, and each subscription has one: an acknowledgement with `multiple` covers a whole
channel, and an error closes one.
"""

from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Any, Protocol
from urllib.parse import urlsplit

import pika
from pika.adapters.select_connection import IOLoop
from pika.exceptions import AMQPError, ConnectionWrongStateError

from shared.bus import Credentials, Outcome, Topology
from shared.consumer import Consumer
from shared.logs import log
from shared.outbox import Message, Outbox
from shared.tls import client_context

Step = Callable[[Callable[[Any], None]], object]
"""Begins one request to the broker; the argument is to be called with the answer."""


class Owner(Protocol):
    """Who is told of it."""

    name: str

    def established(self, session: "Session", /) -> None:
        """The topology stands and the subscriptions run."""

    def lost(self, session: "Session", reason: str, /) -> None:
        """The session has ended, or must end."""

    def wake(self) -> None:
        """There is something to send."""


class Session:
    """See the module. A callback of one that its owner has given up changes nothing."""

    def __init__(self, owner: Owner, loop: IOLoop, outbox: Outbox, endpoint: str, password: str) -> None:
        self.endpoint = endpoint
        self.password = password
        self.up = False
        self.blocked: str | None = None
        self.consumers: list[Consumer] = []
        self._owner, self._loop, self._outbox = owner, loop, outbox
        self._connection: Any = None
        self._channel: Any = None
        self._tag = 0

    def open(self, how: pika.ConnectionParameters, topology: Topology, properties: pika.BasicProperties) -> None:
        self._topology, self._properties = topology, properties
        self._connection = _Connection(
            how,
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
            self._owner.lost(self, "closed")

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
            self._owner.established(self)
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
            consumer = Consumer((yield self._open_channel), subscription, self._owner.wake, self._on_cancelled)
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
            self._owner.lost(self, _reason(error))

    def _on_closed(self, _connection: object, error: BaseException) -> None:
        self._owner.lost(self, _reason(error))

    def _on_cancelled(self, queue: str) -> None:
        self._owner.lost(self, f"the broker cancelled the subscription of {queue}: the queue is gone or has moved")

    def _on_blocked(self, _connection: object, frame: Any) -> None:
        self.blocked = str(frame.method.reason)
        log(link=self._owner.name, reason=self.blocked).warning("the broker takes no messages")

    def _on_unblocked(self, _connection: object, _frame: object) -> None:
        self.blocked = None
        log(link=self._owner.name).info("the broker takes messages again")
        self._owner.wake()

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


def parameters(
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
