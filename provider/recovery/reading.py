"""Which log the engine reads, and what for: to follow it, or to compare it with what this node has accepted."""

from collections.abc import Callable, Sequence
from uuid import uuid4

from provider.core.commands import first_revision
from provider.core.course import Course
from provider.core.entries import LogRecord
from provider.core.instructions import Instruction, Now
from provider.core.replica import Replica
from provider.core.state import Accepted, State
from provider.core.vouching import Word
from provider.inbox import Ear, Event
from provider.log.port import Log, Position
from provider.recovery.past import StoredPast
from provider.states import NO_WRITES
from provider.store import Store
from shared.errors import DiskFull, LogUnavailable, Unavailable
from shared.logs import log


class Reading:
    """On the engine's thread; what is public may be looked at from any."""

    def __init__(
        self,
        *,
        node: str,
        state: State,
        store: Store,
        make_log: Callable[[str], Log],
        put: Callable[[Event], None],
    ) -> None:
        """`make_log(generation)` gives a log that is not started; what it says is `put` into the engine's inbox."""
        self._node, self._store, self._make_log, self._put = node, store, make_log, put
        self.cautious = False
        """Whether other members are asked; see `Replica`."""
        self._number = 1
        self.log = make_log(state.generation)
        self.course = self._new_course(state)
        self.loss_seen = False
        """The brokers have lost the end of the log since this node started, and not all members were asked yet."""
        self.compares: str | None = None
        """Why the log is compared with what this node has accepted."""
        self.put_back = 0
        """Records that were appended for it once more."""
        self.lost: str | None = None
        """Why this node cannot go on with the log."""
        self.missing_from: int | None = None
        """With `lost`: the lowest revision of this node's in whose place others have accepted another."""

    @property
    def connected(self) -> bool:
        """Whether the log can be written and read, be it only to compare it."""
        comparison = self.course.comparison
        return self.course.replica.connected if comparison is None else comparison.connected

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Of the brokers to which its connections lead, those that are up."""
        return self.log.endpoints

    @property
    def blocked(self) -> str | None:
        """Why the broker takes no records although connected."""
        reason = self.log.blocked
        return f"{NO_WRITES} ({reason})" if reason is not None else None

    @property
    def refusal(self) -> Unavailable | None:
        """Why nothing can be written to the log at the moment."""
        if self.lost is not None:
            return LogUnavailable(self.lost)
        blocked = self.blocked
        if blocked is None:
            return None
        return DiskFull(
            f"{blocked}; nothing was done. Make room (`rabbitmq-diagnostics alarms` on a provider's host says where): "
            "it resumes by itself"
        )

    @property
    def word(self) -> Word:
        """What this node says of itself."""
        return self.course.word

    def begin(self, position: Position | None) -> None:
        self.log.start(position, Ear(self._number, self._put))

    def is_of(self, number: int) -> bool:
        """Whether the log of that number is the one that is read now; else what it says is late."""
        return number == self._number

    def compare(self, reason: str, unsaved: Sequence[Accepted]) -> None:
        """The log is not the one that was read. It is read from its beginning, beside what this node has accepted."""
        state = self.course.replica.state
        log(reason=reason, revision=state.revision).warning(
            "the log is not the one that this node has read: comparing it with what this node has accepted"
        )
        if reason.startswith("regressed"):
            self.loss_seen = True
        self.course.compare(StoredPast(self._store, unsaved, first_revision(state)))
        self.compares = reason if self.course.comparison is not None else None
        self._open(state.generation, None, anywhere=True)

    def read(self, record: LogRecord, unsaved: Sequence[Accepted], now: Now) -> list[Instruction]:
        """The next record, while the log is compared. Afterwards `compares` is None where this has come to its end."""
        comparison, reason = self.course.comparison, self.compares
        if comparison is None or reason is None:
            return []
        try:
            out = self.course.read(record, now)
        except Unavailable as error:  # the store, which has the history
            log(why=error.detail).warning("this node's history cannot be read; the comparison begins anew")
            self.compare(reason, unsaved)
            return []
        self.put_back = comparison.put_back
        if self.course.comparison is None:
            self.compares = None
            log(revision=comparison.state.revision, put_back=comparison.put_back).warning(
                "the log leads to what this node has accepted: it goes on"
            )
        elif self.course.lost is not None:
            self._give_up(self.course.lost, comparison.missing_from)
        return out

    def _give_up(self, why: str, missing_from: int | None) -> None:
        log(reason=why).error("this node cannot go on with the log")
        self.compares, self.lost, self.missing_from = None, why, missing_from
        self._number += 1
        self.log.close()

    def lose(self, why: str) -> None:
        """This node follows the log, and yet others know what it does not, and it is not in the log."""
        if self.lost is None:
            self.course.lost = why
            self.course.log_down()
            self._give_up(why, None)

    def go_on_from(self, state: State, position: Position | None) -> None:
        """With the state of another member."""
        # Connections are counted on: what was asked for one of before is not taken for an answer about the next.
        self.course = self._new_course(state, self.course.replica.connection)
        self.compares = self.lost = self.missing_from = None
        self._open(state.generation, position, anywhere=False)

    def _open(self, generation: str, position: Position | None, *, anywhere: bool) -> None:
        """Another log in the place of the one that was read."""
        self.log.close()
        self._number += 1
        self.log = self._make_log(generation)
        self.log.start(position, Ear(self._number, self._put), anywhere=anywhere)

    def _new_course(self, state: State, connection: int = 0) -> Course:
        def new_id() -> str:
            return uuid4().hex

        return Course(Replica(self._node, state, new_id, cautious=self.cautious, connection=connection), new_id)
