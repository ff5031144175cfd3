"""A broker in memory, and links to it: the same contract as RabbitMQ's, in microseconds, with faults at the asking.

broker = MemoryBroker()
link = MemoryLink(broker, topology=…); link.start()
broker.cut()                       # every connection breaks; links come back by themselves
broker.stop(); broker.start()      # nobody can connect in between; exclusive queues are gone
broker.delete_queue("q")           # its subscribers are cancelled
broker.block("disk"); broker.unblock()
broker.lose(2)                     # the next two messages vanish, with the connection that brought them
broker.lose_confirms(2)            # the next two are kept, and the connection breaks before their confirm
broker.duplicate(2)                # the next two are there twice
broker.streams["log"].truncate(5)  # retention; `.forget(5)` puts the stream back to five records
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, SimpleQueue

from shared.bus import AnyTopology, Delivery, Outcome, Queue, Subscription, Topology
from shared.outbox import Message, Outbox

RETRY_S = 0.02


@dataclass(frozen=True, slots=True)
class _Stored:
    body: bytes
    exchange: str
    key: str
    user: str


@dataclass
class MemoryStream:
    """Records with offsets from `first` on."""

    records: list[_Stored] = field(default_factory=list)
    first: int = 0

    @property
    def next(self) -> int:
        return self.first + len(self.records)

    def truncate(self, first: int) -> None:
        """Retention: records before offset `first` are gone."""
        self.records = self.records[first - self.first :]
        self.first = first

    def forget(self, count: int) -> None:
        """Another history: only the first `count` records remain, what is appended next takes the old offsets."""
        del self.records[count:]

    def begin(self, offset: object) -> tuple[int, int]:
        """Where to attach and the lowest offset to deliver: out of range is clamped, and filtered all the same."""
        if offset == "first":
            return self.first, self.first
        if offset == "next":
            return self.next, self.next
        if offset == "last":
            last = max(self.first, self.next - 1)
            return last, last
        if not isinstance(offset, int):
            raise TypeError(f"no such offset: {offset!r}")
        return max(self.first, min(offset, self.next)), offset


@dataclass
class _Queue:
    spec: Queue
    owner: "MemoryLink | None"
    bindings: set[tuple[str, str]] = field(default_factory=set)
    messages: deque[_Stored] = field(default_factory=deque)
    stream: MemoryStream | None = None


class _Consumer:
    """A subscription on one connection. All of it under the broker's lock, but for `deliver`."""

    def __init__(self, link: "MemoryLink", session: int, queue: _Queue, subscription: Subscription) -> None:
        self.link, self.session, self.queue, self.subscription = link, session, queue, subscription
        self.unacknowledged: dict[int, _Stored] = {}
        self._tag = 0
        if queue.stream is not None:
            self._at, self._lowest = queue.stream.begin(dict(subscription.arguments()).get("x-stream-offset", "next"))

    def pump(self) -> None:
        while len(self.unacknowledged) < self.subscription.prefetch:
            stored, offset = self._take()
            if stored is None:
                return
            self._tag += 1
            self.unacknowledged[self._tag] = stored
            self.link.later(partial(self._deliver, stored, offset, self._tag))

    def _take(self) -> tuple[_Stored | None, int | None]:
        stream = self.queue.stream
        if stream is None:
            return (self.queue.messages.popleft(), None) if self.queue.messages else (None, None)
        if self._at > stream.next:  # it was put back under an open connection: the reader goes on with what is new
            self._at = max(stream.first, stream.next - 1)
        while self._at < stream.next:
            offset, self._at = self._at, self._at + 1
            if offset >= self._lowest:
                return stream.records[offset - stream.first], offset
        return None, None

    def _deliver(self, stored: _Stored, offset: int | None, tag: int) -> None:
        if self.link.session == self.session:
            headers = {} if offset is None else {"x-stream-offset": offset}
            ack = partial(self.link.later, partial(self._ack, tag))
            self.subscription.on_delivery(
                Delivery(
                    stored.body,
                    stored.exchange,
                    stored.key,
                    "application/json",
                    stored.user or None,
                    headers,
                    offset,
                    ack,
                )
            )

    def _ack(self, tag: int) -> None:
        if self.link.session == self.session:
            with self.link.broker.lock:
                for each in [one for one in self.unacknowledged if one <= tag]:
                    del self.unacknowledged[each]
                self.pump()


