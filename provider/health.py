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
    store_problem: Unavailable | None
    read_back_s: float
    """When a record of our own was last read back."""
    unreadable: int
    skipped: dict[str, int]
