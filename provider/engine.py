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
from dataclasses import dataclass
from hashlib import sha256
from itertools import count
from queue import Empty, SimpleQueue
from uuid import uuid4

from provider.core.commands import Command
from provider.core.entries import Barrier, LogRecord, Unreadable, decode, encode
from provider.core.replica import (
    Append,
    Apply,
    Asker,
    Done,
    Instruction,
    NotPrimary,
    Now,
    Progress,
    Replica,
    Request,
    Reread,
)
from provider.core.state import Accepted, Answer, State
from provider.health import Health
from provider.log.port import Log, Position
from provider.store import Store
from shared.backoff import Backoff
from shared.bus import Outcome
from shared.errors import BellwetherError, DiskFull, LogUnavailable, Unavailable
from shared.logs import log

Result = Answer | BellwetherError | NotPrimary | Progress

TICK_S = 0.1
"""How often deadlines are looked at."""
APPEND_DEADLINE_S = 5.0
"""After this long without a confirm the same record is appended again; a repetition is harmless."""
BATCH_MAX = 1000
"""Most events that are taken from the inbox at once, so that one transaction stays short."""
ACK_EVERY = 100
"""Records that are acknowledged together. An acknowledgement is credit for more, nothing else; the log hands out
several times as many (`PREFETCH`), so none is ever waited for. One for each record cost a tenth of a commit."""
IDLE_SAVE_S = 5.0
"""Barriers move the position only this often: they change nothing, and reading them again is free."""


@dataclass(frozen=True, slots=True)
class _Read:
    offset: int
    data: bytes
    ack: Callable[[], None]


@dataclass(frozen=True, slots=True)
class _Appended:
    record: LogRecord
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class _Up:
    pass


@dataclass(frozen=True, slots=True)
class _Down:
    reason: str


@dataclass(frozen=True, slots=True)
class _Diverged:
    reason: str


@dataclass(frozen=True, slots=True)
class _Barrier:
    ticket: int
    deadline_s: float
    promote: bool
    asked_by: Asker | None


@dataclass(frozen=True, slots=True)
class _GiveUp:
    ticket: int


@dataclass(frozen=True, slots=True)
class _Stop:
    pass


_Event = _Read | _Appended | _Up | _Down | _Diverged | _Barrier | _GiveUp | _Stop | Request


