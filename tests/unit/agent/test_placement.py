"""At which broker the agent sits: it follows what it hears of the primary, and nobody makes it run in circles."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.endpoints import in_order
from agent.placement import FIRST_WORD_S, Abandon, Move, Placement, Seek, Settle
from agent.session import Note
from shared.messages import Beat

BROKERS = ("amqps://p1:1", "amqps://p2:1", "amqps://p3:1")
P1, P2, P3 = BROKERS
BEAT = Beat(interval_s=2.0, spread_s=1.0)


@dataclass
class World:
    """Brokers that can be reached, brokers at which the primary is heard, and an agent that goes by its placement."""

    agent: str = "db1"
    endpoints: tuple[str, ...] = BROKERS
    reachable: set[str] = field(default_factory=lambda: set(BROKERS))
    hears: set[str] = field(default_factory=lambda: set(BROKERS))
    beats: bool = True
    """Whether the primary does; otherwise it answers each new connection once."""
    now_s: float = 1000.0
    here: str | None = None
    sought: str | None = None
    connections: int = 0
    notes: list[Note] = field(default_factory=list)
    history: list[tuple[float, str]] = field(default_factory=list)
    epoch: int = 1

    def __post_init__(self) -> None:
        self.placement = Placement(self.agent, self.endpoints, epoch=1, stagger_s=1.0, return_s=10.0)
        self.connect()

    def connect(self) -> None:
        """As a link does: to the first that can be reached."""
        self.here = next((one for one in self.placement.order(last=self.here) if one in self.reachable), None)
        if self.here is not None:
            self.arrive()

    def arrive(self) -> None:
        assert self.here is not None
        self.connections += 1
        self.history.append((round(self.now_s - 1000.0, 1), self.here))
        self.placement.connected(self.here, self.now_s)
        if self.here in self.hears and not self.beats:
            self.do(self.placement.heard(None, here=True, there=False, now_s=self.now_s))

    def do(self, moves: list[Move]) -> None:
        for move in moves:
            match move:
                case Seek(endpoint):
                    assert endpoint != self.here
                    self.sought = endpoint
                    self.connections += endpoint in self.reachable
                case Abandon():
                    assert self.sought is not None
                    self.sought = None
                case Settle():
                    self.here, self.sought = self.sought if self.sought in self.reachable else None, None
                    self.connections -= 1
                    if self.here is not None:
                        self.arrive()
                case Note():
                    self.notes.append(move)

    def wait(self, seconds: float) -> "World":
        for _ in range(round(seconds / 0.5)):
            self.now_s += 0.5
            self.placement.told(self.endpoints, self.epoch, self.now_s)
            if self.here is None:
                self.connect()
            elif self.here not in self.reachable:
                self.here = None
                self.do(self.placement.disconnected())
            if self.sought in self.reachable:
                self.do(self.placement.reached(self.now_s))
            if self.beats and self.now_s % 2 == 0:
                for here, at in ((True, self.here), (False, self.sought)):
                    if at in self.hears:
                        self.do(self.placement.heard(BEAT, here=here, there=not here, now_s=self.now_s))
            self.do(self.placement.due(self.now_s))
        return self

    def until(self, endpoint: str, seconds: float) -> float:
        """How long it takes to sit at `endpoint`."""
        began_s = self.now_s
        while self.here != endpoint:
            assert self.now_s - began_s < seconds, (self.here, self.history, self.notes)
            self.wait(0.5)
        return self.now_s - began_s


def other_of(world: World) -> str:
    """Where it goes first when it loses the preferred broker."""
    return in_order(world.endpoints, world.agent)[1]


# ── well ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_at_the_preferred_broker_nothing_is_looked_for() -> None:
    world = World().wait(1000)
    assert (world.here, world.connections, world.notes) == (P1, 1, [])
    assert "preferred" in world.placement.why


def test_a_new_preferred_broker_is_moved_to_when_the_primary_is_heard_there() -> None:
    world = World().wait(10)
    world.endpoints, world.epoch = (P2, P1, P3), 2
    assert world.until(P2, 20.0) <= 14.0
    assert world.placement.preferred == P2
    assert world.wait(100).connections == 2


def moved_after_s(here: str, heard: Beat) -> list[float]:
    """When fifty agents there begin to look at another broker, after they were told of a new preferred one."""
    waits_s = []
    for number in range(50):
        placement = Placement(f"db{number}", BROKERS, epoch=1, stagger_s=1.0, return_s=10.0)
        placement.connected(here, 0.0)
        placement.heard(heard, here=True, there=False, now_s=0.0)
        placement.told((P2, P3), 2, 1.0)
        waits_s.append(next(tick / 10 for tick in range(3000) if placement.due(1.0 + tick / 10)))
    return waits_s


def test_moves_that_all_make_are_spread_over_the_time_that_the_primary_says() -> None:
    waits_s = moved_after_s(P1, Beat(interval_s=300.0, spread_s=20.0))
    assert {min(int(wait_s // 2), 9) for wait_s in waits_s} == set(range(10)), "in a spread: its broker is left"


def test_who_hears_the_primary_where_it_is_moves_later_than_it_answers_and_more_slowly() -> None:
    waits_s = moved_after_s(P3, Beat(interval_s=300.0, spread_s=2.0))
    assert min(waits_s) >= 4.0
    assert {min(int((wait_s - 4.0) // 2), 9) for wait_s in waits_s} == set(range(10))
    assert max(moved_after_s(P3, Beat(interval_s=300.0, spread_s=0.01))) <= 1.1, "a small fleet does not wait for long"


# ── a broker that is gone ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_lost_broker_is_returned_to_when_it_is_back() -> None:
    world = World().wait(10)
    world.reachable.discard(P1)
    world.wait(120)
    assert world.here == other_of(world)
    assert f"{P1} is preferred and cannot be reached" in world.placement.why
    world.reachable.add(P1)
    assert world.until(P1, 60.0) > 0
    assert world.placement.why.startswith("the preferred broker")


def test_a_fleet_returns_in_no_step() -> None:
    moments = []
    for number in range(100):
        world = World(agent=f"db{number}").wait(10)
        world.reachable.discard(P1)
        world.wait(120)
        world.reachable.add(P1)
        moments.append(world.until(P1, 60.0))
    for begin in range(0, 60, 5):
        assert sum(begin <= moment < begin + 5 for moment in moments) < 40, sorted(moments)


def test_without_any_broker_it_says_so() -> None:
    world = World().wait(10)
    world.reachable.clear()
    world.wait(5)
    assert world.placement.why == "no broker can be reached"
    world.reachable.add(P3)
    world.wait(5)
    assert world.here == P3


def test_a_broker_that_dies_while_another_was_looked_at_and_reached_is_left_for_that_one() -> None:
    world = World().wait(10)
    world.hears.discard(P1)
    while world.sought is None or not world.placement._look or not world.placement._look.up:
        world.wait(0.5)
    found = world.sought
    world.reachable.discard(P1)
    world.wait(0.5)
    assert world.here == found


# ── a broker that is cut off from the primary ────────────────────────────────────────────────────────────────────────


def test_who_misses_three_beats_leaves_for_a_broker_that_hears_the_primary() -> None:
    world = World().wait(10)
    world.hears.discard(P1)
    world.wait(6)
    assert (world.here, world.sought) == (P1, None)
    assert world.until(other_of(world), 10.0) <= 8.0
    assert any("nothing is heard of the primary" in note.text for note in world.notes)


def test_the_next_one_is_passed_over_where_it_does_not_hear_the_primary_either() -> None:
    world = World().wait(10)
    last = in_order(BROKERS, "db1")[2]
    world.hears.intersection_update({last})
    world.until(last, 30.0)
    assert [at for _, at in world.history] == [P1, last]  # it sat nowhere else in between


def test_it_comes_back_when_the_primary_is_heard_there_again_and_not_before() -> None:
    world = World().wait(10)
    world.hears.discard(P1)
    world.until(other_of(world), 20.0)
    world.wait(600)
    assert world.here == other_of(world)
    assert len(world.history) == 2
    assert "does not hear the primary" in world.placement.why
    world.hears.add(P1)
    world.until(P1, 500.0)


def test_who_is_heard_again_is_not_left() -> None:
    world = World().wait(10)
    world.hears.clear()
    world.wait(30)
    world.hears.update(BROKERS)
    world.wait(600)
    assert [at for _, at in world.history] == [P1]
    assert any("heard again" in note.text for note in world.notes)


# ── no primary at all ────────────────────────────────────────────────────────────────────────────────────────────────


def test_without_a_primary_nobody_moves_and_looks_become_rare() -> None:
    world = World().wait(10)
    world.hears.clear()
    world.wait(3600)
    assert [at for _, at in world.history] == [P1]
    assert world.connections < 40
    assert len(world.notes) == 2  # that nothing is heard, and that it is heard nowhere
    assert "none of the other brokers hears it either" in world.placement.why
    early, world.connections = world.connections, 0
    world.wait(3600)
    assert 2 <= world.connections < early


def test_one_broker_alone_is_not_left_and_status_says_what_is_wrong() -> None:
    world = World(endpoints=(P1,)).wait(10)
    world.hears.clear()
    world.wait(600)
    assert (world.here, world.connections) == (P1, 1)
    assert world.placement.why == "nothing heard of the primary"


# ── older versions ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_primary_that_never_beats_is_not_missed() -> None:
    world = World(beats=False).wait(3600)
    assert (world.here, world.connections) == (P1, 1)


def test_one_of_an_older_version_may_follow_one_that_beats() -> None:
    world = World().wait(10)
    world.epoch, world.beats = 2, False
    world.placement.told(BROKERS, 2, world.now_s)
    world.do(world.placement.heard(None, here=True, there=False, now_s=world.now_s))  # its advice
    world.wait(3600)
    assert (world.here, world.connections) == (P1, 1)


def test_a_return_to_one_that_does_not_beat_needs_no_word_of_it() -> None:
    world = World(beats=False).wait(10)
    world.reachable.discard(P1)
    world.wait(60)
    assert world.here == other_of(world)
    world.reachable.add(P1)
    world.until(P1, 60.0)


def test_started_at_a_broker_that_is_cut_off_it_finds_the_primary() -> None:
    world = World(hears={P2, P3})
    assert world.until(other_of(world), 3 * FIRST_WORD_S) > FIRST_WORD_S - 1
    world.wait(10)
    assert world.placement.why != "the preferred broker, the primary's"


def test_started_without_any_primary_it_moves_ever_more_seldom() -> None:
    world = World(hears=set())
    world.wait(3600)
    first = len(world.history)
    world.wait(3600)
    assert len(world.history) - first <= first < 20


# ── anything at all ──────────────────────────────────────────────────────────────────────────────────────────────────

FAULTS = st.lists(
    st.tuples(
        st.sampled_from(["reachable", "hears"]), st.sets(st.sampled_from(BROKERS)), st.integers(0, 120), st.booleans()
    ),
    max_size=8,
)


@settings(max_examples=60)
@given(st.sampled_from(["db1", "db2", "db3", "x"]), FAULTS)
def test_after_any_faults_it_ends_at_the_preferred_broker_and_is_quiet(
    agent: str, faults: list[tuple[str, set[str], int, bool]]
) -> None:
    world = World(agent=agent)
    world.wait(5)
    for what, which, seconds, new_reign in faults:
        setattr(world, what, set(which))
        if new_reign:
            world.epoch += 1
            world.endpoints = (*world.endpoints[1:], world.endpoints[0])
        world.wait(seconds)
    world.reachable, world.hears = set(BROKERS), set(BROKERS)
    world.wait(100)  # one that had just begun to look elsewhere may go there first
    world.until(world.endpoints[0], 1000.0)
    before = world.connections
    world.wait(100)
    assert (world.here, world.sought, world.connections) == (world.endpoints[0], None, before)


@pytest.mark.parametrize("agent", ["db1", "db2", "db3"])
def test_two_connections_are_the_most_there_ever_are(agent: str) -> None:
    world = World(agent=agent).wait(10)
    world.hears.clear()
    for _ in range(2000):
        world.wait(0.5)
        assert world.sought != world.here
