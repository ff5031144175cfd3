"""Hosts, clients and the log between them, in the hands of an adversary. Every promise is checked as things happen.

The adversary decides when and how often an append arrives, and if it does; cuts and restores connections; kills
processes between any two instructions and starts them again from their stores; shifts clocks; writes foreign records.
It keeps to what the log promises (provider/log): while a connection stands, an append arrives or is reported as failed
(and may arrive all the same).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from provider.core.commands import ALWAYS, DeleteSetting, Plan, Precondition, PutSetting, RecordRefusals
from provider.core.entries import Change, LogRecord, Unreadable, decode, encode
from provider.core.replica import Append, Apply, Done, Instruction, NotPrimary, Now, Progress, Replica, Request
from provider.core.state import KEYS_MAX, Answer, State, Why
from shared.errors import Invalid, LogUnavailable, NotFound, OutcomeUnknown, Refusal, StaleRevision
from tests.model import oracle
from tests.model.hosts import Host, Store
from tests.model.oracle import Fact, Oracle, Told, View

START_MS = 1_700_000_000_000
GENERATION = "g1"
SURE_NOT_DONE = (NotPrimary, LogUnavailable, Refusal)
UNSURE = (OutcomeUnknown, str)


@dataclass(frozen=True)
class PutPair:
    """Two documents in one request."""

    first: PutSetting
    second: PutSetting

    def plan(self, state: State, now: int) -> Plan:
        one, two = self.first.plan(state, now), self.second.plan(state, now)
        return Plan(one.status, one.target, one.changes + two.changes)


Command = PutSetting | DeleteSetting | PutPair | RecordRefusals


@dataclass
class Op:
    """What a client wants to be done once."""

    number: int
    command: Command
    principal: str
    key: str | None
    seen: Fact | None = None
    """The document that its `If-Match` was taken from."""
    floor: int = 0
    """The highest revision that anybody had been told of before it began."""
    attempts: "list[Attempt]" = field(default_factory=list)
    commits: list[oracle.Done] = field(default_factory=list)

    @property
    def when(self) -> Precondition:
        if isinstance(self.command, RecordRefusals):
            return ALWAYS
        return self.command.first.when if isinstance(self.command, PutPair) else self.command.when

    @property
    def target(self) -> tuple[str, str]:
        if isinstance(self.command, RecordRefusals):
            return ("no document", "")
        return ("setting", self.command.first.key if isinstance(self.command, PutPair) else self.command.key)

    @property
    def told(self) -> Told | None:
        return next((Told.of(a.result) for a in self.attempts if isinstance(a.result, Answer)), None)

    @property
    def open(self) -> bool:
        """Whether the client has reason to try again, and may."""
        results = [attempt.result for attempt in self.attempts]
        if None in results or any(isinstance(r, Answer | Refusal) for r in results):
            return False
        return self.key is not None or not any(isinstance(r, UNSURE) for r in results)

    def refused_in(self, view: View) -> bool:
        """Whether a node that thinks this must refuse it."""
        known = view.keys.get((self.principal, self.key)) if self.key is not None else None
        if known is not None:
            return known.request != f"op {self.number}"
        fact = view.documents.get(self.target)
        if isinstance(self.command, DeleteSetting) and fact is None:
            return True
        if self.when.absent:
            return fact is not None
        return self.when.revision is not None and (fact is None or fact.revision != self.when.revision)


@dataclass
class Attempt:
    op: Op
    host: Host
    began_at: int
    """The log's length then."""
    result: Any = None


@dataclass
class Asked:
    """A barrier or a promotion."""

    host: Host
    began_at: int
    result: Any = None


@dataclass
class Packet:
    """An append on its way."""

    host: Host
    connection: int | None
    record: LogRecord
    data: bytes


