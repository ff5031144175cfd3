"""What a replica is told, and what it wants to be done."""

from dataclasses import dataclass

from provider.core.entries import LogRecord
from provider.core.state import Accepted, Answer, State
from shared.errors import BellwetherError


@dataclass(frozen=True, slots=True)
class Now:
    """The time of an event: `wall_ms` (Unix ms) goes into records, `mono_s` (monotonic seconds) is for deadlines."""

    wall_ms: int
    mono_s: float


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks, and from which address: for the audit."""

    principal: str | None = None
    source: str | None = None


@dataclass(frozen=True, slots=True)
class Append:
    record: LogRecord


@dataclass(frozen=True, slots=True)
class Apply:
    accepted: Accepted


@dataclass(frozen=True, slots=True)
class Done:
    ticket: int
    result: "Answer | BellwetherError | NotPrimary | Progress"


@dataclass(frozen=True, slots=True)
class NotPrimary:
    """Not committed here and never will be: take it to `primary`, under the same idempotency key."""

    primary: str


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a barrier or a promotion has come; `final` says that it has ended."""

    step: str
    state: State
    final: bool = False


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask the other members whether anybody has accepted what the log does not hold; then say `vouched` or `refuse`.
    `about` is the ticket of a promotion, or OWN_WRITES; it is asked for the `connection` of that number alone. With
    `force` what only other members have does not count; what this node's own store has does, and another log too."""

    about: int
    connection: int
    force: bool = False


OWN_WRITES = 0
"""No ticket: a primary that has a new connection asks before it writes."""


@dataclass(frozen=True, slots=True)
class Reread:
    """Begin to read anew, from where we stand: the log has more, and it does not come."""


Instruction = Append | Apply | Done | Ask | Reread
