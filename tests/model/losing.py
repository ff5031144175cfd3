"""Nodes on a log that can lose its end, in the hands of an adversary.

The log keeps what was synced and some of the rest when the brokers lose power; perhaps all processes die with them, and
each node has on its disk what it made durable. Or one node's broker is spared: it had not got yet what the others lose,
and the node reads on and notices nothing. The adversary orders everything: what arrives, who reads how far, who
hears of whom, who is started, promoted, healed. Some things it may not do: no primary loses its patience with members
that are down, and nobody is promoted by force (in an impatient world they do); and where a broker is spared, those who
ran with the others have stored what was acknowledged: milliseconds later they have.

Promises: what was acknowledged is never lost, however often the power goes; in an impatient world it may be, but never
silently: who still has it says so. And in the end all nodes are equal, and are what the log says.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import count

from provider.core.commands import PutSetting
from provider.core.comparing import Kept
from provider.core.course import Course
from provider.core.entries import Change, Claim, Entry, decode, encode
from provider.core.replica import OWN_WRITES, Append, Apply, Ask, Done, Instruction, Now, Replica, Request
from provider.core.state import Accepted, Answer, State, step
from provider.core.vouching import Question, Verdict, judge
from shared.errors import Refused

START_MS = 1_700_000_000_000
NAMES = ("p1", "p2", "p3")
Place = tuple[int, str]


def genesis() -> State:
    members = tuple(Change(kind="node", id=name, spec={"url": f"https://{name}:1"}) for name in NAMES)
    return State.genesis(generation="g1", primary="p1", now=START_MS, changes=members)


@dataclass
class Disk:
    """What survives a power cut. It is the node's history, too."""

    state: State
    place: Place | None = None
    """Number of the last record that was read, and its digest."""
    records: dict[int, Kept] = field(default_factory=dict)

    def oldest(self) -> int | None:
        return min(self.records, default=None)

    def at(self, revision: int) -> Kept | None:
        return self.records.get(revision)

    def claim(self, ends: int) -> int | None:
        found = (r for r, k in self.records.items() if isinstance(k.record, Claim) and k.record.ends == ends)
        return next(found, None)


@dataclass
class Node:
    name: str
    disk: Disk
    course: Course | None = None
    """None: it is down."""
    connected: bool = False
    next: int = 0
    """The record that it reads next."""
    last: Place | None = None
    asks: list[Ask] = field(default_factory=list)
    heard: dict[str, tuple[float, int, int]] = field(default_factory=dict)
    """What those that wrote as primaries last told: when, their epoch, their revision."""

    @property
    def reached(self) -> tuple[int, int]:
        """What it knows of, durable or not."""
        state = self.course.replica.state if self.course is not None else self.disk.state
        return state.epoch, state.revision

    @property
    def lost(self) -> bool:
        return self.course is not None and self.course.lost is not None


