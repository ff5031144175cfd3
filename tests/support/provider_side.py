"""Plays the provider for an agent: hears everything that it says, and speaks to it, over a real broker."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from shared.bus import Credentials, Delivery, Exchange, Outcome, Queue, Subscription, Topology
from shared.messages import AGENTS_DOWN, AGENTS_UP, TO_ALL, Body, Envelope, decode, encode
from shared.rabbitmq import RabbitLink

T = TypeVar("T", bound=Body)
PATIENCE_S = 20.0


class ProviderSide:
    """`heard` is everything since the start, in order. Use from one thread; `close` it."""

    def __init__(self, endpoint: str, credentials: Credentials, *, epoch: int = 1) -> None:
        self.epoch = epoch
        self.heard: list[tuple[Envelope, Body, Delivery]] = []
        self._news = threading.Condition()
        self._up = threading.Event()
        topology = Topology(
            exchanges=(Exchange(AGENTS_DOWN, "topic"), Exchange(AGENTS_UP, "topic")),
            queues=(Queue("provider.test", bindings=((AGENTS_UP, "#"),), exclusive=True),),
            subscriptions=(Subscription("provider.test", self._on_delivery),),
        )
        self._link = RabbitLink(
            name="provider",
            endpoints=[endpoint],
            credentials=credentials,
            topology=topology,
            on_up=lambda _endpoint: self._up.set(),
        )
        self._link.start()
        assert self._up.wait(PATIENCE_S), "the provider's side does not reach the broker"

    def close(self) -> None:
        self._link.close()

    def tell(self, body: Body, *, to: str = "db1", epoch: int | None = None, sender: str = "p1") -> None:
        """Send a message and wait until an agent's queue has it."""
        self.tell_bytes(encode(body, sender=sender, epoch=self.epoch if epoch is None else epoch), to=to)

    def shout(self, body: Body, *, epoch: int | None = None, sender: str = "p1") -> None:
        """Tell all, and do not wait."""
        data = encode(body, sender=sender, epoch=self.epoch if epoch is None else epoch)
        self._link.publish(AGENTS_DOWN, TO_ALL, data)

    def tell_bytes(self, data: bytes, *, to: str = "db1") -> None:
        outcomes: list[Outcome] = []
        done = threading.Event()

        def on_done(outcome: Outcome) -> None:
            outcomes.append(outcome)
            done.set()

        self._link.publish(AGENTS_DOWN, to, data, on_done=on_done, deadline_s=10.0)
        assert done.wait(PATIENCE_S)
        assert outcomes == [Outcome.CONFIRMED]

    def wait_for(self, kind: type[T], accept: Callable[[T], bool] = lambda _body: True, *, after: int = 0) -> T:
        """The first message of `kind` from position `after` of `heard` on that `accept` takes."""
        deadline = time.monotonic() + PATIENCE_S
        with self._news:
            position = after
            while True:
                while position < len(self.heard):
                    body = self.heard[position][1]
                    position += 1
                    if isinstance(body, kind) and accept(body):
                        return body
                left_s = deadline - time.monotonic()
                if left_s <= 0 or not self._news.wait(left_s):
                    said = [f"{type(body).__name__}" for _, body, _ in self.heard[after:]][-10:]
                    raise AssertionError(f"no such {kind.__name__} within {PATIENCE_S} s; heard {said}")

    @property
    def now(self) -> int:
        """The position behind everything heard so far, for `after`."""
        return len(self.heard)

    def _on_delivery(self, delivery: Delivery) -> None:
        envelope, body = decode(delivery.body)
        delivery.ack()
        with self._news:
            self.heard.append((envelope, body, delivery))
            self._news.notify_all()
