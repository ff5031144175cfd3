"""Looks at the end of the stream when the record where we stand does not come.

Either the log ends before us, or we read from a replica that lags behind and will have that record soon. A record that
we append now decides it: if it stands at or before our offset, the log is not the one that we read. Anybody else's
record there proves nothing.
"""

import threading
from collections import deque
from collections.abc import Callable
from typing import Protocol

from shared.bus import Delivery, Link, Subscription, Topology

OWN_MAX = 64
"""Most own records that are looked for; the newest."""


class MakeLink(Protocol):
    """Name, topology, on_up(endpoint) and on_down(reason) to a link that is not started."""

    def __call__(
        self, name: str, topology: Topology, on_up: Callable[[str], None], on_down: Callable[[str], None], /
    ) -> Link: ...


class EndProbe:
    """Waits `after_s` seconds, then reads what is new in `stream` on a connection of its own, until it is ended.

    `on_watching` is called once it reads (only records that are `expect`ed afterwards are sure to be seen),
    `on_shorter(offset)` when an expected one stands at or before `offset`. Both on the probe's thread.
    """

    def __init__(
        self,
        *,
        stream: str,
        offset: int,
        make_link: MakeLink,
        after_s: float,
        on_watching: Callable[[], None],
        on_shorter: Callable[[int], None],
    ) -> None:
        self._offset = offset
        self._on_watching, self._on_shorter = on_watching, on_shorter
        self._expected: deque[bytes] = deque(maxlen=OWN_MAX)
        self._lock = threading.Lock()
        self._ended = False
        self._stream, self._make_link = stream, make_link
        self._link: Link | None = None
        self._timer = threading.Timer(after_s, self._begin)
        self._timer.daemon = True

    def start(self) -> None:
        self._timer.start()

    def expect(self, data: bytes) -> None:
        """Any thread. `data` is about to be appended."""
        self._expected.append(data)

    def end(self) -> None:
        """Any thread. Nothing is called afterwards, but for what is under way."""
        with self._lock:
            self._ended = True
            link, self._link = self._link, None
        self._timer.cancel()
        if link is not None:
            link.close(timeout_s=0.0)

    def _begin(self) -> None:
        with self._lock:
            if self._ended:
                return
            end = Subscription(self._stream, self._delivered, arguments=lambda: {"x-stream-offset": "next"})
            self._link = self._make_link("log-end", Topology(subscriptions=(end,)), self._up, _ignore)
            self._link.start()

    def _up(self, _endpoint: str) -> None:
        if not self._ended:
            self._on_watching()

    def _delivered(self, delivery: Delivery) -> None:
        delivery.ack()
        offset = delivery.offset
        if not self._ended and offset is not None and offset <= self._offset and delivery.body in self._expected:
            self._on_shorter(offset)


def _ignore(_reason: str) -> None:
    """The reading link tells of the same trouble."""