class MemoryBroker:
    """Thread-safe. `endpoints` are the addresses that answer."""

    def __init__(self, endpoints: Sequence[str] = ("memory://broker",)) -> None:
        self.lock = threading.RLock()
        self.endpoints = set(endpoints)
        self.blocked: str | None = None
        self._running = True
        self._links: set[MemoryLink] = set()
        self._exchanges: dict[str, str] = {}
        self._queues: dict[str, _Queue] = {}
        self._consumers: list[_Consumer] = []
        self._lose = self._lose_confirms = self._duplicate = 0

    @property
    def streams(self) -> dict[str, MemoryStream]:
        return {name: queue.stream for name, queue in self._queues.items() if queue.stream is not None}

    # ── faults ──

    def cut(self, name: str | None = None) -> None:
        """Break the connections of all links, or of those called `name`."""
        with self.lock:
            for link in [one for one in self._links if name in (None, one.name)]:
                self._drop(link, "the connection was cut")

    def stop(self) -> None:
        with self.lock:
            self._running = False
            self.cut()

    def start(self) -> None:
        self._running = True

    def block(self, reason: str) -> None:
        self.blocked = reason

    def unblock(self) -> None:
        with self.lock:
            self.blocked = None
            for link in self._links:
                link.later(link.flush)

    def lose(self, count: int) -> None:
        self._lose = count

    def lose_confirms(self, count: int) -> None:
        self._lose_confirms = count

    def duplicate(self, count: int) -> None:
        self._duplicate = count

    def delete_queue(self, name: str) -> None:
        with self.lock:
            queue = self._queues.pop(name)
            for consumer in [one for one in self._consumers if one.queue is queue]:
                self._drop(consumer.link, f"the subscription of {name} was cancelled")

    # ── for links ──

    def connect(self, link: "MemoryLink", endpoint: str, session: int) -> None:
        """Raises `ConnectionError` where that cannot be."""
        with self.lock:
            if not self._running or endpoint not in self.endpoints:
                raise ConnectionRefusedError(f"nobody answers at {endpoint}")
            self._exchanges |= {exchange.name: exchange.kind for exchange in link.topology.exchanges}
            for spec in link.topology.queues:
                self._declare(link, spec)
            consumers = []
            for subscription in link.topology.subscriptions:
                queue = self._queues.get(subscription.queue)
                if queue is None:
                    raise ConnectionAbortedError(f"no queue {subscription.queue}")
                consumers.append(_Consumer(link, session, queue, subscription))
            self._links.add(link)
            self._consumers += consumers

    def pump(self) -> None:
        with self.lock:
            for consumer in list(self._consumers):
                consumer.pump()

    def disconnect(self, link: "MemoryLink") -> None:
        """What was delivered and not acknowledged returns to its queue; exclusive queues go."""
        with self.lock:
            self._links.discard(link)
            for consumer in [one for one in self._consumers if one.link is link]:
                self._consumers.remove(consumer)
                if consumer.queue.stream is None:
                    consumer.queue.messages.extendleft(reversed(consumer.unacknowledged.values()))
            self._queues = {name: queue for name, queue in self._queues.items() if queue.owner is not link}
            self.pump()

    def publish(self, link: "MemoryLink", message: Message) -> Outcome | None:
        """The confirm; None where the connection broke instead. Raises `ConnectionError` for an unknown exchange."""
        with self.lock:
            if self._lose:
                self._lose -= 1
                self._drop(link, "the connection was cut")
                return None
            queues = self._route(message)
            copies = 1
            if self._duplicate:
                self._duplicate -= 1
                copies = 2
            for queue in queues * copies:
                stored = _Stored(message.body, message.exchange, message.key, link.user)
                (queue.messages if queue.stream is None else queue.stream.records).append(stored)
            self.pump()
            if self._lose_confirms:
                self._lose_confirms -= 1
                self._drop(link, "the connection was cut")
                return None
            return Outcome.CONFIRMED if queues else Outcome.UNROUTABLE

    def _drop(self, link: "MemoryLink", reason: str) -> None:
        link.session += 1  # from now on nothing of this connection is heard
        self.disconnect(link)
        link.later(partial(link.lost, link.session, reason))

    def _declare(self, link: "MemoryLink", spec: Queue) -> None:
        queue = self._queues.get(spec.name)
        if queue is None:
            stream = MemoryStream() if spec.arguments.get("x-queue-type") == "stream" else None
            queue = self._queues[spec.name] = _Queue(spec, link if spec.exclusive else None, stream=stream)
        elif queue.owner not in (None, link):
            raise ConnectionAbortedError(f"queue {spec.name} is locked by another connection")
        elif dict(queue.spec.arguments) != dict(spec.arguments):
            raise ConnectionAbortedError(f"queue {spec.name} was made with other arguments")
        queue.bindings |= set(spec.bindings)

    def _route(self, message: Message) -> list[_Queue]:
        if not message.exchange:
            return [self._queues[message.key]] if message.key in self._queues else []
        kind = self._exchanges.get(message.exchange)
        if kind is None:
            raise ConnectionAbortedError(f"no exchange {message.exchange}")
        bound = (
            queue
            for queue in self._queues.values()
            for exchange, pattern in queue.bindings
            if exchange == message.exchange and _matches(kind, pattern, message.key)
        )
        return list({id(queue): queue for queue in bound}.values())


