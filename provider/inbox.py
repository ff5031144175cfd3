"""What reaches the engine's thread, and the ear that it has at a log."""

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from provider.core.entries import Barrier, LogRecord
from provider.core.replica import Asker, Instruction, Now, Replica, Request
from provider.core.state import State
from provider.log.port import Position
from provider.store import HistoryRow
from shared.bus import Outcome
from shared.errors import BellwetherError

BATCH_MAX = 1000
"""Most events that are taken from the inbox at once, so that one transaction stays short."""


@dataclass(frozen=True, slots=True)
class Read:
    log: int
    offset: int
    data: bytes
    ack: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Appended:
    log: int
    record: LogRecord
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Up:
    log: int


@dataclass(frozen=True, slots=True)
class Down:
    log: int
    reason: str
    reads: bool = False
    """It goes on being read."""


@dataclass(frozen=True, slots=True)
class Diverged:
    log: int
    reason: str


@dataclass(frozen=True, slots=True)
class BarrierAsked:
    ticket: int
    deadline_s: float
    promote: bool
    asked_by: Asker | None
    force: bool

    def tell(self, replica: Replica, now: Now) -> list[Instruction]:
        return replica.barrier(
            self.ticket, self.deadline_s, now, promote=self.promote, asked_by=self.asked_by, force=self.force
        )


@dataclass(frozen=True, slots=True)
class GiveUp:
    ticket: int

    def tell(self, replica: Replica, _now: Now) -> list[Instruction]:
        return replica.give_up(self.ticket)


@dataclass(frozen=True, slots=True)
class Vouched:
    """The other members were asked; `refused`: and it must not be."""

    about: int
    connection: int
    refused: BellwetherError | None = None

    def tell(self, replica: Replica, now: Now) -> list[Instruction]:
        if self.refused is not None:
            return replica.refuse(self.about, self.connection, self.refused)
        return replica.vouched(self.about, self.connection, now)


@dataclass(frozen=True, slots=True)
class Lose:
    """Others know that this node cannot go on with the log."""

    why: str


@dataclass(frozen=True, slots=True)
class Replace:
    """Go on from the state of another member; `stored`: it is what the store holds already. Or, with the first record
    of its history, begin a log of our own, in the place of this very state. `unless_ahead`: where the store has more
    than that and than this node, it is left as it is."""

    state: State
    position: Position | None
    done: "Future[None]"
    stored: bool = False
    goes_on: HistoryRow | None = None
    instead_of: State | None = None
    unless_ahead: bool = False


@dataclass(frozen=True, slots=True)
class Stop:
    pass


Event = Read | Appended | Up | Down | Diverged | BarrierAsked | GiveUp | Vouched | Lose | Replace | Stop | Request


class Inbox(SimpleQueue[Event]):
    """The one way to the engine's thread. Any thread puts."""

    def take(self, wait_s: float) -> list[Event]:
        """All that is there, at most BATCH_MAX; where nothing is, what comes first within `wait_s`, or nothing."""
        events: list[Event] = []
        try:
            events.append(self.get(timeout=max(wait_s, 0.001)))
            while len(events) < BATCH_MAX:
                events.append(self.get_nowait())
        except Empty:
            return events
        return events


class Ear:
    """A `LogSink`: puts what one log says into the inbox, with that log's number, by which late words of one that was
    closed are known. Called on the log's threads."""

    def __init__(self, log: int, put: Callable[[Event], None]) -> None:
        self._log, self._put = log, put

    def on_read(self, offset: int, data: bytes, ack: Callable[[], None]) -> None:
        self._put(Read(self._log, offset, data, ack))

    def on_append(self, token: object, outcome: Outcome) -> None:
        # That the log has an entry is known when it is read back; asking here as well cost a tenth of a commit.
        if isinstance(token, Barrier) or (not outcome.ok and isinstance(token, LogRecord)):
            self._put(Appended(self._log, token, outcome))

    def on_up(self) -> None:
        self._put(Up(self._log))

    def on_down(self, reason: str, *, reads: bool = False) -> None:
        self._put(Down(self._log, reason, reads))

    def on_diverged(self, reason: str) -> None:
        self._put(Diverged(self._log, reason))
