"""The port to the message broker: what the rest of the code may ask of it.

A `Link` is one connection that heals itself. It owns one I/O thread; every callback runs on that thread and must be
short (put the thing on a queue and return), because a long one starves heartbeats. Everything else on a `Link` may be
called from any thread.

`shared.rabbitmq` is the adapter to RabbitMQ. The tests have an in-memory one that passes the same contract tests.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol


class Outcome(Enum):
    """How a publish ended."""

    CONFIRMED = "confirmed"  # the broker has it (for a stream: a majority has written it, not fsynced)
    UNROUTABLE = "unroutable"  # no queue was bound for it; nobody will ever see it
    REJECTED = "rejected"  # the broker refused it (nack)
    UNKNOWN = "unknown"  # the connection broke or the deadline passed: it may or may not be there

    @property
    def ok(self) -> bool:
        return self is Outcome.CONFIRMED


@dataclass(frozen=True, slots=True)
class Exchange:
    """A durable exchange of type `kind` ("topic", "fanout", "direct")."""

    name: str
    kind: str


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue to declare. `bindings` are (exchange, key) pairs. Exclusive ones go with the connection."""

    name: str
    arguments: Mapping[str, object] = field(default_factory=dict)
    bindings: Sequence[tuple[str, str]] = ()
    durable: bool = False
    exclusive: bool = False


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message as it arrived. `offset` is set for a stream only; `user_id` is broker-verified when set."""

    body: bytes
    exchange: str
    """Where it was published; a dead letter: where it was sent to."""
    key: str
    content_type: str | None
    user_id: str | None
    headers: Mapping[str, object]
    offset: int | None
    ack: Callable[[], None]
    """Acknowledges this delivery and all before it on the subscription. Any thread, any time, also too late.
    At most `prefetch` deliveries are outstanding: acknowledging is what lets more come."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """A consumer. `arguments` is called at each (re)connect, so that a stream reader resumes where it stands."""

    queue: str
    on_delivery: Callable[[Delivery], None]
    prefetch: int = 100
    arguments: Callable[[], Mapping[str, object]] = dict


@dataclass(frozen=True, slots=True)
class Topology:
    """What a link declares and consumes each time it connects, in this order."""

    exchanges: Sequence[Exchange] = ()
    queues: Sequence[Queue] = ()
    subscriptions: Sequence[Subscription] = ()


AnyTopology = Topology | Callable[[], Topology]
"""A function is asked for each connection: its queues can have other names than those of the one before, which are
locked until the broker has noticed that it is gone."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who connects, and whom it trusts. `ca_file` is a PEM file; the endpoint's name is verified against it."""

    username: str
    password: str = field(repr=False)
    ca_file: str
    vhost: str = "bellwether"
    others: tuple[str, ...] = field(default=(), repr=False)
    """Passwords that are tried, in turn, where the broker refuses `password`: while it is being changed."""


class Link(Protocol):
    """One self-healing connection. Tries each endpoint in turn, for ever, with jittered backoff."""

    def start(self) -> None:
        """Begin connecting; returns at once."""

    def close(self, timeout_s: float = 5.0) -> None:
        """End the connection and its thread. Outstanding publishes end UNKNOWN. Idempotent."""

    def restart(self, reason: str) -> None:
        """Give up the connection in use, if there is one, and make another; `on_down(reason)` is called. For whoever
        can tell that it is of no use although it stands."""

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
        """Send one persistent, mandatory message. Never blocks. `on_done` is called exactly once, on the link's
        thread: at the latest `deadline_s` after the call, also while there is no connection. One that is not `lasting`
        is for the connection that there is: it is not kept for the next, and ends UNKNOWN."""

    @property
    def endpoint(self) -> str | None:
        """The endpoint in use, or None while there is no connection."""

    @property
    def password(self) -> str | None:
        """The password that the broker took for the connection in use; None while there is no connection."""

    @property
    def blocked(self) -> str | None:
        """Why the broker takes no messages (out of memory or disk); None while it does."""