class MemoryLink:
    """Implements `shared.bus.Link`; its own thread, like a real one. `session` counts connections, broken ones too."""

    def __init__(
        self,
        broker: MemoryBroker,
        *,
        name: str = "link",
        endpoints: Sequence[str] = ("memory://broker",),
        topology: AnyTopology = Topology(),  # noqa: B008 - immutable
        on_up: Callable[[str], None] | None = None,
        on_down: Callable[[str], None] | None = None,
        user: str = "bellwether",
    ) -> None:
        self.broker, self.name, self.user = broker, name, user
        self._topology = topology if callable(topology) else lambda: topology
        self.topology = self._topology()
        self.session = 0
        self._endpoints = tuple(endpoints)
        self._on_up, self._on_down = on_up, on_down
        self._outbox = Outbox(20_000)
        self._inbox: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._endpoint: str | None = None
        self._tried = 0
        self._retry_at_s: float | None = None
        self._problem = ""
        self._tag = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"memory link {name}", daemon=True)

    @property
    def endpoint(self) -> str | None:
        return self._endpoint

    @property
    def password(self) -> str | None:
        return None if self._endpoint is None else ""

    @property
    def blocked(self) -> str | None:
        return self.broker.blocked

    def start(self) -> None:
        self._inbox.put(self._connect)
        self._thread.start()

    def restart(self, reason: str) -> None:
        def drop() -> None:
            if self._endpoint is not None:
                with self.broker.lock:
                    self.session += 1  # from now on nothing of this connection is heard
                    self.broker.disconnect(self)
                self.lost(self.session, reason)

        self._inbox.put(drop)

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
            self._outbox.abandon()
        else:
            self._inbox.put(self.flush)

    def close(self, timeout_s: float = 5.0) -> None:
        self._inbox.put(None)
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout_s + 1.0)

    def later(self, task: Callable[[], None]) -> None:
        """Any thread. Have the link's thread do `task`."""
        self._inbox.put(task)

    # ── the link's thread ──

    def _run(self) -> None:
        while True:
            next_s = self._outbox.expire(time.monotonic())
            waits = [at_s for at_s in (next_s, self._retry_at_s) if at_s is not None]
            try:
                task = self._inbox.get(timeout=max(0.0, min(waits) - time.monotonic()) if waits else None)
            except Empty:
                if self._retry_at_s is not None and time.monotonic() >= self._retry_at_s:
                    self._connect()
                continue
            if task is None:
                break
            task()
        self._ended.set()
        self._endpoint = None
        with self.broker.lock:
            self.session += 1
            self.broker.disconnect(self)
        self._outbox.accept()
        self._outbox.abandon()

    def _connect(self) -> None:
        self._retry_at_s = None
        endpoint = self._endpoints[self._tried % len(self._endpoints)]
        self._tried += 1
        with self.broker.lock:
            self.session += 1
            self.topology = self._topology()
            try:
                self.broker.connect(self, endpoint, self.session)
            except ConnectionError as error:
                self.lost(self.session, str(error))
                return
            self._endpoint, self._problem = endpoint, ""
        if self._on_up is not None:
            self._on_up(endpoint)
        self.broker.pump()
        self.flush()

    def lost(self, session: int, reason: str) -> None:
        """The connection before `session` broke, or could not be made."""
        if session != self.session:
            return
        news = self._endpoint is not None or reason != self._problem
        self._endpoint, self._problem = None, reason
        self._outbox.lose()
        self._retry_at_s = time.monotonic() + RETRY_S
        if news and self._on_down is not None:
            self._on_down(reason)

    def flush(self) -> None:
        self._outbox.accept()
        if self._endpoint is None:
            self._outbox.lapse()
        if self._endpoint is None or self.broker.blocked is not None:
            return
        session = self.session
        for message in self._outbox.take(time.monotonic()):
            self._tag += 1
            self._outbox.sent(self._tag, message)
            try:
                outcome = self.broker.publish(self, message)
            except ConnectionError as error:
                self.broker.cut(self.name)
                self._problem = str(error)
                return
            if outcome is None or session != self.session:
                return
            self._outbox.confirm(self._tag, multiple=False, outcome=outcome)


def _matches(kind: str, pattern: str, key: str) -> bool:
    if kind == "fanout":
        return True
    return _topic(pattern.split("."), key.split(".")) if kind == "topic" else pattern == key


def _topic(pattern: Sequence[str], words: Sequence[str]) -> bool:
    """`*` is one word, `#` any number of them, none included."""
    if not pattern:
        return not words
    if pattern[0] == "#":
        return any(_topic(pattern[1:], words[start:]) for start in range(len(words) + 1))
    return bool(words) and pattern[0] in ("*", words[0]) and _topic(pattern[1:], words[1:])
