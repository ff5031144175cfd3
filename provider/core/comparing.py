"""A log that is not the one that this node has read, compared with what the node has accepted.

It is read from its beginning beside the node's own history. `known` is the revision that a node would have that began
with us and read only this log: the next record of ours counts, or one that the rules accept there in its place.

    what stands in the log behind `known`          what follows
    the next record of ours                         `known` is one more; at our own revision we are in line
    another record, accepted in its place           LOST: the others have gone on without what we hold
    nothing                                         we put back what is missing, unaltered and in order, and read on
    the log begins after us                         LOST: what is between is not in this log

Putting back is harmless however often it is done, and by however many nodes: a record that a reader has accepted is
skipped. DESIGN.md says why nothing acknowledged is lost by it. Pure, like everything here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from provider.core.entries import Barrier, Claim, Entry, LogRecord
from provider.core.state import State

PUT_BACK_MAX = 10_000
"""Of a log that holds nothing of ours: only so many of our newest records are put back. A node that is further behind
takes a snapshot."""
AT_ONCE = 500
"""Records that are put back before it is looked whether they have arrived."""


@dataclass(frozen=True, slots=True)
class Kept:
    """One record of the node's own history; `epoch`: after it."""

    record: Entry | Claim
    epoch: int


class Past(Protocol):
    """The node's own history: revisions without a gap up to that of its state, or none."""

    def oldest(self) -> int | None:
        """The lowest revision that it has."""

    def at(self, revision: int) -> Kept | None:
        """The record of that revision; None where it is not kept."""

    def claim(self, ends: int) -> int | None:
        """The revision of the claim that ended that epoch; None where it is not kept."""


