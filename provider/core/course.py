"""A node's course: the replica, and between it and the log, where need be, a comparison with the node's own history.

Whoever owns it gives it what the log says. As long as store and log belong together all of that is the replica's. After
`compare` the log is read from its beginning, and the replica hears of nothing before the log leads to its state.
"""

from collections.abc import Callable
from dataclasses import dataclass

from provider.core.comparing import Comparison, Past
from provider.core.entries import LogRecord
from provider.core.replica import Append, Instruction, Now, Replica


@dataclass(slots=True)
class Course:
    """`comparison` is there while the log is compared. `lost`: why this node cannot go on with the log; it then takes
    the state of one that can, and another course begins."""

    replica: Replica
    new_id: Callable[[], str]
    comparison: Comparison | None = None
    lost: str | None = None

    def compare(self, past: Past) -> None:
        """The log is not the one that was read: from now on it is read from its beginning."""
        replica = self.replica
        comparison = Comparison(replica.node, replica.state, past, self.new_id)
        self.comparison = None if comparison.in_line else comparison
        replica.log_down()

    def log_up(self, now: Now) -> list[Instruction]:
        if self.lost is not None:
            return []
        if self.comparison is None:
            return self.replica.log_up(now)
        return _appends(self.comparison.up(now.wall_ms))

    def log_down(self) -> list[Instruction]:
        if self.comparison is not None:
            self.comparison.down()
        return self.replica.log_down()

    def failed(self, record: LogRecord, now: Now) -> list[Instruction]:
        """See `Replica.failed`."""
        if self.comparison is None:
            return self.replica.failed(record, now)
        return _appends(self.comparison.failed(record, now.wall_ms))

    def read(self, record: LogRecord, now: Now) -> list[Instruction]:
        """The next record of the log."""
        comparison = self.comparison
        if self.lost is not None:
            return []
        if comparison is None:
            return self.replica.read(record, now)
        out = _appends(comparison.read(record, now.wall_ms))
        if comparison.lost is not None:
            self.lost = comparison.lost
        elif comparison.in_line:
            self.comparison = None
            # Reading goes on behind that record; only its end is to be found anew.
            out += self.replica.log_up(now) if comparison.connected else []
        return out


def _appends(records: list[LogRecord]) -> list[Instruction]:
    return [Append(record) for record in records]
