"""The engine: carries out what the replica decides. Owns the store and the log; one thread.

Everything reaches it through one inbox. It takes all that is there, lets the replica decide, and then acts in this
order: append to the log; make what was read durable in the store; show the new state; answer. So a fsync and a round
trip to the broker overlap, many entries share a transaction while catching up, and nobody sees or is told what could
still be lost.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from hashlib import sha256
from itertools import count

from provider.answers import Answers
from provider.core.commands import Command
from provider.core.entries import LogRecord, Unreadable, decode, encode
from provider.core.pending import Result
from provider.core.replica import (
    Append,
    Apply,
    Ask,
    Asker,
    Done,
    Instruction,
    Now,
    Replica,
    Request,
    Reread,
)
from provider.core.state import Accepted, State
from provider.core.vouching import Finding, Verdict
from provider.durable import Durable
from provider.health import Health
from provider.inbox import (
    Appended,
    BarrierAsked,
    Diverged,
    Down,
    Event,
    GiveUp,
    Inbox,
    Lose,
    Read,
    Replace,
    Stop,
    Up,
    Vouched,
)
from provider.log.credit import Credit
from provider.log.port import Log, Position
from provider.recovery.leap import leap
from provider.recovery.reading import Reading
from provider.store import HistoryRow, Store
from shared.errors import BellwetherError, Refused, Unavailable
from shared.logs import log

TICK_S = 0.1
"""How often deadlines are looked at."""
APPEND_DEADLINE_S = 5.0
"""After this long without a confirm the same record is appended again; a repetition is harmless."""


class Engine:
    """See the module's text. Public methods may be called from any thread; callbacks run on the engine's own."""

    def __init__(
        self,
        *,
        node: str,
        store: Store,
        make_log: Callable[[str], Log],
        on_applied: Callable[[State, Sequence[Accepted]], None],
        on_results: Callable[[list[tuple[int, Result]]], None],
        loaded: tuple[State, Position | None] | None = None,
    ) -> None:
        """`loaded` is what `store.load()` gave; without it, it is asked for here (and may raise `StoreCorrupt`).

        `make_log(generation)` gives a log that is not started."""
        state, position = loaded if loaded is not None else store.load()
        self._on_applied, self._answers = on_applied, Answers(on_results)
        self._on_ask: Callable[[Ask], None] | None = None
        self._on_lost: Callable[[], None] | None = None
        self.foreseen: Callable[[], Finding] = lambda: Finding(Verdict.GO)  # blocking; see `attach`
        self._inbox = Inbox()
        self.reading = Reading(
            node=node,
            state=state,
            store=store,
            make_log=make_log,
            put=self._inbox.put,
        )
        self.waits_for: str | None = None  # in words, set by who asks the others: before it writes
        self.healing: str | None = None  # and what it takes from whom
        self._durable = Durable(store, (state, position))
        self._has_caught_up = False
        self._log_problem: str | None = "not connected yet"
        self._unreadable = 0
        self.expelled: str | None = None  # what another member says that does not know this node any more
        self._tickets = count(1)
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._credit = Credit()
        self._stalled: deque[Event] = deque()  # what is read while the store fails, behind what could not be stored
        self._failed: list[LogRecord] = []
        self.beat_s = time.monotonic()  # when the thread last began a turn

    # ── for other threads ──

    @property
    def state(self) -> State:
        """The newest durable state."""
        return self._durable.shown[0]

    def snapshot(self) -> tuple[State, Position | None]:
        """The newest durable state, and where in the log to go on reading from there."""
        return self._durable.shown

    @property
    def has_caught_up(self) -> bool:
        """Whether the log has been read to its end at least once since the start."""
        return self._has_caught_up

    @property
    def health(self) -> Health:
        replica, reading = self._replica, self.reading
        return Health(
            connected=reading.connected,
            caught_up=replica.caught_up,
            log_problem=self._log_problem or reading.blocked,
            diverged=reading.lost,
            comparing=reading.compares,
            put_back=reading.put_back,
            asking=self.waits_for or "asking the other members" if replica.held and replica.is_primary else None,
            store_problem=self.store_problem,
            read_back_s=replica.read_back_s,
            read_s=replica.read_s,
            unreadable=self._unreadable,
            skipped={why.name.lower(): number for why, number in list(replica.skipped.items())},
        )

    @property
    def store_problem(self) -> Unavailable | None:
        """Why nothing that is asked for now would be stored. A store that hangs holds up the engine's own thread."""
        return self._durable.trouble

    @property
    def _replica(self) -> Replica:
        return self.reading.course.replica

    def attach(
        self,
        *,
        on_ask: Callable[[Ask], None],
        on_lost: Callable[[], None],
        on_foresee: Callable[[], Finding] = lambda: Finding(Verdict.GO),
    ) -> None:
        """Before `start`. `on_ask` has the other members asked and ends in `vouched`; without it nobody is asked.
        `on_lost` is told when this node cannot go on with the log: see `health.diverged`, and `replace`. `on_foresee`
        says what asking for a promotion would end with."""
        self._on_ask, self._on_lost, self.foreseen = on_ask, on_lost, on_foresee
        self.reading.cautious = self._replica.cautious = True

    def start(self) -> None:
        self._thread.start()
        self.reading.begin(self._durable.shown[1])

    def stop(self, timeout_s: float = 5.0) -> None:
        """Stop reading, save the position, end the thread. Open requests get no answer any more."""
        self.reading.log.close()
        self._inbox.put(Stop())
        self._thread.join(timeout_s)

    def ticket(self) -> int:
        """A number for one request. Taken before `submit`, so that the answer cannot overtake its own bookkeeping."""
        return next(self._tickets)

    def submit(
        self,
        ticket: int,
        command: Command,
        *,
        principal: str,
        action: str,
        wait_s: float,
        key: str | None = None,
        fingerprint: str = "",
        source: str | None = None,
    ) -> None:
        """Have `command` committed. The result arrives through `on_results`, at the latest after about `wait_s`."""
        deadline = time.monotonic() + wait_s
        self._inbox.put(Request(ticket, command, principal, action, deadline, key, fingerprint, source))

    def barrier(
        self, ticket: int, *, wait_s: float, promote: bool = False, asked_by: Asker | None = None, force: bool = False
    ) -> None:
        """Read to the end of the log; with `promote`, claim the next epoch then, with `force` without asking the other
        members whether they hold what the log lost. Answered with `Progress`."""
        self._inbox.put(BarrierAsked(ticket, time.monotonic() + wait_s, promote, asked_by, force))

    def give_up(self, ticket: int) -> None:
        """Whoever asked for that barrier waits no more: it claims nothing, unless its claim is on its way already."""
        self._inbox.put(GiveUp(ticket))

    def vouched(self, about: int, connection: int, refused: BellwetherError | None = None) -> None:
        """The other members were asked (`on_ask`), and this may be, or is refused."""
        self._inbox.put(Vouched(about, connection, refused))

    def lose(self, why: str) -> None:
        """This node cannot go on with the log, as others see."""
        self._inbox.put(Lose(why))

    @property
    def gaps(self) -> int:
        """Records that were skipped because something before them is missing here."""
        return self._replica.gaps

    def store_emptied(self) -> None:
        """The store was found without what it held: it is written back, where this node follows the log."""
        self._durable.emptied = True

    def replace(
        self, state: State, position: Position | None, *, stored: bool = False, unless_ahead: bool = False
    ) -> "Future[None]":
        """Go on from this state of another member, or of the store, where that is ahead of this node (`stored`). Done
        when it is durable here; fails where it cannot be stored; with `unless_ahead` (`StoreAhead`), where others who
        share the store have put more there."""
        done: Future[None] = Future()
        self._inbox.put(Replace(state, position, done, stored, unless_ahead=unless_ahead))
        return done

    def begin_anew(self, before: State, state: State, first: HistoryRow) -> "Future[None]":
        """Begin another log with `state`, made of `before`: fails with `Refused` where this node has something else by
        now, with `OutcomeUnknown` where the store does not tell. `first` is the first record of its history. Done when
        it is durable here."""
        done: Future[None] = Future()
        self._inbox.put(Replace(state, None, done, goes_on=first, instead_of=before))
        return done

    # ── the thread ──

    def _run(self) -> None:
        next_tick_s, goes_on = time.monotonic() + TICK_S, True
        while goes_on:
            self.beat_s = time.monotonic()
            events = self._inbox.take(next_tick_s - time.monotonic())
            ticks = time.monotonic() >= next_tick_s
            if ticks:
                next_tick_s = time.monotonic() + TICK_S
            goes_on = self._turn(events, ticks=ticks)
        self._save(force=True)

    def _turn(self, events: Sequence[Event], *, ticks: bool) -> bool:
        """Decides about `events`, and where it `ticks` about what is late, and carries that out. Whether to go on."""
        instructions: list[Instruction] = []
        for event in events:
            instructions = self._left_of(instructions, event)
            instructions += self._handle(event)
        if ticks:
            instructions += self._tick()
        self._carry_out(instructions)
        return not any(isinstance(event, Stop) for event in events)

    def _left_of(self, instructions: list[Instruction], event: Event) -> list[Instruction]:
        """What is left to do of what was decided in the same turn, before `event`."""
        if isinstance(event, Down | Up | Diverged) and self.reading.is_of(event.log):
            # The connection that it was meant for is gone; over another one it waits until others were asked.
            instructions = [one for one in instructions if not isinstance(one, Append)]
        if isinstance(event, Replace | Diverged):  # of the state that all before it has led to, and that is stored
            self._carry_out(instructions)
            return []
        return instructions

    def _handle(self, event: Event) -> list[Instruction]:
        match event:
            case Request():
                refused = self._refuses_writes()
                return self._replica.submit(event, _now()) if refused is None else [Done(event.ticket, refused)]
            case Read() | Appended() | Up() | Down() | Diverged():
                return self._of_log(event) if self.reading.is_of(event.log) else []
            case BarrierAsked() | GiveUp() | Vouched():
                return event.tell(self._replica, _now())
            case Lose(why):
                self.reading.lose(why)
                if self._on_lost is not None:
                    self._on_lost()
                return []
            case Replace():
                return self._replace(event)
            case Stop():
                return []

    def _of_log(self, event: Read | Appended | Up | Down | Diverged) -> list[Instruction]:
        match event:
            case Read():
                # In order: once one waits, those after it wait too, also when the store works again.
                if self._stalled or (self._durable.unsaved and self._durable.problem is not None):
                    self._stalled.append(event)
                    return []
                return self._read(event)
            case Appended(_, record, outcome) if outcome.ok:
                self._replica.kept(record, _now())
                return []
            case Appended():
                # Not at once: a broker that refuses would be asked as fast as it can refuse.
                self._failed.append(event.record)
                return []
            case Up():
                self._log_problem = None
                return self.reading.course.log_up(_now())
            case Down(_, reason, reads):
                log(reason=reason).warning("log out of reach")
                self._log_problem = reason
                return self.reading.course.log_down(reads=reads)
            case Diverged(_, reason):
                self._compare(reason)
                return []

    def _refuses_writes(self) -> Unavailable | None:
        """Why nothing can be written at the moment. What is on its way already is not concerned."""
        return self._durable.problem or self.reading.refusal

    def _read(self, event: Read) -> list[Instruction]:
        reading = self.reading
        self._credit.read(event.ack)
        compares = reading.compares is not None
        if not compares:
            self._durable.read_up_to(Position(event.offset, sha256(event.data).hexdigest()))
        try:
            record = decode(event.data)
        except Unreadable as error:
            if not self._unreadable:
                log(offset=event.offset, why=str(error)).error("the log holds something that is no record; skipped")
            self._unreadable += 1
            return []
        if not compares:
            return self._replica.read(record, _now())
        out = reading.read(record, self._durable.unsaved, _now())
        if reading.lost is not None:
            if self._on_lost is not None:
                self._on_lost()
        elif reading.compares is None:
            self._durable.read_up_to(Position(event.offset, sha256(event.data).hexdigest()), anew=True)
        return out

    def _compare(self, reason: str) -> None:
        self._log_problem = None
        self._forget_log()
        self.reading.compare(reason, self._durable.unsaved)

    def _forget_log(self) -> None:
        """What was said by a log that is closed."""
        self._failed.clear()
        self._stalled.clear()
        self._credit.forget()
        self._durable.forget_position()

    def _replace(self, event: Replace) -> list[Instruction]:
        before = self._durable.shown[0]
        if event.stored and event.state.revision <= before.revision and self.reading.lost is None:
            event.done.set_result(None)  # the log has led there meanwhile
            return []
        if event.instead_of is not None and (event.instead_of != before or self._replica.state != before):
            event.done.set_exception(Refused("this node has just read more of the log: it is not lost; ask again"))
            return []
        out = self._replica.abandon()
        try:
            self._durable.replace(event)
        except BellwetherError as error:
            event.done.set_exception(error)
            return out
        self._answers.replaced(event.state)
        self._forget_log()
        self.reading.go_on_from(event.state, event.position)
        self._on_applied(event.state, [leap(before, event.state)])
        event.done.set_result(None)
        return out

    def _tick(self) -> list[Instruction]:
        now = _now()
        out = self._replica.tick(now)
        failed, self._failed = self._failed, []
        for record in failed:
            out += self.reading.course.failed(record, now)
        if self._stalled and self._durable.problem is None:
            stalled, self._stalled = self._stalled, deque()
            for event in stalled:
                out += self._handle(event)
        return out

    def _carry_out(self, instructions: list[Instruction]) -> None:
        for instruction in instructions:
            match instruction:
                case Append(record):
                    self.reading.log.append(encode(record), record, APPEND_DEADLINE_S)
                case Apply(accepted):
                    self._durable.unsaved.append(accepted)
                case Reread() if self._durable.problem is None and not self._stalled:
                    self.reading.log.reread("the log goes on, and nothing of it was delivered; reading anew")
                case Reread():  # it is here, and waits for the store
                    continue
                case Ask():
                    if self._on_ask is not None:
                        self._on_ask(instruction)
                case Done(ticket, result):
                    self._answers.add(ticket, result)
        self._save()
        self._has_caught_up = self._has_caught_up or self._replica.caught_up

    def _save(self, *, force: bool = False) -> None:
        """Make durable what was read, then show it and answer. While the store fails, try again later."""
        follows = self.reading.lost is None and self.expelled is None
        if not self._durable.save(force=force, writes_back=follows):
            self._answers.tell_without_store()
            return
        # Whoever is answered finds the new state shown already. Everybody else can wait that moment longer.
        self._answers.tell()
        if self._durable.unsaved:
            accepted = self._durable.take()
            self._on_applied(accepted[-1].state, accepted)
        self._credit.give()


def _now() -> Now:
    return Now(time.time_ns() // 1_000_000, time.monotonic())
