"""One node's view of the log, and what it does about it: reads, commits, claims.

Events come in as method calls, each with the time; instructions come out as a list. Nothing here does I/O, so every
order of events can be tried without a broker. The engine that carries the instructions out keeps this contract:

1. Records read from the log are given to `read` one by one, in order, from the position after the store's.
2. An `Apply` is made durable in the store before the state in it is shown to any reader, and before any `Done` that
   follows it in the list is answered.
3. `Append` may be carried out at once, also before an `Apply` that precedes it: what is in the log is not lost with us.
4. After `log_up`, everything from the position onward is read again, so `read` must see each record exactly once.

How a write is committed (stop and wait): at most one entry of ours is on its way. Everything that arrives meanwhile
waits and shares the next one. So each commit is planned on the very state that it will be applied to, and a record that
comes back skipped can never be accepted later. A refusal, too, is answered only after a record of ours has come back:
a primary that was deposed without knowing it yet must not say "no such document" from an old state.

A log may have lost its end with the power of all brokers; who holds what was lost puts it back (comparing.py). So that
nobody writes into its place meanwhile, a replica that is `cautious` asks the other members before it writes for the
first time over a new connection, and before each claim.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from provider.core import state as sm
from provider.core.batch import Batch, Request, Waiting
from provider.core.entries import Barrier, Claim, Commit, Entry, LogRecord
from provider.core.following import Following
from provider.core.instructions import (
    OWN_WRITES,
    Append,
    Apply,
    Ask,
    Asker,
    Done,
    Instruction,
    NotPrimary,
    Now,
    Progress,
    Reread,
)
from provider.core.pending import NOT_WRITTEN, InFlight, Waiter, left_over, overdue, replaced, unheard
from provider.core.state import Accepted, Skipped, State
from shared.errors import BellwetherError, LogUnavailable

__all__ = [
    "BEAT_S",
    "OWN_WRITES",
    "Append",
    "Apply",
    "Ask",
    "Asker",
    "Done",
    "Instruction",
    "NotPrimary",
    "Now",
    "Progress",
    "Replica",
    "Request",
    "Reread",
]

BEAT_S = 1.0
"""An idle primary reads a barrier back this often, so that it can say that it is one."""
SILENCE_S = 3.0
"""A node that has read nothing for so long, not even an idle primary's barriers, appends a barrier of its own."""
DEAF_S = 2.0
"""Reading is begun anew when the log has had our barrier for so long and we read nothing at all."""


