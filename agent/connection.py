"""The agent's one connection to the broker, which can move: the new one comes up first, then the old one is closed.

The exclusive queue has a new name for each `Link`, and a link that lost its connection is replaced by a fresh one:
until the broker has noticed the loss, the old name is locked.
"""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from shared.bus import Credentials, Delivery, Link, Outcome, Queue, Subscription, Topology
from shared.messages import AGENTS_DOWN, TO_ALL

LinkFactory = Callable[[Sequence[str], Credentials, Topology], Link]
"""Endpoints in order, credentials and topology to a link that is not started."""

CLOSE_S = 2.0


@dataclass(slots=True)
class _Attempt:
    link: Link
    connects: int = 0
    """Counted by the link's thread, each time it sets the subscription up."""
    seen: int = 0
    """The count when `look` last saw it connected."""


class Connection:
    """Used from one thread. `on_delivery` and `on_wake` are called on a link's thread."""

    def __init__(
        self,
        agent: str,
        make_link: LinkFactory,
        on_delivery: Callable[[Delivery], None],
        on_wake: Callable[[], None],
    ) -> None:
        self._agent = agent
        self._make_link = make_link
        self._on_delivery = on_delivery
        self._on_wake = on_wake
        self._current: _Attempt | None = None
        self._next: _Attempt | None = None
        self._settings: tuple[Sequence[str], Credentials] | None = None

    def use(self, endpoints: Sequence[str], credentials: Credentials) -> None:
        """Move to the first of `endpoints` that can be reached. The connection before stays until then.

        Raises `OSError` or `ValueError` where the settings cannot be used at all.
        """
        self._settings = (endpoints, credentials)
        self._replace_next()

    def look(self) -> tuple[str | None, bool]:
        """The endpoint in use, and whether this is another connection than at the last look."""
        if self._next is not None and (endpoint := self._next.link.endpoint) is not None and self._next.connects:
            self._close(self._current)
            self._current, self._next = self._next, None
            self._current.seen = self._current.connects
            return endpoint, True
        current = self._current
        if current is None:
            return None, False
        endpoint = current.link.endpoint
        if endpoint is None:
            if current.seen and self._next is None:
                self._replace_next()
            return None, False
        renewed = current.connects != current.seen
        current.seen = current.connects
        return endpoint, renewed

    def publish(self, exchange: str, key: str, body: bytes, on_done: Callable[[Outcome], None] | None = None) -> None:
        """As `Link.publish`, on the connection in use; without one nothing happens and `on_done` is not called."""
        if self._current is not None:
            self._current.link.publish(exchange, key, body, on_done=on_done)

    def close(self, timeout_s: float) -> None:
        """End everything."""
        for attempt in (self._next, self._current):
            if attempt is not None:
                attempt.link.close(timeout_s)
        self._next = self._current = None

    def _replace_next(self) -> None:
        self._close(self._next)
        self._next = None
        if self._settings is None:
            return
        endpoints, credentials = self._settings
        holder: list[_Attempt] = []

        def arguments() -> dict[str, object]:
            holder[0].connects += 1
            self._on_wake()
            return {}

        name = f"agent.{self._agent}.{secrets.token_hex(6)}"
        bindings = ((AGENTS_DOWN, self._agent), (AGENTS_DOWN, TO_ALL))
        topology = Topology(
            queues=(Queue(name, bindings=bindings, exclusive=True),),
            subscriptions=(Subscription(name, self._on_delivery, arguments=arguments),),
        )
        attempt = _Attempt(self._make_link(endpoints, credentials, topology))
        holder.append(attempt)
        self._next = attempt
        attempt.link.start()

    @staticmethod
    def _close(attempt: _Attempt | None) -> None:
        if attempt is not None:
            attempt.link.close(CLOSE_S)
