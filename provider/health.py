"""What the engine knows of itself."""

from dataclasses import dataclass

from shared.errors import Unavailable


@dataclass(frozen=True, slots=True)
class Health:
    """What the engine knows of itself, at one moment. Times are monotonic seconds."""

    connected: bool
    caught_up: bool
    log_problem: str | None
    diverged: str | None
    """Why this node cannot go on with the log."""
    comparing: str | None
    """Why the log is compared with what this node has accepted; `put_back` records were appended for it again."""
    put_back: int
    asking: str | None
    """A primary that may not write before the other members were asked: what it waits for."""
    store_problem: Unavailable | None
    read_back_s: float
    """When a record of our own was last read back."""
    read_s: float
    """When anything was last read from the log."""
    unreadable: int
    skipped: dict[str, int]