class World:
    def __init__(
        self,
        names: Iterable[str],
        *,
        make: Callable[..., Replica] = Replica,
        store: Callable[..., Store] = Store,
        keys_max: int = KEYS_MAX,
        appends_first: bool = False,
        new_key_on_retry: bool = False,
    ) -> None:
        names = list(names)
        members = (Change(kind="node", id=name, spec={"url": f"https://{name}:1"}) for name in sorted(set(names)))
        start = (Change(kind="setting", id="user.a", spec={"value": 0}), *members)
        genesis = State.genesis(generation=GENERATION, primary="p1", now=START_MS, changes=start)
        self.oracle = Oracle(genesis, keys_max=keys_max, on_accept=self._accepted)
        self.log: list[bytes] = []
        self.wire: list[Packet] = []
        self.ops: list[Op] = []
        self.attempts: dict[int, Attempt] = {}
        self.asked: dict[int, Asked] = {}
        self.mono_s = 0.0
        self.gaps_forged = False
        self._appends_first, self._new_key_on_retry = appends_first, new_key_on_retry
        self._forgetful = keys_max < KEYS_MAX
        self._tickets, self._ids, self._connections = count(1), count(1), count(1)
        self._told_revision = 0
        self._digests: dict[int, str] = {}
        self._primaries: dict[int, str] = {}
        self._checked: dict[int, tuple[State, int]] = {}
        self.hosts = [Host(i, name, store(genesis), make) for i, name in enumerate(names)]
        for host in self.hosts:
            self.start(host)
            self.connect(host)

    # ── processes and connections ──

    def now(self, host: Host) -> Now:
        return Now(START_MS + int(self.mono_s * 1000) + host.clock_ms, self.mono_s)

    def start(self, host: Host) -> None:
        host.start(lambda: f"r{next(self._ids)}")

    def crash(self, host: Host) -> None:
        for attempt in self.attempts.values():
            if attempt.host is host and attempt.result is None:
                attempt.result = "connection lost"
        for asked in self.asked.values():
            if asked.host is host and asked.result is None:
                asked.result = "connection lost"
        host.die()

    def connect(self, host: Host) -> None:
        assert host.replica is not None
        host.connection = next(self._connections)
        self.perform(host, host.replica.log_up(self.now(host)))

    def cut(self, host: Host) -> None:
        assert host.replica is not None
        host.connection = None
        self.perform(host, host.replica.log_down())

    def tick(self, host: Host) -> None:
        assert host.replica is not None
        self.perform(host, host.replica.tick(self.now(host)))

    # ── the log ──

    def arrive(self, packet: Packet, *, again: bool = False) -> None:
        """The append reaches the log; with `again`, it will once more."""
        if not again:
            self.wire.remove(packet)
        self.write(packet.data)

    def fail(self, packet: Packet, *, lost: bool) -> None:
        """The append is lost, or nobody knows. While its connection stands, its sender is told."""
        if lost:
            self.wire.remove(packet)
        host = packet.host
        if host.replica is not None and packet.connection == host.connection:
            self.perform(host, host.replica.failed(packet.record, self.now(host)))

    def write(self, data: bytes) -> None:
        self.log.append(data)
        self.oracle.feed(data)

    def read(self, host: Host) -> None:
        """The host's process reads the next record."""
        assert host.replica is not None
        data = self.log[host.position]
        host.position += 1
        try:
            record = decode(data)
        except Unreadable:
            return
        self.perform(host, host.replica.read(record, self.now(host)))

    def perform(self, host: Host, instructions: list[Instruction]) -> None:
        """Carry the instructions out as the contract in replica.py allows, unless the process dies on the way."""
        if self._appends_first:
            instructions = sorted(instructions, key=lambda instruction: not isinstance(instruction, Append))
        for instruction in instructions:
            if host.doom == 0:
                self.crash(host)
                return
            host.doom = host.doom - 1 if host.doom is not None else None
            match instruction:
                case Append(record):
                    data = encode(record)
                    assert decode(data) == record, "a record changes when it is written down"
                    self.wire.append(Packet(host, host.connection, record, data))
                case Apply(accepted):
                    host.store.apply(accepted, host.position)
                    stored = host.store.load()
                    assert stored == accepted.state, "what is stored is not what was applied"
                    assert stored.digest == accepted.state.digest, "the checksum kept up to date is not the sum"
                    assert stored.families == accepted.state.families, "the index is not that of the documents"
                    assert stored.key_chars == accepted.state.key_chars, "what is counted is not what is there"
                case Done(ticket, result):
                    self._done(host, ticket, result)

    # ── clients ──

    def begin(self, command: Command, *, key: str | None, principal: str = "ann", seen: Fact | None = None) -> Op:
        op = Op(len(self.ops), command, principal, key, seen, floor=self._told_revision)
        self.ops.append(op)
        return op

    def submit(self, op: Op, host: Host, *, wait_s: float = 5.0) -> None:
        assert host.replica is not None
        ticket = next(self._tickets)
        if self._new_key_on_retry and op.attempts and op.key is not None:
            op.key += "'"
        attempt = Attempt(op, host, len(self.log))
        self.attempts[ticket] = attempt
        op.attempts.append(attempt)
        request = Request(
            ticket,
            op.command,
            op.principal,
            "a test",
            self.mono_s + wait_s,
            key=op.key,
            fingerprint=f"op {op.number}",
            source=str(ticket),
        )
        self.perform(host, host.replica.submit(request, self.now(host)))

    def ask(self, host: Host, *, promote: bool, wait_s: float = 5.0) -> None:
        assert host.replica is not None
        ticket = next(self._tickets)
        self.asked[ticket] = Asked(host, len(self.log))
        deadline = self.mono_s + wait_s
        self.perform(host, host.replica.barrier(ticket, deadline, self.now(host), promote=promote))

    # ── promises ──

    def _done(self, host: Host, ticket: int, result: Any) -> None:
        if ticket in self.asked:
            self._asked_done(host, self.asked[ticket], result)
            return
        attempt = self.attempts[ticket]
        assert attempt.result is None, "a request was answered twice"
        attempt.result = result
        match result:
            case Answer():
                self._check_answer(host, attempt, result)
            case Refusal():
                self._check_refusal(host, attempt, result)
            case NotPrimary() | LogUnavailable() | OutcomeUnknown():
                pass
            case _:
                raise AssertionError(f"no such answer: {result!r}")
        if isinstance(result, SURE_NOT_DONE):
            done = [d for d in attempt.op.commits if d.commit.source == str(ticket)]
            assert not done, f"it was said not to be done, but it was: {result!r}"

    def _asked_done(self, host: Host, asked: Asked, result: Any) -> None:
        assert asked.result is None, "a barrier was answered twice"
        if isinstance(result, Progress):
            assert host.position > asked.began_at, "a barrier was passed before the log's end then was read"
            assert result.state.revision <= host.store.revision, "progress was told before the state was durable"
            if not result.final:
                return
            if result.step == "claimed":
                claimed = self.oracle.views[host.position]
                assert result.state.epoch == claimed.epoch, "a claim was answered before it was read"
        asked.result = result

    def _check_answer(self, host: Host, attempt: Attempt, answer: Answer) -> None:
        op, told = attempt.op, Told.of(answer)
        assert answer.revision <= host.store.revision, "answered before it was durable"
        assert any(d.told == told and d.position <= host.position for d in op.commits), (
            f"acknowledged, but not what the log up to there says: {told}"
        )
        for other in op.attempts:
            if isinstance(other.result, Answer):
                assert self._forgetful or Told.of(other.result) == told, "one request, two different answers"
        if len(op.attempts) == 1:
            assert answer.revision > op.floor, "done before it was asked for"
        self._told_revision = max(self._told_revision, answer.revision)

    def _check_refusal(self, host: Host, attempt: Attempt, refusal: Refusal) -> None:
        assert isinstance(refusal, StaleRevision | NotFound | Invalid), f"refused without reason: {refusal!r}"
        since = self.oracle.views[attempt.began_at : host.position + 1]
        assert any(attempt.op.refused_in(view) for view in since), f"refused from an old state: {refusal!r}"

    def _accepted(self, done: oracle.Done) -> None:
        """A commit stands in the log, accepted."""
        if done.commit.source is None or not done.commit.source.isdigit():
            return  # not of a client of ours
        attempt = self.attempts[int(done.commit.source)]
        op = attempt.op
        assert not isinstance(attempt.result, SURE_NOT_DONE), f"it was said not to be done: {attempt.result!r}"
        if op.key is not None:
            assert (op.principal, op.key) not in done.keys, "done twice under one idempotency key"
        assert all(d.commit.source != done.commit.source for d in op.commits), "one attempt was done twice"
        if op.commits and op.key is not None:
            assert (op.principal, op.commits[-1].commit.key) not in done.keys, "done again under another key"
        if op.commits and op.key is None:
            raise AssertionError("done twice")
        if op.when.revision is not None and done.commit.changes:
            before = done.before.get(op.target)
            assert before is not None, "If-Match brought back what was deleted"
            assert before.revision == op.when.revision, "If-Match wrote over another revision"
            assert op.seen is None or before == op.seen, "If-Match wrote over a change that its client had not seen"
        if op.when.absent and done.commit.changes:
            assert op.target not in done.before, "If-None-Match wrote over a document"
        self._check_audit(op, done)
        op.commits.append(done)

    def _check_audit(self, op: Op, done: oracle.Done) -> None:
        """What the log says for the audit is what was."""
        before = tuple(fact.revision if (fact := done.before.get((c.kind, c.id))) else 0 for c in done.commit.changes)
        assert done.commit.before == before, "a change names another revision before it than there was"
        wanted = op.command.attempts if isinstance(op.command, RecordRefusals) else ()
        assert [a.action for a in done.commit.refused] == [a.action for a in wanted], "what was refused is not noted"
        assert not (wanted and done.commit.changes), "a refusal changes a document"

    def check(self) -> None:
        """What must hold after every step, on every host that is up."""
        for host in self.hosts:
            if host.replica is None:
                continue
            state = host.replica.state
            earlier = self._checked.get(host.index)
            if earlier is not None and earlier[0] is state and earlier[1] == host.position:
                continue
            digest = self._digests.setdefault(host.position, state.digest)
            assert state.digest == digest, "two nodes read equally far, and are not equal"
            assert View.of(state) == self.oracle.views[host.position], "a node does not think what the log says"
            primary = self._primaries.setdefault(state.epoch, state.primary)
            assert state.primary == primary, "two primaries in one epoch"
            if earlier is not None and earlier[1] <= host.position:
                assert state.revision >= earlier[0].revision, "the revision went back"
            if not self.gaps_forged:
                assert Why.GAP not in host.replica.skipped, "an entry was skipped for a gap that nobody made"
            self._checked[host.index] = (state, host.position)

    # ── the end ──

    def settle(self) -> None:
        """Everything arrives, everybody reads to the end. No time passes."""
        for _ in range(1000):
            live = [p for p in self.wire if p.host.replica is not None and p.connection == p.host.connection]
            for packet in live:
                self.arrive(packet)
            behind = [h for h in self.hosts if h.connection is not None and h.position < len(self.log)]
            for host in behind:
                while host.position < len(self.log):
                    self.read(host)
                self.check()
            if not live and not behind:
                return
        raise AssertionError("it does not come to rest")

    def heal(self, *, late: bool) -> None:
        """All processes run, all connections stand; then everybody has an answer, and all are equal. With `late`, what
        was sent over connections that are gone arrives first."""
        for packet in [p for p in self.wire if late and p.connection != p.host.connection]:
            self.arrive(packet)
        for host in self.hosts:
            host.doom = None
            if host.replica is None:
                self.start(host)
            if host.connection is None:
                self.connect(host)
        self.settle()
        for attempt in self.attempts.values():
            assert attempt.result is not None, "a request was never answered"
        for asked in self.asked.values():
            assert asked.result is not None, "a barrier or claim was never answered"
        self._finish_all()
        states = [host.replica.state for host in self.hosts if host.replica is not None]
        assert all(state == states[0] and state.digest == states[0].digest for state in states), "not all are equal"
        self._all_beat()

    def _finish_all(self) -> None:
        """Clients go on until they know: with the primary at rest, one more try is enough."""
        primary = next((host for host in self.hosts if host.name == self.oracle.latest.primary), None)
        if primary is None:
            return  # a foreign claim's
        for op in [op for op in self.ops if op.open]:
            self.submit(op, primary)
        self.settle()
        for op in self.ops:
            assert not op.open, "at rest, and still no answer"

    def _all_beat(self) -> None:
        """An idle primary knows that it is one; a node that is none has not asked."""
        self.mono_s += 10.0
        for host in self.hosts:
            self.tick(host)
        self.settle()
        for host in self.hosts:
            assert host.replica is not None
            if host.replica.is_primary:
                assert host.replica.read_back_s == self.mono_s, "an idle primary does not read the log back"
