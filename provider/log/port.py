"""What the engine needs of a log."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from shared.bus import Outcome


@dataclass(frozen=True, slots=True)
class Position:
    """How far the log was read: `offset` of the last record, and `digest` of its bytes, to know it again by."""

    offset: int
    digest: str
    """SHA-256, hex."""


class LogSink(Protocol):
    """Who reads the log. Called on the log's threads, must return at once (put it on a queue)."""

    def on_read(self, offset: int, data: bytes, ack: Callable[[], None]) -> None:
        """The next record, in log order, each offset once. `ack` (any thread, any time, also too late) covers all
        before it as well; only so many unacknowledged ones are delivered."""

    def on_append(self, token: object, outcome: Outcome) -> None:
        """What became of an append. UNKNOWN: it may be in the log, or may yet come to be. Once per append."""

    def on_up(self) -> None:
        """The log can be written and is being read; append a barrier to know when its end was reached."""

    def on_down(self, reason: str, *, reads: bool = False) -> None:
        """It cannot be written, or is not being read, for `reason`. Told again whenever the reason is another. `reads`:
        reading goes on, over the same connection as before."""

    def on_diverged(self, reason: str) -> None:
        """Position and log do not belong together; nothing more will be delivered. `reason` begins with "truncated"
        (the log begins after us) or "regressed" (it ends before us, or holds something else where we stand)."""


class Log(Protocol):
    """The one ordered sequence of records. All methods: any thread."""

    def start(self, position: Position | None, sink: LogSink, *, anywhere: bool = False) -> None:
        """Read on after `position`, or from the beginning: that is the very first record, or with `anywhere` the first
        that retention has left. Returns at once; connects for as long as it lives."""

    def append(self, data: bytes, token: object, deadline_s: float) -> None:
        """Add a record, over the connection that there is; the outcome arrives at the latest `deadline_s` seconds from
        now. Never blocks. Records are in the log in the order of their appends, while the connection lasts."""

    def reread(self, reason: str) -> None:
        """Begin to read anew from where it stands, on another connection: `on_down`, then `on_up`."""

    def close(self) -> None:
        """Stop; outstanding appends end UNKNOWN, nothing is delivered afterwards. Idempotent."""

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Of the brokers to which its connections lead, those that are up."""

    @property
    def readable(self) -> bool:
        """Whether it is being read."""

    @property
    def blocked(self) -> str | None:
        """Why the broker takes no records although connected (out of memory or disk); None while it does."""

    @property
    def writable(self) -> bool:
        """Whether there is a connection for appends."""
