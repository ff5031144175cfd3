"""What the engine needs of a log."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Position:
    """How far the log was read: `offset` of the last record, and `digest` of its bytes, to know it again by."""

    offset: int
    digest: str
