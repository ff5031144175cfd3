"""A node's course: the replica, and between it and the log, where need be, a comparison with the node's own history.

Whoever owns it gives it what the log says. As long as store and log belong together all of that is the replica's. After
`compare` the log is read from its beginning, and the replica hears of nothing before the log leads to its state.
"""

from collections.abc import Callable
from dataclasses import dataclass

from provider.core.comparing import Comparison, Past
from provider.core.entries import LogRecord
from provider.core.replica import Append, Instruction, Now, Replica
from provider.core.vouching import Word


@dataclass(slots=True)
class Course:
    """`comparison` is there while the log is compared. `lost`: why this node cannot go on with the log; it then takes
    the state of one that can, and another course begins."""

    replica: Replica
    new_id: Callable[[], str]
    comparison: Comparison | None = None
    lost: str | None = None

    @property
    def word(self) -> Word:
        """What this node says of itself to members that ask."""
        state, chain, lost = self.replica.state, self.replica.following.chain, self.lost is not None
        if chain is None:
            return Word(state.generation, state.epoch, state.revision, lost)
        return Word(state.generation, state.epoch, state.revision, lost, chain.whole, chain.marks)

    def primary_said(self, said_s: float, epoch: int, revision: int) -> None:
        """What a primary that writes has, nobody else has more of: whether the log that is read leads there. It is the
        primary of our state, and said at `said_s` (monotonic) that it has that much, and writes."""
        chain, state = self.replica.following.chain, self.replica.state
        if chain is not None and epoch == state.epoch:
            chain.heard(said_s, revision, state.revision)

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

    def log_down(self, *, reads: bool = False) -> list[Instruction]:
        """See `Replica.log_down`."""
        if self.comparison is not None:
            self.comparison.down()
        return self.replica.log_down(reads=reads)

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
