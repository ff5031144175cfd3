"""The agent's connection to the broker, which can move: the new one comes up first, then the old one is closed.

At most two are there at a time, but for what is being closed: the one in use, and one that is being made. That one is
either to be used as soon as it is up (`use`), or only looked at for now (`seek`), until `settle` or `abandon`.

The exclusive queue has a new name for each `Link`, and a link that lost its connection is replaced by a fresh one:
until the broker has noticed the loss, the old name is locked.
"""

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from shared.bus import Credentials, Delivery, Link, Outcome, Queue, Subscription, Topology
from shared.messages import AGENTS_DOWN, TO_ALL

CLOSE_S = 2.0
LINGER_S = 0.5
"""A connection that is replaced stays so much longer: what the broker had put into its queue still arrives. What comes
through both is acted on once, see `Session`."""


class LinkFactory(Protocol):
    """Makes a link that is not started. `quiet`: that it does not come up is nothing to warn of."""

    def __call__(
        self,
        *,
        endpoints: Sequence[str],
        credentials: Credentials,
        topology: Topology,
        on_up: Callable[[str], None],
        on_down: Callable[[str], None],
        quiet: bool,
    ) -> Link: ...


@dataclass(slots=True)
class Attempt:
    """One link. Others tell by it through which connection a message came."""

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

    A lost connection is made anew: `after_losing(endpoint)` says in which order the brokers are tried, and after how
    many seconds.
    """

    def __init__(
        self,
        agent: str,
        make_link: LinkFactory,
        on_delivery: Callable[[Delivery, Attempt], None],
        on_wake: Callable[[], None],
        after_losing: Callable[[str], tuple[Sequence[str], float]],
    ) -> None:
        self._agent = agent
        self._make_link = make_link
        self._on_delivery = on_delivery
        self._on_wake = on_wake
        self._after_losing = after_losing
        self._current: Attempt | None = None
        self._next: Attempt | None = None
        self._sought: Attempt | None = None
        self._wanted: tuple[Sequence[str], Credentials] | None = None
        self._again_at: float | None = None
        self._leaving: list[tuple[float, Attempt]] = []

    def use(self, endpoints: Sequence[str], credentials: Credentials) -> None:
        """Move to the first of `endpoints` that can be reached. The connection before stays until then.

        Raises `ValueError` where the settings cannot be used at all.
        """
        self._wanted = (endpoints, credentials)
        self._begin(endpoints, credentials)

    def seek(self, endpoint: str) -> None:
        """Connect to `endpoint` as well, to see what is heard there."""
        self.abandon()
        if self._wanted is not None:
            self._sought = self._made((endpoint,), self._wanted[1], quiet=True)

    def settle(self) -> None:
        """What was sought is the connection to use, the one before is closed."""
        if self._sought is not None:
            self._close(self._next)
            self._next = self._again_at = None
            self._replace_by(self._sought)
            self._sought = None

    def abandon(self) -> None:
        """Close what was sought."""
        attempt, self._sought = self._sought, None
        self._close(attempt)

    @property
    def found(self) -> bool:
        """Whether what was sought is up."""
        return self._sought is not None and self._sought.endpoint is not None

    def is_in_use(self, attempt: Attempt) -> bool:
        return attempt is self._current

    def is_sought(self, attempt: Attempt) -> bool:
        return attempt is self._sought

    def look(self) -> tuple[str | None, bool]:
        """The endpoint in use, and whether this is another connection than at the last look. Call it now and then."""
        if self._next is not None and self._next.endpoint is not None:
            self._replace_by(self._next)
            self._next = None
        self._let_go()
        current = self._current
        if current is not None and (endpoint := current.endpoint) is not None:
            renewed = current.seen != len(current.ups)
            current.seen = len(current.ups)
            return endpoint, renewed
        if current is not None and current.ups:
            self._lose(current)
        if self._again_at is not None and time.monotonic() >= self._again_at:
            self._again_at = None
            if self._wanted is not None and self._next is None and self._current is None:
                self._begin(*self._wanted)
        return None, False

    def publish(self, exchange: str, key: str, body: bytes, on_done: Callable[[Outcome], None] | None = None) -> None:
        """As `Link.publish`, on the connection in use; without one nothing happens and `on_done` is not called."""
        if self._current is not None and self._current.link is not None:
            self._current.link.publish(exchange, key, body, on_done=on_done)

    def close(self, timeout_s: float) -> None:
        """End everything."""
        for attempt in (self._sought, self._next, self._current, *(attempt for _, attempt in self._leaving)):
            self._close(attempt, timeout_s)
        self._leaving = []
        self._sought = self._next = self._current = None

    @property
    def password(self) -> str | None:
        """The password that the broker took for the connection in use."""
        return self._current.link.password if self._current is not None and self._current.link is not None else None

    def _replace_by(self, attempt: Attempt) -> None:
        if self._current is not None:
            self._leaving.append((time.monotonic() + LINGER_S, self._current))
        self._current = attempt

    def _let_go(self) -> None:
        now_s = time.monotonic()
        for _, attempt in [one for one in self._leaving if one[0] <= now_s]:
            self._close(attempt)
        self._leaving = [one for one in self._leaving if one[0] > now_s]

    def _lose(self, lost: Attempt) -> None:
        self._close(lost)
        self._current = None
        if self._wanted is not None:
            endpoints, wait_s = self._after_losing(lost.ups[-1])
            self._wanted = (endpoints, self._wanted[1])
            self._again_at = time.monotonic() + wait_s

    def _begin(self, endpoints: Sequence[str], credentials: Credentials) -> None:
        self.abandon()
        self._close(self._next)
        self._next = None
        self._next = self._made(endpoints, credentials, quiet=False)

    def _made(self, endpoints: Sequence[str], credentials: Credentials, *, quiet: bool) -> Attempt:
        name = f"agent.{self._agent}.{secrets.token_hex(6)}"
        attempt = Attempt()
        topology = Topology(
            queues=(Queue(name, bindings=((AGENTS_DOWN, self._agent), (AGENTS_DOWN, TO_ALL)), exclusive=True),),
            subscriptions=(Subscription(name, partial(self._deliver, attempt)),),
        )

        def on_up(endpoint: str) -> None:
            attempt.ups.append(endpoint)
            self._on_wake()

        attempt.link = self._make_link(
            endpoints=endpoints,
            credentials=credentials,
            topology=topology,
            on_up=on_up,
            on_down=lambda _reason: self._on_wake(),
            quiet=quiet,
        )
        attempt.link.start()
        return attempt

    def _deliver(self, attempt: Attempt, delivery: Delivery) -> None:
        self._on_delivery(delivery, attempt)

    @staticmethod
    def _close(attempt: Attempt | None, timeout_s: float = CLOSE_S) -> None:
        if attempt is not None and attempt.link is not None:
            attempt.link.close(timeout_s)
