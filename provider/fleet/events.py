"""What the hub is told, by whichever thread, through its inbox."""

from collections.abc import Callable
from dataclasses import dataclass

from provider.core.state import Accepted, State
from provider.fleet.instructions import Record


@dataclass(frozen=True, slots=True)
class Heard:
    body: bytes
    user_id: str | None
    astray: bool
    """It came another way than straight from its sender: its `user_id` may be anybody's whose message was taken up."""
    ack: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Applied:
    state: State
    accepted: tuple[Accepted, ...]


@dataclass(frozen=True, slots=True)
class Recorded:
    record: Record
    ok: bool


@dataclass(frozen=True, slots=True)
class Ended:
    """A command has ended, one way or the other."""

    then: Callable[[], None]


@dataclass(frozen=True, slots=True)
class LinkState:
    up: bool


@dataclass(frozen=True, slots=True)
class Advise:
    agent: str


@dataclass(frozen=True, slots=True)
class Stop:
    pass


Event = Heard | Applied | Recorded | Ended | LinkState | Advise | Stop