@dataclass(slots=True)
class Comparison:
    """Feed it `up`, `down`, `read`, `failed`; append what they give. `in_line` and `lost` say how it ended."""

    node: str
    state: State
    past: Past
    new_id: Callable[[], str]
    known: int | None = None
    """Revision up to which this log holds what we have accepted; None: nothing of ours was found yet."""
    in_line: bool = False
    """The log leads to our state, and what is read from now on follows it."""
    lost: str | None = None
    """Why this node cannot go on with this log."""
    missing_from: int | None = None
    """With `lost`: the lowest revision of ours in whose place others have accepted something else, if that is so."""
    put_back: int = 0
    """Records that were appended, repetitions included."""
    _epoch: int = 0
    """After `known`."""
    _strange: tuple[int, float] = (0, 0.0)
    """While nothing of ours was found: the highest (epoch, number) of a record that is none of ours."""
    _barrier: Barrier | None = None
    connected: bool = False

    def __post_init__(self) -> None:
        # Who has never accepted anything has nothing to compare.
        self.in_line = self.state.revision <= 1

    def up(self, wall_ms: int) -> list[LogRecord]:
        """The log can be written: find its end."""
        self.connected = True
        return self._to_the_end(wall_ms)

    def down(self) -> None:
        self.connected, self._barrier = False, None

    def failed(self, record: LogRecord, wall_ms: int) -> list[LogRecord]:
        """An append is not confirmed. What was put back is looked at when the barrier behind it is read."""
        if self.connected and self._barrier is not None and record.id == self._barrier.id:
            return self._to_the_end(wall_ms)
        return []

    def read(self, record: LogRecord, wall_ms: int) -> list[LogRecord]:
        """The next record of the log. What is to be appended."""
        if record.generation != self.state.generation:
            return []
        if isinstance(record, Barrier):
            ours = self._barrier is not None and record.id == self._barrier.id
            return self._end_reached(wall_ms) if ours else []
        if self.known is None:
            self._look_for(record)
        else:
            self._follow(record, self.known)
        return []

    # ── what is read ──

    def _look_for(self, record: Entry | Claim) -> None:
        """Nothing of ours was found yet: the log may begin anywhere."""
        claim = isinstance(record, Claim)
        revision = self.past.claim(record.ends) if isinstance(record, Claim) else record.seq
        kept = self.past.at(revision) if revision is not None else None
        if revision is not None and kept is not None and kept.record == record:
            if not self._cannot_tell(record, revision):
                self._is_known(revision, kept.epoch)
            return
        if self._alone:
            return  # what others have not written is ours: a record that we had not read back when we were stopped
        number = (record.ends, float("inf")) if isinstance(record, Claim) else (record.epoch, float(record.seq))
        self._strange = max(number, self._strange)
        if number > (self.state.epoch, self.state.revision):
            # Beyond us, and nothing that leads there: retention has removed the log's beginning.
            first = f"the end of epoch {number[0]}" if claim else f"revision {number[1]:.0f} of epoch {number[0]}"
            self.lost = (
                f"truncated: the log begins with {first}, and this node has read up to revision {self.state.revision} "
                f"of epoch {self.state.epoch}"
            )

    def _cannot_tell(self, record: Entry | Claim, revision: int) -> bool:
        """Whether somebody may have accepted something else in the place of this record of ours, or before."""
        if self._strange < (_epoch_before(record), float(revision)):
            return False
        self.lost = (
            f"regressed: before revision {revision} the log holds what this node never read, and what was before that "
            "is gone"
        )
        return True

    @property
    def _alone(self) -> bool:
        return [node.id for node in self.state.of("node")] == [self.node]

    def _follow(self, record: Entry | Claim, known: int) -> None:
        kept = self.past.at(known + 1)
        if kept is None:  # pruned meanwhile
            self.known = None
            self._look_for(record)
        elif kept.record == record:
            self._is_known(known + 1, kept.epoch)
        elif self._accepted(record, known):
            what = f"claim of {record.node}" if isinstance(record, Claim) else f"record of {record.node}"
            self.missing_from = known + 1
            self.lost = (
                f"regressed: the log holds another record (a {what}) in place of revision {known + 1} that this node "
                f"has: the others have gone on without its revisions {known + 1} to {self.state.revision}"
            )

    def _accepted(self, record: Entry | Claim, known: int) -> bool:
        """Whether whoever has read this log up to `known` accepts `record`: the rules of `state.step`."""
        if isinstance(record, Entry):
            return record.epoch == self._epoch and record.seq == known + 1
        return record.ends == self._epoch and record.node in self._members(known)

    def _members(self, known: int) -> set[str]:
        """Who was a member at that revision: our state, with what came after it undone. Names never come back."""
        members = {node.id for node in self.state.of("node")}
        for revision in range(known + 1, self.state.revision + 1):
            kept = self.past.at(revision)
            if kept is None or isinstance(kept.record, Claim):
                continue
            for commit in kept.record.commits:
                before = commit.before or (1,) * len(commit.changes)
                for change, was in zip(commit.changes, before, strict=True):
                    if change.kind == "node" and change.spec is None:
                        members.add(change.id)
                    elif change.kind == "node" and was == 0:
                        members.discard(change.id)
        return members

    def _is_known(self, revision: int, epoch: int) -> None:
        self.known, self._epoch = revision, epoch
        self.in_line = revision >= self.state.revision

    # ── its end ──

    def _to_the_end(self, wall_ms: int) -> list[LogRecord]:
        self._barrier = Barrier(id=self.new_id(), generation=self.state.generation, node=self.node, at=wall_ms)
        return [self._barrier]

    def _end_reached(self, wall_ms: int) -> list[LogRecord]:
        """All that is in the log was read, and it does not lead to our state: put back what is missing."""
        self._barrier = None
        if self.in_line or self.lost is not None:
            return []
        known = self.known if self.known is not None else self._from_nothing()
        if self.in_line or self.lost is not None:
            return []
        missing: list[LogRecord] = []
        for revision in range(known + 1, min(known + AT_ONCE, self.state.revision) + 1):
            kept = self.past.at(revision)
            if kept is None:  # pruned meanwhile: begin with what is left
                self.known = None
                return self._to_the_end(wall_ms)
            missing.append(kept.record)
        self.put_back += len(missing)
        return missing + self._to_the_end(wall_ms)

    def _from_nothing(self) -> int:
        """The log holds nothing of ours and nothing beyond us: it begins with what we put into it."""
        newest = self.state.revision
        first = max(self.past.oldest() or newest + 1, newest + 1 - PUT_BACK_MAX)
        kept = self.past.at(first)
        if kept is None:
            self._is_known(newest, self.state.epoch)
        elif not self._cannot_tell(kept.record, first):
            self._is_known(first - 1, _epoch_before(kept.record))
        return first - 1


def _epoch_before(record: Entry | Claim) -> int:
    """The epoch of whoever can accept it."""
    return record.ends if isinstance(record, Claim) else record.epoch