# ── the machine ──────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class Replica:
    """See the module's text. `new_id` gives unique record ids; it is the caller's so that this stays pure."""

    node: str
    state: State
    new_id: Callable[[], str]
    caught_up: bool = False
    """Everything that was in the log when we (re)connected has been read. Only then do we write."""
    connected: bool = False
    read_back_s: float = float("-inf")
    """Up to this monotonic time we have surely read everything: then we sent a record, and have read it back since."""
    read_s: float = float("-inf")
    """When anything was last read, over whichever connection; before that, when the first one was made."""
    skipped: dict[sm.Why, int] = field(default_factory=dict)
    gaps: int = 0
    """Skipped records that nobody has reason to write unless something before them was accepted that we do not have."""
    cautious: bool = False
    """Ask the other members before anything is written over a new connection."""
    held: bool = False
    """Nothing of our own is written before the others were asked."""
    connection: int = 0
    """Number of the connection to the log."""
    following: Following = field(default_factory=Following)
    _beat: Barrier | None = None
    _beat_sent_s: float = float("-inf")
    _beat_kept_s: float | None = None
    """When the log was known to have it."""
    _heard_s: float = float("-inf")
    """When anything was last read, or reading began."""
    _waiting: deque[Waiting] = field(default_factory=deque)
    _in_flight: InFlight | None = None
    _waiters: list[Waiter] = field(default_factory=list)

    @property
    def is_primary(self) -> bool:
        return self.state.primary == self.node

    # ── events ──

    def log_up(self, now: Now) -> list[Instruction]:
        """The log can be written and read. Before anything else, read to its end."""
        self.connected, self.caught_up, self._heard_s = True, False, now.mono_s
        if self.read_s == float("-inf"):
            self.read_s = now.mono_s
        self.connection += 1
        self.held = self._asks
        out = self._send_beat(now)
        # A barrier that was lost with the connection is simply asked again; a claim only once we have caught up.
        out.extend(Append(w.record) for w in self._waiters if isinstance(w.record, Barrier))
        return out

    def log_down(self, *, reads: bool = False) -> list[Instruction]:
        """The log is out of reach. What is on its way may or may not have arrived: reading will tell. `reads`: it goes
        on being read, over the same connection, and cannot be written."""
        self.connected = self.caught_up = False
        if not reads:
            self.following.broken()
        return []

    def submit(self, request: Request, now: Now) -> list[Instruction]:
        """A write that a client asked of us."""
        if not self.is_primary:
            return [Done(request.ticket, NotPrimary(self.state.primary))]
        self._waiting.append(Waiting(request))
        return self._write(now)

    def barrier(
        self,
        ticket: int,
        deadline_s: float,
        now: Now,
        *,
        promote: bool = False,
        asked_by: Asker | None = None,
        force: bool = False,
    ) -> list[Instruction]:
        """Read everything that is in the log now; with `promote`, become primary then: with `force`, whatever the other
        members may hold.

        Not where another one has become it meanwhile: of two that are promoted in the same instant one wins, also where
        the claim of the one comes before the barrier of the other. A node that is still reading knows no better, and
        ends whichever epoch it finds.
        """
        ends = self.state.epoch if self.caught_up else None
        waiter = Waiter(ticket, deadline_s, self._barrier(now), promote, now.mono_s, asked_by or Asker(), ends, force)
        self._waiters.append(waiter)
        return [Append(waiter.record)] if self.connected else []

    def give_up(self, ticket: int) -> list[Instruction]:
        """Nobody waits for that barrier or promotion any more. A claim that is on its way may win all the same."""
        for waiter in [w for w in self._waiters if w.ticket == ticket]:
            self._waiters.remove(waiter)
            return [unheard(waiter)]
        return []

    def vouched(self, about: int, connection: int, now: Now) -> list[Instruction]:
        """The other members were asked: nobody holds what the log does not, or that does not count (by force)."""
        if connection != self.connection or not self.connected:
            return []
        if about == OWN_WRITES and not self.is_primary:
            return []  # deposed meanwhile: it does not write, and who was not waited for may have what is missing still
        waiter = next((w for w in self._waiters if w.ticket == about), None)
        if waiter is None and about != OWN_WRITES:
            return []
        if waiter is None or not waiter.force:
            self.held = False
            self.following.settled()
        if waiter is None:
            return self._send_again() + self._write(now)
        waiter.vouched = connection
        return [Append(waiter.record)] if isinstance(waiter.record, Claim) else self._claim(waiter, now)

    def refuse(self, about: int, connection: int, why: BellwetherError) -> list[Instruction]:
        """The other members were asked, and that promotion must not be."""
        for waiter in [w for w in self._waiters if w.ticket == about and connection == self.connection]:
            self._waiters.remove(waiter)
            return [unheard(waiter) if isinstance(waiter.record, Claim) else Done(waiter.ticket, why)]
        return []

    def abandon(self) -> list[Instruction]:
        """This replica ends, another one takes its place: everybody has an answer."""
        out: list[Instruction] = [Done(w.request.ticket, LogUnavailable(NOT_WRITTEN)) for w in self._waiting]
        if self._in_flight is not None:
            out += left_over(self._in_flight)
        out += [replaced(waiter) for waiter in self._waiters]
        self._in_flight = None
        self._waiting.clear()
        self._waiters.clear()
        return out

    def failed(self, record: LogRecord, now: Now) -> list[Instruction]:
        """The broker refused `record` or could not say what became of it, and the connection stands: ask again."""
        if not self.connected:
            return []  # log_up will see to it
        flying = self._in_flight
        if flying is not None and record.id == flying.record.id:
            return [] if self.held else [Append(record)]  # what is held is sent when the others were asked
        for waiter in self._waiters:
            if record.id == waiter.record.id:
                asks = isinstance(waiter.record, Claim) and self._asks
                return [] if asks and waiter.vouched != self.connection else [Append(record)]
        if self._beat is not None and record.id == self._beat.id:
            return self._send_beat(now)
        return []

    def kept(self, record: LogRecord, now: Now) -> None:
        """The log has `record`: it is there to be read."""
        if self._beat is not None and record.id == self._beat.id:
            self._beat_kept_s = now.mono_s

    def read(self, record: LogRecord, now: Now) -> list[Instruction]:
        """The next record of the log."""
        self._heard_s = self.read_s = now.mono_s
        self.following.read(record, now.mono_s)
        outcome = sm.step(self.state, record)
        out: list[Instruction] = []
        if isinstance(outcome, Skipped):
            self.skipped[outcome.why] = self.skipped.get(outcome.why, 0) + 1
            self.gaps += outcome.why is sm.Why.GAP or _of_a_later_epoch(record, self.state)
        else:
            self.state = outcome.state
            out.append(Apply(outcome))
        out += self._in_flight_read(record, outcome)
        out += self._waiters_read(record, now)
        if self._beat is not None and record.id == self._beat.id:
            self._beat = self._beat_kept_s = None
            self._read_until(self._beat_sent_s)
            if not self.caught_up:
                self.caught_up = True
                self.following.reached(record.id, now.mono_s)
                out += self._resume()
        if isinstance(record, Claim) and isinstance(outcome, Accepted):
            out += self._ask_first() if self.is_primary else self._step_down()
        return out + self._write(now)

    def tick(self, now: Now) -> list[Instruction]:
        """Time passes: give up what is overdue, and keep the log warm."""
        out: list[Instruction] = []
        late = [w.request for w in self._waiting if w.request.deadline_s <= now.mono_s]
        if late:
            self._waiting = deque(w for w in self._waiting if w.request.deadline_s > now.mono_s)
            out += [Done(request.ticket, LogUnavailable(NOT_WRITTEN)) for request in late]
        if self._in_flight is not None:
            out += overdue(self._in_flight, now)
        for waiter in [w for w in self._waiters if w.deadline_s <= now.mono_s]:
            self._waiters.remove(waiter)
            out.append(unheard(waiter))
        return out + self._listen(now) if self.connected else out

    def _listen(self, now: Now) -> list[Instruction]:
        """Whether we still hear the log. Brokers that lost sight of each other may forget who reads from them."""
        if self._beat is None:
            quiet = now.mono_s - self._heard_s >= SILENCE_S
            idle = self.is_primary and now.mono_s - self.read_back_s >= BEAT_S
            return self._send_beat(now) if quiet or idle else []
        if self._beat_kept_s is not None and now.mono_s - max(self._beat_kept_s, self._heard_s) >= DEAF_S:
            self._beat_kept_s = None
            return [Reread()]
        return []

    # ── committing ──

    def _write(self, now: Now) -> list[Instruction]:
        """Put everything that waits into one entry, if none of ours is on its way."""
        if not (self._waiting and self.is_primary and self.caught_up) or self.held or self._in_flight is not None:
            return []
        batch = Batch(self.state, now.wall_ms)
        batch.fill(self._waiting)
        out: list[Instruction] = [Done(request.ticket, answer) for request, answer in batch.answered]
        if batch.planned or batch.refused:
            commits = tuple(commit for _, commit in batch.planned)
            record = self._entry(commits, now) if commits else self._barrier(now)
            requests: list[Request | None] = [request for request, _ in batch.planned]
            self._in_flight = InFlight(record, requests, batch.refused, self.state.revision, now.mono_s)
            out.append(Append(record))
        return out

    def _entry(self, commits: tuple[Commit, ...], now: Now) -> Entry:
        return Entry(
            id=self.new_id(),
            generation=self.state.generation,
            epoch=self.state.epoch,
            seq=self.state.revision + 1,
            node=self.node,
            at=now.wall_ms,
            commits=commits,
        )

    def _in_flight_read(self, record: LogRecord, outcome: Accepted | Skipped) -> list[Instruction]:
        flying = self._in_flight
        if flying is None or record.id != flying.record.id:
            return []
        self._in_flight = None
        self._read_until(flying.sent_s)
        answers = outcome.answers if isinstance(outcome, Accepted) else ()
        if len(answers) != len(flying.requests) or self.state.revision != flying.revision + bool(answers):
            # Another record took its place (one of ours from before a restart, say). It can never be accepted now, so
            # deciding on its requests anew cannot do anything twice.
            self._waiting.extendleft(Waiting(request) for request in reversed(flying.held))
            return []
        out: list[Instruction] = [
            Done(request.ticket, answer)
            for request, answer in zip(flying.requests, answers, strict=True)
            if request is not None
        ]
        return out + [Done(request.ticket, refusal) for request, refusal in flying.refused]

    def _resume(self) -> list[Instruction]:
        """All that was in the log is read. What of ours was not in it is lost, or still to come: append it again.
        If both copies arrive, the second one is skipped like any repetition."""
        out = self._ask_first() if self.is_primary else []
        out += [] if self.held else self._send_again()
        for waiter in self._waiters:
            if isinstance(waiter.record, Claim):
                out.append(self._ask(waiter) if self._asks else Append(waiter.record))
        return out

    def _send_again(self) -> list[Instruction]:
        return [Append(self._in_flight.record)] if self._in_flight is not None else []

    @property
    def _asks(self) -> bool:
        """Whether there is anybody to ask, and we do."""
        return self.cautious and any(name != self.node for name in self.state.documents.get("node", ()))

    def _ask(self, waiter: Waiter) -> Ask:
        return Ask(waiter.ticket, self.connection, waiter.force)

    def _ask_first(self) -> list[Instruction]:
        """We are primary: by a claim that was vouched for, or as we were over another connection."""
        return [Ask(OWN_WRITES, self.connection)] if self.held and self.caught_up else []

    def _step_down(self) -> list[Instruction]:
        """Another node's claim was accepted. What we hold is not failed: it goes to the new primary. That includes the
        entry on its way: had it come before the claim we would have read it, and after the claim it is skipped."""
        in_flight = self._in_flight.held if self._in_flight is not None else []
        held = [*in_flight, *(waiting.request for waiting in self._waiting)]
        self._in_flight = None
        self._waiting.clear()
        return [Done(request.ticket, NotPrimary(self.state.primary)) for request in held]

    # ── barriers and claims ──

    def _barrier(self, now: Now) -> Barrier:
        return Barrier(id=self.new_id(), generation=self.state.generation, node=self.node, at=now.wall_ms)

    def _send_beat(self, now: Now) -> list[Instruction]:
        self._beat, self._beat_sent_s, self._beat_kept_s = self._barrier(now), now.mono_s, None
        return [Append(self._beat)]

    def _read_until(self, sent_s: float) -> None:
        self.read_back_s = max(self.read_back_s, sent_s)

    def _waiters_read(self, record: LogRecord, now: Now) -> list[Instruction]:
        out: list[Instruction] = []
        for waiter in [w for w in self._waiters if w.record.id == record.id]:
            self._read_until(waiter.sent_s)
            meant = waiter.promote and waiter.ends in (None, self.state.epoch)
            if isinstance(waiter.record, Barrier) and meant and not self.is_primary:
                out.append(Done(waiter.ticket, Progress("caught up", self.state)))
                out += [self._ask(waiter)] if self._asks else self._claim(waiter, now)
                continue
            self._waiters.remove(waiter)
            if isinstance(waiter.record, Claim) and self.is_primary:
                self.following.settled()
            step = "claimed" if isinstance(waiter.record, Claim) else "caught up"
            out.append(Done(waiter.ticket, Progress(step, self.state, final=True)))
        return out

    def _claim(self, waiter: Waiter, now: Now) -> list[Instruction]:
        """We have read all; the epoch that we know is the one to end, unless it ended while the others were asked."""
        if self.is_primary or waiter.ends not in (None, self.state.epoch):
            self._waiters.remove(waiter)
            return [Done(waiter.ticket, Progress("caught up", self.state, final=True))]
        self.held = self.held and not waiter.force
        waiter.record = Claim(
            id=self.new_id(),
            generation=self.state.generation,
            ends=self.state.epoch,
            node=self.node,
            at=now.wall_ms,
            principal=waiter.asked_by.principal,
            source=waiter.asked_by.source,
        )
        waiter.sent_s = now.mono_s
        return [Append(waiter.record)]


def _of_a_later_epoch(record: LogRecord, state: State) -> bool:
    if isinstance(record, Barrier) or record.generation != state.generation:
        return False
    return (record.ends if isinstance(record, Claim) else record.epoch) > state.epoch