class Engine:
    """See the module's text. Public methods may be called from any thread; callbacks run on the engine's own."""

    def __init__(
        self,
        *,
        node: str,
        store: Store,
        log_: Log,
        on_applied: Callable[[State, Sequence[Accepted]], None],
        on_results: Callable[[list[tuple[int, Result]]], None],
        loaded: tuple[State, Position | None] | None = None,
    ) -> None:
        """`loaded` is what `store.load()` gave; without it, it is asked for here (and may raise `StoreCorrupt`)."""
        state, self._position = loaded if loaded is not None else store.load()
        self._store, self._log = store, log_
        self._on_applied, self._on_results = on_applied, on_results
        self._replica = Replica(node, state, lambda: uuid4().hex)
        self._shown: tuple[State, Position | None] = (state, self._position)
        self._has_caught_up = False
        self._log_problem: str | None = "not connected yet"
        self._diverged: str | None = None
        self._store_problem: Unavailable | None = None
        self._unreadable = 0
        self.expelled = False
        """Another member says that this node was removed, though the log could not tell it so any more."""
        self._inbox: SimpleQueue[_Event] = SimpleQueue()
        self._tickets = count(1)
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        # Read but not yet durable, and who waits for it; while the store fails, what comes after waits in `_stalled`.
        self._unsaved: list[Accepted] = []
        self._unsaved_position: Position | None = None
        self._unanswered: list[tuple[int, Result]] = []
        self._last_ack: Callable[[], None] | None = None
        self._unacked = 0
        self._stalled: deque[_Event] = deque()
        self._retry = Backoff(first_s=0.1, longest_s=1.0)
        self._retry_at_s = 0.0
        self._failed: list[LogRecord] = []
        self._saved_s, self.beat_s = 0.0, time.monotonic()  # `beat_s`: when the thread last began a turn

    # ── for other threads ──

    @property
    def state(self) -> State:
        """The newest durable state."""
        return self._shown[0]

    def snapshot(self) -> tuple[State, Position | None]:
        """The newest durable state, and where in the log to go on reading from there."""
        return self._shown

    @property
    def has_caught_up(self) -> bool:
        """Whether the log has been read to its end at least once since the start."""
        return self._has_caught_up

    @property
    def health(self) -> Health:
        replica = self._replica
        return Health(
            connected=replica.connected,
            caught_up=replica.caught_up,
            log_problem=self._log_problem or self._blocked(),
            diverged=self._diverged,
            store_problem=self._store_problem,
            read_back_s=replica.read_back_s,
            unreadable=self._unreadable,
            skipped={why.name.lower(): number for why, number in list(replica.skipped.items())},
        )

    def _blocked(self) -> str | None:
        reason = self._log.blocked
        return f"the broker takes no writes ({reason})" if reason is not None else None

    def start(self) -> None:
        self._thread.start()
        self._log.start(self._position, self)

    def stop(self, timeout_s: float = 5.0) -> None:
        """Stop reading, save the position, end the thread. Open requests get no answer any more."""
        self._log.close()
        self._inbox.put(_Stop())
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

    def barrier(self, ticket: int, *, wait_s: float, promote: bool = False, asked_by: Asker | None = None) -> None:
        """Read to the end of the log; with `promote`, claim the next epoch then. Answered with `Progress`."""
        self._inbox.put(_Barrier(ticket, time.monotonic() + wait_s, promote, asked_by))

    def give_up(self, ticket: int) -> None:
        """Whoever asked for that barrier waits no more: it claims nothing, unless its claim is on its way already."""
        self._inbox.put(_GiveUp(ticket))

    # ── LogSink: called on the log's threads ──

    def on_read(self, offset: int, data: bytes, ack: Callable[[], None]) -> None:
        self._inbox.put(_Read(offset, data, ack))

    def on_append(self, token: object, outcome: Outcome) -> None:
        # That the log has an entry is known when it is read back; asking here as well cost a tenth of a commit.
        if isinstance(token, Barrier) or (not outcome.ok and isinstance(token, LogRecord)):
            self._inbox.put(_Appended(token, outcome))

    def on_up(self) -> None:
        self._inbox.put(_Up())

    def on_down(self, reason: str) -> None:
        self._inbox.put(_Down(reason))

    def on_diverged(self, reason: str) -> None:
        self._inbox.put(_Diverged(reason))

    # ── the thread ──

    def _run(self) -> None:
        next_tick_s, stopping = time.monotonic() + TICK_S, False
        while not stopping:
            self.beat_s = time.monotonic()
            events = self._take(next_tick_s - time.monotonic())
            instructions: list[Instruction] = []
            for event in events:
                stopping = stopping or isinstance(event, _Stop)
                instructions += self._handle(event)
            if time.monotonic() >= next_tick_s:
                next_tick_s = time.monotonic() + TICK_S
                instructions += self._tick()
            self._carry_out(instructions)
        self._save(force=True)

    def _take(self, wait_s: float) -> list[_Event]:
        events: list[_Event] = []
        try:
            events.append(self._inbox.get(timeout=max(wait_s, 0.001)))
            while len(events) < BATCH_MAX:
                events.append(self._inbox.get_nowait())
        except Empty:
            return events
        return events

    def _handle(self, event: _Event) -> list[Instruction]:
        match event:
            case Request():
                refused = self._refuses_writes()
                return self._replica.submit(event, _now()) if refused is None else [Done(event.ticket, refused)]
            case _Read():
                # In order: once one waits, those after it wait too, also when the store works again.
                if self._stalled or (self._unsaved and self._store_problem is not None):
                    self._stalled.append(event)
                    return []
                return self._read(event)
            case _Barrier():
                return self._replica.barrier(
                    event.ticket, event.deadline_s, _now(), promote=event.promote, asked_by=event.asked_by
                )
            case _GiveUp(ticket):
                return self._replica.give_up(ticket)
            case _Appended(record, outcome) if outcome.ok:
                self._replica.kept(record, _now())
                return []
            case _Appended():
                # Not at once: a broker that refuses would be asked as fast as it can refuse.
                self._failed.append(event.record)
                return []
            case _Up() | _Down() | _Diverged():
                return self._link_changed(event)
            case _Stop():
                return []

    def _refuses_writes(self) -> Unavailable | None:
        """Why nothing can be written at the moment. What is on its way already is not concerned."""
        if self._store_problem is not None:
            return self._store_problem
        if self._diverged is not None:
            return LogUnavailable(self._diverged)
        blocked = self._blocked()
        return (
            DiskFull(f"{blocked}; nothing was done. Make room: it resumes by itself") if blocked is not None else None
        )

    def _link_changed(self, event: _Up | _Down | _Diverged) -> list[Instruction]:
        match event:
            case _Up():
                self._log_problem = None
                return self._replica.log_up(_now())
            case _Down(reason):
                log(reason=reason).warning("log out of reach")
                self._log_problem = reason
            case _Diverged(reason):
                log(reason=reason).error("this node's store and the log do not belong together")
                self._diverged = reason
        return self._replica.log_down()

    def _read(self, event: _Read) -> list[Instruction]:
        self._unsaved_position = Position(event.offset, sha256(event.data).hexdigest())
        self._last_ack, self._unacked = event.ack, self._unacked + 1
        try:
            record = decode(event.data)
        except Unreadable as error:
            if not self._unreadable:
                log(offset=event.offset, why=str(error)).error("the log holds something that is no record; skipped")
            self._unreadable += 1
            return []
        return self._replica.read(record, _now())

    def _tick(self) -> list[Instruction]:
        now = _now()
        out = self._replica.tick(now)
        failed, self._failed = self._failed, []
        for record in failed:
            out += self._replica.failed(record, now)
        if self._stalled and self._store_problem is None:
            stalled, self._stalled = self._stalled, deque()
            for event in stalled:
                out += self._handle(event)
        return out

    def _carry_out(self, instructions: list[Instruction]) -> None:
        for instruction in instructions:
            match instruction:
                case Append(record):
                    self._log.append(encode(record), record, APPEND_DEADLINE_S)
                case Apply(accepted):
                    self._unsaved.append(accepted)
                case Reread() if self._store_problem is None and not self._stalled:
                    self._log.reread("the log goes on, and nothing of it was delivered")
                case Reread():  # it is here, and waits for the store
                    continue
                case Done(ticket, result):
                    if type(result) is BellwetherError and result.__cause__ is not None:
                        log().opt(exception=result.__cause__).error("a request could not be planned: this is a bug")
                    self._unanswered.append((ticket, result))
        self._save()
        self._has_caught_up = self._has_caught_up or self._replica.caught_up

    def _save(self, *, force: bool = False) -> None:
        """Make durable what was read, then show it and answer. While the store fails, try again later."""
        now_s = time.monotonic()
        quiet = not self._unsaved and self._store_problem is None
        idle = quiet and not force and now_s - self._saved_s < IDLE_SAVE_S
        if self._unsaved_position is not None and not idle:
            if self._store_problem is not None and now_s < self._retry_at_s and not force:
                self._answer_without_store()
                return
            try:
                self._store.commit(self._unsaved, self._unsaved_position)
            except Unavailable as error:
                if self._store_problem is None:
                    log(why=error.detail).error("the store cannot be written; writes are refused until it can")
                self._store_problem = error
                self._retry_at_s = now_s + self._retry.next_s()
                self._answer_without_store()
                return
            if self._store_problem is not None:
                log().info("the store can be written again")
                self._store_problem = None
                self._retry.reset()
            self._shown = (self._unsaved[-1].state if self._unsaved else self._shown[0], self._unsaved_position)
            self._saved_s, self._unsaved_position = now_s, None
        # Whoever is answered finds the new state shown already. Everybody else can wait that moment longer.
        if self._unanswered:
            answers, self._unanswered = self._unanswered, []
            self._on_results(answers)
        if self._unsaved:
            accepted, self._unsaved = self._unsaved, []
            self._on_applied(accepted[-1].state, accepted)
        if self._last_ack is not None and self._unacked >= ACK_EVERY:
            self._last_ack()
            self._last_ack, self._unacked = None, 0

    def _answer_without_store(self) -> None:
        """While the store fails, successes may not be told. Errors may, and where else to go."""
        told = [pair for pair in self._unanswered if isinstance(pair[1], BellwetherError | NotPrimary)]
        if told:
            self._unanswered = [
                pair for pair in self._unanswered if not isinstance(pair[1], BellwetherError | NotPrimary)
            ]
            self._on_results(told)


def _now() -> Now:
    return Now(time.time_ns() // 1_000_000, time.monotonic())
