"""A subscription on one connection of a link: hands deliveries on, gathers their acknowledgements."""

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from shared.bus import Delivery, Subscription


class Consumer:
    """Has `channel` (pika's) to itself. `acknowledge` may be called from any thread, the rest from the link's.

    `wake` asks for a `flush` soon, on the link's thread. Once `live` is false nothing is delivered any more.
    """

    def __init__(
        self, channel: Any, subscription: Subscription, wake: Callable[[], None], on_cancelled: Callable[[str], None]
    ) -> None:
        self.live = True
        self._channel, self._subscription, self._wake = channel, subscription, wake
        self._on_delivery = subscription.on_delivery
        self._acks: deque[int] = deque()
        self._acknowledged = 0
        channel.add_on_cancel_callback(lambda _frame: on_cancelled(subscription.queue))

    def limit(self, done: Callable[[Any], None]) -> None:
        self._channel.basic_qos(prefetch_count=self._subscription.prefetch, callback=done)

    def begin(self, done: Callable[[Any], None]) -> None:
        arguments = dict(self._subscription.arguments())
        self._channel.basic_consume(self._subscription.queue, self._deliver, arguments=arguments, callback=done)

    def acknowledge(self, tag: int) -> None:
        self._acks.append(tag)
        self._wake()

    def flush(self) -> None:
        """One acknowledgement for all that came together. Those of a lost connection are never looked at."""
        highest = self._acknowledged
        while self._acks:
            highest = max(highest, self._acks.popleft())
        if highest > self._acknowledged and self._channel.is_open:
            self._acknowledged = highest
            self._channel.basic_ack(highest, multiple=True)

    def _deliver(self, _channel: Any, method: Any, properties: Any, body: bytes) -> None:
        if not self.live:
            return  # it came in one packet with an earlier one, on which the connection was given up
        headers = properties.headers or {}
        self._on_delivery(
            Delivery(
                body,
                method.exchange,
                method.routing_key,
                properties.content_type,
                properties.user_id,
                headers,
                headers.get("x-stream-offset"),
                partial(self.acknowledge, method.delivery_tag),
            )
        )
