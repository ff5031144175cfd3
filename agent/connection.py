"""The agent's one connection to the broker, which can move: the new one comes up first, then the old one is closed.

The exclusive queue has a new name for each `Link`, and a link that lost its connection is replaced by a fresh one:
until the broker has noticed the loss, the old name is locked.
"""

import random
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from shared.bus import Credentials, Delivery, Link, Outcome, Queue, Subscription, Topology
from shared.messages import AGENTS_DOWN, TO_ALL

LinkFactory = Callable[[Sequence[str], Credentials, Topology, Callable[[str], None], Callable[[str], None]], Link]
"""Endpoints in order, credentials, topology, on_up(endpoint) and on_down(reason) to a link that is not started."""

CLOSE_S = 2.0
LINGER_S = 0.5
"""A connection that is replaced stays so much longer: what the broker had put into its queue still arrives. What comes
through both does no harm, being all that there is to know."""


@dataclass(slots=True)
class _Attempt:
    ups: list[str] = field(default_factory=list)
    """The endpoint of each time that it came up; appended by the link's thread."""
    seen: int = 0
    """How many of them `look` has told."""
    link: Link | None = None

    @property
    def endpoint(self) -> str | None:
        return self.link.endpoint if self.link is not None and self.ups else None


class Connection:
    """Used from one thread. `on_delivery` and `on_wake` (call `look` now) are called on a link's thread.

    A lost connection is made anew after up to `stagger_s` seconds, beginning with another endpoint.
    """

    def __init__(
        self,
        agent: str,
        make_link: LinkFactory,
        on_delivery: Callable[[Delivery], None],
        on_wake: Callable[[], None],
        *,
        stagger_s: float,
    ) -> None:
        self._agent = agent
        self._make_link = make_link
        self._on_delivery = on_delivery
        self._on_wake = on_wake
        self._stagger_s = stagger_s
        self._current: _Attempt | None = None
        self._next: _Attempt | None = None
        self._wanted: tuple[Sequence[str], Credentials] | None = None
        self._again_at: float | None = None
        self._leaving: list[tuple[float, _Attempt]] = []

    def use(self, endpoints: Sequence[str], credentials: Credentials) -> None:
        """Move to the first of `endpoints` that can be reached. The connection before stays until then.

        Raises `ValueError` where the settings cannot be used at all.
        """
        self._wanted = (endpoints, credentials)
        self._begin(endpoints, credentials)

    def look(self) -> tuple[str | None, bool]:
        """The endpoint in use, and whether this is another connection than at the last look. Call it now and then."""
        if self._next is not None and self._next.endpoint is not None:
            if self._current is not None:
                self._leaving.append((time.monotonic() + LINGER_S, self._current))
            self._current, self._next = self._next, None
        self._let_go()
        current = self._current
        if current is not None and (endpoint := current.endpoint) is not None:
            renewed = current.seen != len(current.ups)
            current.seen = len(current.ups)
            return endpoint, renewed
        if current is not None and current.ups:
            self._replace(current)
        if self._again_at is not None and time.monotonic() >= self._again_at:
            self._again_at = None
            if self._wanted is not None and self._next is None:
                self._begin(*self._wanted)
        return None, False

    def publish(self, exchange: str, key: str, body: bytes, on_done: Callable[[Outcome], None] | None = None) -> None:
        """As `Link.publish`, on the connection in use; without one nothing happens and `on_done` is not called."""
        if self._current is not None and self._current.link is not None:
            self._current.link.publish(exchange, key, body, on_done=on_done)

    def close(self, timeout_s: float) -> None:
        """End everything."""
        for attempt in (self._next, self._current, *(attempt for _, attempt in self._leaving)):
            self._close(attempt, timeout_s)
        self._leaving = []
        self._next = self._current = None

    @property
    def password(self) -> str | None:
        """The password that the broker took for the connection in use."""
        return self._current.link.password if self._current is not None and self._current.link is not None else None

    def _let_go(self) -> None:
        now_s = time.monotonic()
        for _, attempt in [one for one in self._leaving if one[0] <= now_s]:
            self._close(attempt)
        self._leaving = [one for one in self._leaving if one[0] > now_s]

    def _replace(self, lost: _Attempt) -> None:
        self._close(lost)
        self._current = None
        if self._wanted is not None:
            # What was just lost may be gone for good: first the others, so that no time is lost on it.
            endpoints, credentials = self._wanted
            last = lost.ups[-1]
            self._wanted = (sorted(endpoints, key=lambda one: one == last), credentials)
            # The whole fleet may have lost the same broker in this moment.
            self._again_at = time.monotonic() + random.uniform(0.0, self._stagger_s)  # noqa: S311 - no secret

    def _begin(self, endpoints: Sequence[str], credentials: Credentials) -> None:
        self._close(self._next)
        name = f"agent.{self._agent}.{secrets.token_hex(6)}"
        topology = Topology(
            queues=(Queue(name, bindings=((AGENTS_DOWN, self._agent), (AGENTS_DOWN, TO_ALL)), exclusive=True),),
            subscriptions=(Subscription(name, self._on_delivery),),
        )
        attempt = self._next = _Attempt()

        def on_up(endpoint: str) -> None:
            attempt.ups.append(endpoint)
            self._on_wake()

        attempt.link = self._make_link(endpoints, credentials, topology, on_up, lambda _reason: self._on_wake())
        attempt.link.start()

    @staticmethod
    def _close(attempt: _Attempt | None, timeout_s: float = CLOSE_S) -> None:
        if attempt is not None and attempt.link is not None:
            attempt.link.close(timeout_s)
