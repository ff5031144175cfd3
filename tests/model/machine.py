"""The adversary's moves, chosen by hypothesis. See world.py for what is checked."""

from typing import Any, ClassVar
from unittest import mock

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from provider.core import state as state_module
from provider.core.commands import DeleteSetting, Precondition, PutSetting, RecordRefusals
from provider.core.entries import Attempt, Barrier, Change, Claim, Commit, Entry, LogRecord, encode
from tests.model.hosts import Host
from tests.model.oracle import Fact
from tests.model.world import START_MS, Command, PutPair, World

HOSTS = st.integers(0, 5)
"""Which host; the last two mean the primary, where most happens."""
ANY_HOST = st.integers(0, 3)
PICK = st.integers(0, 10_000)
DOCUMENTS = st.sampled_from(["user.a", "user.b", "user.c"])
CONDITIONS = st.sampled_from(["none", "none", "match", "match", "match any", "absent"])
GARBAGE = (b"", b"{}", b"null", b"\xff\xfe", b"[1,2", b'{"type":"entry"}', b'{"type":"order 66","v":1}', b"{" * 5000)
HOUR_MS = 3600 * 1000


class Machine(RuleBasedStateMachine):
    """Three or four hosts; sometimes two bear the name of the first primary."""

    variant: ClassVar[dict[str, Any]] = {}
    """How the world is made: what a broken variant puts in the place of the real thing."""
    keys_max: ClassVar[int | None] = None
    clock_h: ClassVar[int] = 3

    def __init__(self) -> None:
        super().__init__()
        self._patches = [mock.patch.object(state_module, "KEYS_MAX", self.keys_max)] if self.keys_max else []
        for patch in self._patches:
            patch.start()

    @initialize(
        names=st.sampled_from([["p1", "p2", "p3"], ["p1", "p2", "p3", "p4"], ["p1", "p2", "p3", "p1"]]),
        appends_first=st.booleans(),
        late=st.booleans(),
    )
    def begin(self, names: list[str], appends_first: bool, late: bool) -> None:
        self.late = late
        keys_max = self.keys_max or state_module.KEYS_MAX
        self.world = World(names, appends_first=appends_first, keys_max=keys_max, **self.variant)
        self.world.settle()

    def host(self, index: int) -> Host:
        if index > 3:
            primary = self.world.oracle.latest.primary
            index = next((host.index for host in self.world.hosts if host.name == primary), index)
        return self.world.hosts[index % len(self.world.hosts)]

    # ── clients ──

    @rule(at=HOSTS, document=DOCUMENTS, condition=CONDITIONS, fresh=st.booleans(), keyed=st.booleans(), pick=PICK)
    def put(self, at: int, document: str, condition: str, fresh: bool, keyed: bool, pick: int) -> None:
        when, seen = self._condition(condition, document, pick)
        number = len(self.world.ops)
        value = number if fresh else [1, 1.0, True, "ü😀\x00", None, {"a": [1.5, {}]}][pick % 6]
        self._begin(PutSetting(document, value, when), keyed, seen, at)

    @rule(at=HOSTS, document=DOCUMENTS, condition=CONDITIONS, keyed=st.booleans(), pick=PICK)
    def delete(self, at: int, document: str, condition: str, keyed: bool, pick: int) -> None:
        when, seen = self._condition(condition, document, pick)
        self._begin(DeleteSetting(document, when), keyed, seen, at)

    @rule(at=HOSTS, pick=PICK, keyed=st.booleans())
    def put_two(self, at: int, pick: int, keyed: bool) -> None:
        names = ["user.a", "user.b", "user.c"]
        one, two = names[pick % 3], names[(pick + 1) % 3]
        number = len(self.world.ops)
        self._begin(PutPair(PutSetting(one, number), PutSetting(two, number)), keyed, None, at)

    @rule(at=HOSTS, many=st.integers(1, 3), late_h=st.integers(-30, 30))
    def note_refusals(self, at: int, many: int, late_h: int) -> None:
        """A node sends what it refused, as any write: once, whatever happens on the way."""
        number = len(self.world.ops)
        attempts = tuple(
            Attempt(
                at=max(0, START_MS - late_h * HOUR_MS),
                node="p2",
                principal="?",
                action=f"{number}.{index}",
                code="forbidden",
                status=403,
            )
            for index in range(many)
        )
        self._begin(RecordRefusals(attempts), True, None, at)

    @rule(document=DOCUMENTS, conditions=st.lists(CONDITIONS, min_size=2, max_size=4), pick=PICK, twice=st.booleans())
    def crowd(self, document: str, conditions: list[str], pick: int, twice: bool) -> None:
        """Many at one document, and some of them twice."""
        primary = 4
        for condition in conditions:
            self.put(primary, document, condition, True, True, pick)
            if twice:
                self.repeat(primary, len(self.world.ops) - 1, 1)
        self.flow(primary)

    @rule(at=HOSTS, pick=PICK)
    def misuse_a_key(self, at: int, pick: int) -> None:
        keyed = [op for op in self.world.ops if op.key is not None]
        if keyed and self.host(at).replica is not None:
            op = self.world.begin(PutSetting("user.b", len(self.world.ops)), key=keyed[pick % len(keyed)].key)
            self.world.submit(op, self.host(at))

    @rule(at=HOSTS, pick=PICK)
    def retry(self, at: int, pick: int) -> None:
        """The client was sent elsewhere, lost its connection, or ran out of patience."""
        ops = [op for op in self.world.ops if op.open]
        if ops and self.host(at).replica is not None:
            self.world.submit(ops[pick % len(ops)], self.host(at))

    @rule(at=HOSTS, pick=PICK, times=st.integers(1, 3))
    def repeat(self, at: int, pick: int, times: int) -> None:
        """The same key again, although it may have been answered, or is being worked on here or elsewhere."""
        ops = [op for op in self.world.ops if op.key is not None]
        for _ in range(times):
            if ops and self.host(at).replica is not None:
                self.world.submit(ops[pick % len(ops)], self.host(at))

    def _begin(self, command: Command, keyed: bool, seen: Fact | None, at: int) -> None:
        if self.host(at).replica is not None:
            op = self.world.begin(command, key=f"key {len(self.world.ops)}" if keyed else None, seen=seen)
            self.world.submit(op, self.host(at))

    def _condition(self, condition: str, document: str, pick: int) -> tuple[Precondition, Fact | None]:
        """What a client read before: on some host, or in an answer to itself."""
        if condition == "none":
            return Precondition(), None
        if condition == "absent":
            return Precondition(absent=True), None
        if condition == "match any":
            return Precondition(revision=pick % 12), None
        told = [op.told.document for op in self.world.ops if op.told is not None and op.target[1] == document]
        read = [Fact.of(host.store.load().get("setting", document)) for host in self.world.hosts]
        facts = [fact for fact in (told[-1:] if told and pick % 2 else [*told, *read]) if fact is not None]
        if not facts:
            return Precondition(revision=1), None
        fact = facts[pick % len(facts)]
        return Precondition(revision=fact.revision), fact

    # ── operators ──

    @rule(at=ANY_HOST)
    def promote(self, at: int) -> None:
        if self.host(at).replica is not None:
            self.world.ask(self.host(at), promote=True)

    @rule(at=ANY_HOST)
    def barrier(self, at: int) -> None:
        if self.host(at).replica is not None:
            self.world.ask(self.host(at), promote=False)

    # ── the log ──

    @precondition(lambda self: self.world.wire)
    @rule(pick=PICK, again=st.sampled_from([False, False, True]))
    def arrive(self, pick: int, again: bool) -> None:
        self.world.arrive(self.world.wire[pick % len(self.world.wire)], again=again)

    @precondition(lambda self: self.world.wire)
    @rule(pick=PICK, lost=st.booleans())
    def fail(self, pick: int, lost: bool) -> None:
        self.world.fail(self.world.wire[pick % len(self.world.wire)], lost=lost)

    @rule(at=HOSTS, records=st.integers(1, 5))
    def read(self, at: int, records: int) -> None:
        host = self.host(at)
        for _ in range(records):
            if host.replica is not None and host.connection is not None and host.position < len(self.world.log):
                self.world.read(host)
                self.world.check()

    @rule(at=HOSTS)
    def flow(self, at: int) -> None:
        """For a while all goes well with one host: what it sent arrives, and it reads to the end."""
        host = self.host(at)
        for _ in range(3):  # a barrier, then the claim, then a write
            for packet in [p for p in self.world.wire if p.host is host]:
                self.world.arrive(packet)
            self.read(host.index, 1000)

    @precondition(lambda self: self.world.log)
    @rule(pick=PICK)
    def replay(self, pick: int) -> None:
        self.world.write(self.world.log[pick % len(self.world.log)])

    @rule(pick=PICK)
    def garbage(self, pick: int) -> None:
        self.world.write(GARBAGE[pick % len(GARBAGE)])

    @rule(
        kind=st.sampled_from(
            ["generation", "old epoch", "new epoch", "repeated", "gap", "claim", "claim generation", "claim stranger"]
        ),
        pick=PICK,
    )
    def foreign(self, kind: str, pick: int) -> None:
        """A record that must be skipped, whatever else it looks like."""
        self.world.write(encode(self._foreign(kind, pick)))
        self.world.gaps_forged |= kind == "gap"

    def _foreign(self, kind: str, pick: int) -> LogRecord:
        view = self.world.oracle.latest
        generation = "g0" if "generation" in kind else view.generation
        common: Any = {"id": f"foreign {pick}", "generation": generation, "node": "p2", "at": START_MS + pick}
        if kind == "claim stranger":
            return Claim(ends=view.epoch, **common | {"node": "p9"})
        if kind.startswith("claim"):
            wrong = view.epoch - 1 if pick % 2 else view.epoch + 1
            return Claim(ends=view.epoch if "generation" in kind else wrong, **common)
        if kind == "new epoch" and pick % 4 == 0:
            return Barrier(**common)
        epoch = {"old epoch": view.epoch - 1, "new epoch": view.epoch + 1}.get(kind, view.epoch)
        seq = {"repeated": max(0, view.revision - pick % 3), "gap": view.revision + 2}.get(kind, view.revision + 1)
        change = Change(kind="setting", id="user.a", spec={"value": "foreign"})
        commit = Commit(principal="eve", action="none", status=200, key="foreign", changes=(change,))
        return Entry(epoch=epoch, seq=seq, commits=(commit,), **common)

    # ── bad days ──

    @rule(at=HOSTS, losing=st.booleans())
    def cut(self, at: int, losing: bool) -> None:
        """The connection goes, perhaps with all that was on its way."""
        host = self.host(at)
        if host.connection is not None:
            self.world.cut(host)
            for packet in [p for p in self.world.wire if losing and p.host is host]:
                self.world.fail(packet, lost=True)

    @rule(at=HOSTS)
    def come_back(self, at: int) -> None:
        host = self.host(at)
        if host.replica is None:
            self.world.start(host)
        if host.connection is None:
            self.world.connect(host)

    @rule(at=HOSTS, after=st.integers(0, 4))
    def doom(self, at: int, after: int) -> None:
        """The process dies, now or between two instructions that it will be given."""
        host = self.host(at)
        if host.replica is not None:
            host.doom = after
            if after == 0:
                self.world.crash(host)

    @rule(at=HOSTS, seconds=st.sampled_from([0.5, 1.5, 6.0]))
    def time_passes(self, at: int, seconds: float) -> None:
        self.world.mono_s += seconds
        if self.host(at).replica is not None:
            self.world.tick(self.host(at))

    @rule(at=HOSTS, hours=st.integers(-3, 3))
    def shift_clock(self, at: int, hours: int) -> None:
        """Set, not moved: clocks stay within the hours that they may be apart."""
        self.host(at).clock_ms = hours * self.clock_h // 3 * HOUR_MS

    # ── always ──

    @invariant()
    def promises_are_kept(self) -> None:
        if hasattr(self, "world"):
            self.world.check()

    @rule(late=st.booleans(), pick=st.integers(0, 9))
    def heal(self, late: bool, pick: int) -> None:
        if pick == 0:  # seldom: it ends all that is going on
            self.world.heal(late=late)

    def teardown(self) -> None:
        try:
            if hasattr(self, "world"):
                self.world.heal(late=self.late)
        finally:
            for patch in self._patches:
                patch.stop()


class ForgetfulMachine(Machine):
    """Keys are forgotten early, and clocks are off by days: nodes must still agree on what they forget."""

    keys_max = 2
    clock_h = 60