class World:
    def __init__(
        self,
        *,
        make: Callable[..., Replica] = Replica,
        cautious: bool = True,
        impatient: bool = False,
        alone: bool = False,
    ) -> None:
        """`alone`: nodes vouch for the log although nobody else answers."""
        self.genesis = genesis()
        self.log: list[bytes] = []
        self.first = self.synced = 0
        self.wire: list[tuple[Node, bytes]] = []
        self.acknowledged: dict[str, int] = {}
        self.values: dict[int, str] = {}
        self.tickets, self.ids, self.moments = count(1), count(1), count(1)
        self.nodes = [Node(name, Disk(self.genesis)) for name in NAMES]
        self.losses = 0
        self._make, self._cautious, self._impatient, self._alone = make, cautious, impatient, alone
        self.told_lost: set[str] = set()
        """Documents in records that some node said were not taken over by the others."""
        for node in self.nodes:
            self.start(node)

    # ── processes and connections ──

    def now(self) -> Now:
        at = next(self.moments)
        return Now(START_MS + at, at / 1000)

    def new_id(self) -> str:
        return f"r{next(self.ids)}"

    def start(self, node: Node) -> None:
        replica = self._make(node.name, node.disk.state, self.new_id, cautious=self._cautious)
        node.course, node.last = Course(replica, self.new_id), node.disk.place
        node.next = 0 if node.last is None else node.last[0] + 1
        self.connect(node)

    def kill(self, node: Node) -> None:
        node.course, node.connected = None, False
        node.asks.clear()
        node.heard.clear()

    def connect(self, node: Node) -> None:
        """Reading begins at the last record that was read, and that must be the one that it was."""
        assert node.course is not None
        if node.course.lost is None and not self._goes_on(node):
            node.course.compare(node.disk)
            node.next, node.last = self.first, None
        node.connected = True
        self.perform(node, node.course.log_up(self.now()))

    def _goes_on(self, node: Node) -> bool:
        if node.last is None:
            return node.next >= self.first
        index, digest = node.last
        return self.first <= index < len(self.log) and sha256(self.log[index]).hexdigest() == digest

    def cut(self, node: Node) -> None:
        assert node.course is not None
        node.connected = False
        node.asks.clear()
        self.wire = [(n, data) for n, data in self.wire if n is not node]
        self.perform(node, node.course.log_down())

    def power_cut(self, keep: int, *, all_hosts: bool) -> None:
        """The brokers lose what they had not synced, but for its first `keep` records."""
        for node in self.nodes:
            if node.connected:
                self.cut(node)
            if all_hosts:
                self.kill(node)
        self.wire.clear()
        length = min(self.synced + keep, len(self.log))
        self.losses += len(self.log) - length
        del self.log[length:]
        self.synced = length

    def power_cut_but(self, spared: Node, keep: int, *, other_hosts: bool) -> None:
        """The brokers of the other hosts lose what they had not synced, but for its first `keep` records. The spared
        one has no more than that, and whoever reads from it goes on."""
        course, others = spared.course, [node for node in self.nodes if node is not spared]
        length = min(self.synced + keep, len(self.log))
        newest = max(self.acknowledged.values(), default=0)
        if course is None or not spared.connected or course.comparison is not None or spared.next > length:
            return
        if any(node.disk.state.revision < newest for node in others):
            return
        for node in others:
            if node.connected:
                self.cut(node)
            if other_hosts:
                self.kill(node)
        self.wire.clear()
        self.losses += len(self.log) - length
        del self.log[length:]
        self.synced = length
        spared.asks.clear()
        self.perform(spared, course.log_down(reads=True))
        self.perform(spared, course.log_up(self.now()))

    # ── the log ──

    def arrive(self, index: int) -> None:
        """The oldest append of some node's connection arrives."""
        node = self.wire[index % len(self.wire)][0]
        at = next(i for i, (n, _) in enumerate(self.wire) if n is node)
        self.log.append(self.wire.pop(at)[1])

    def read(self, node: Node) -> bool:
        if node.course is None or not node.connected or node.next >= len(self.log) or node.lost:
            return False
        data = self.log[node.next]
        node.last, node.next = (node.next, sha256(data).hexdigest()), node.next + 1
        self.perform(node, node.course.read(decode(data), self.now()))
        if node.course is not None and node.course.comparison is None:
            node.disk.place = node.last
        return True

    def perform(self, node: Node, instructions: list[Instruction]) -> None:
        for instruction in instructions:
            match instruction:
                case Append(record):
                    if node.connected:
                        self.wire.append((node, encode(record)))
                case Apply(accepted):
                    node.disk.state = accepted.state
                    node.disk.records[accepted.state.revision] = Kept(accepted.record, accepted.state.epoch)
                case Ask():
                    node.asks.append(instruction)
                case Done(ticket, Answer() as answer) if ticket in self.values:
                    assert node.disk.state.revision >= answer.revision, "answered before it was durable"
                    self.acknowledged[self.values[ticket]] = answer.revision
                case Done():
                    pass

    # ── what the others are asked ──

    def tell(self, node: Node) -> None:
        """A primary that writes says so, to all that hear it."""
        replica = node.course.replica if node.course is not None and node.course.comparison is None else None
        if replica is None or not (node.connected and replica.is_primary and replica.caught_up) or replica.held:
            return
        for other in self.nodes:
            if other is not node and other.course is not None and other.connected:
                other.heard[node.name] = (self.now().mono_s, replica.state.epoch, replica.state.revision)
                self.listen(other)

    def listen(self, node: Node) -> None:
        if node.course is not None and (said := node.heard.get(node.course.replica.state.primary)) is not None:
            node.course.primary_said(*said)

    def judged(self, node: Node, ask: Ask) -> Verdict:
        """What is made of the members that answer."""
        assert node.course is not None
        self.listen(node)
        words = {one.name: one.course.word if one.course else None for one in self.nodes if one is not node}
        promotion = ask.about != OWN_WRITES
        asked = Question(node.course.word, promotion, loss_seen=False, alone=self._alone, force=ask.force)
        return judge(asked, words, waited_s=1e9 if self._impatient else 0.0).verdict

    def answer_asks(self, node: Node) -> None:
        for ask in list(node.asks):
            verdict = self.judged(node, ask) if node.course is not None else Verdict.WAIT
            if verdict is Verdict.WAIT or node.course is None:
                continue
            node.asks.remove(ask)
            replica = node.course.replica
            if verdict is Verdict.GO:
                self.perform(node, replica.vouched(ask.about, ask.connection, self.now()))
            else:
                self.perform(node, replica.refuse(ask.about, ask.connection, Refused("a member is silent")))

    # ── clients and operators ──

    def put(self, node: Node) -> None:
        assert node.course is not None
        ticket = next(self.tickets)
        self.values[ticket] = f"user.k{ticket}"
        command = PutSetting(self.values[ticket], ticket)
        request = Request(ticket, command, "ann", "a test", deadline_s=1e9, key=None, fingerprint="", source=None)
        self.perform(node, node.course.replica.submit(request, self.now()))

    def promote(self, node: Node, *, force: bool = False) -> None:
        assert node.course is not None
        force = force and self._impatient
        self.perform(node, node.course.replica.barrier(next(self.tickets), 1e9, self.now(), promote=True, force=force))

    def heal_lost(self, node: Node) -> bool:
        """It takes the state of a member that follows the log and has more epochs or revisions in it."""
        donors = [d for d in self.nodes if d.course is not None and d.course.lost is None and not d.course.comparison]
        donors = [d for d in donors if d.connected and d.course is not None and d.course.replica.caught_up]
        if not donors:
            return False
        donor = max(donors, key=lambda d: d.reached)
        self._tell_lost(node, donor)
        self.kill(node)
        node.disk = Disk(donor.disk.state, donor.disk.place, dict(donor.disk.records))
        self.wire = [(n, data) for n, data in self.wire if n is not node]
        self.start(node)
        return True

    def _tell_lost(self, node: Node, donor: Node) -> None:
        """It keeps what the donor does not have: from where the log says so, else from where their histories part."""
        comparison = node.course.comparison if node.course is not None else None
        assert comparison is not None
        ours, theirs = node.disk.records, donor.disk.records
        first = comparison.missing_from or 1 + max((r for r in ours if ours[r] == theirs.get(r)), default=0)
        for revision, kept in ours.items():
            if revision >= first and isinstance(kept.record, Entry):
                self.told_lost |= {change.id for commit in kept.record.commits for change in commit.changes}

    # ── promises ──

    def fold(self) -> State:
        """What somebody makes of the log who reads it from the beginning. Only while nothing of it was removed."""
        state = self.genesis
        for data in self.log:
            outcome = step(state, decode(data))
            state = outcome.state if isinstance(outcome, Accepted) else state
        return state

    def check(self) -> None:
        """Nobody who is in line with the log has accepted anything else than it says."""
        history: dict[int, str] = {}
        state = self.genesis
        for data in self.log:
            outcome = step(state, decode(data))
            if isinstance(outcome, Accepted):
                state = outcome.state
                history[state.revision] = state.digest
        for node in self.nodes:
            course = node.course
            if course is None or course.lost is not None or course.comparison is not None or not node.connected:
                continue
            its = course.replica.state
            known = history.get(its.revision, self.genesis.digest if its.revision == 1 else None)
            assert known == its.digest, f"{node.name} follows the log and thinks something else than it says"

    def settle(self) -> None:
        for _ in range(3000):
            moved = False
            while self.wire:
                self.arrive(0)
                moved = True
            for node in self.nodes:
                while self.read(node):
                    moved = True
                self.tell(node)
                asked = len(node.asks)
                self.answer_asks(node)
                moved = moved or len(node.asks) < asked
                if node.lost:
                    moved = self.heal_lost(node) or moved
            if not moved:
                return
        raise AssertionError("it does not come to rest")

    def end(self) -> None:
        """All is up again; nobody was given up."""
        for node in self.nodes:
            if node.course is None:
                self.start(node)
            elif not node.connected:
                self.connect(node)
        self.settle()
        final = self.fold()
        for node in self.nodes:
            assert node.course is not None
            assert node.course.lost is None, f"{node.name}: {node.course.lost}"
            assert node.course.comparison is None, f"{node.name} has not come to an end"
            assert node.course.replica.state.digest == final.digest, f"{node.name} is not what the log says"
        for key, revision in self.acknowledged.items():
            document = final.get("setting", key)
            if self._impatient and document is None:
                assert key in self.told_lost, f"{key} was acknowledged and is lost, and nobody says so"
                continue
            assert document is not None, f"{key} was acknowledged and is lost"
            assert document.revision == revision, f"{key} was acknowledged at another revision"
        primary = next(node for node in self.nodes if node.name == final.primary)
        before = len(self.acknowledged)
        self.put(primary)
        self.settle()
        assert len(self.acknowledged) == before + 1, "in the end nothing can be written"
