"""Nodes that share one database: each entry is stored once, whoever comes first, and nothing acknowledged is lost."""

from typing import Any, ClassVar
from unittest import mock

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from provider.core.instructions import Instruction
from provider.engine import Engine
from provider.inbox import Event
from provider.recovery.recovery import Recovery
from provider.store import StoreCorrupt
from tests.model.driven import Database
from tests.model.profiles import profiles, short
from tests.model.sharing import Node, World

PROFILES = profiles(40, 100, examples=30)
WHO = st.integers(0, 2)


class Machine(RuleBasedStateMachine):
    database: ClassVar[Database]
    world: World

    @initialize()
    def begin(self) -> None:
        self.world = World(self.database)
        self.world.step()

    def node(self, who: int) -> Node:
        return self.world.nodes[who]

    @rule(who=WHO)
    def put(self, who: int) -> None:
        self.world.put(self.node(who))

    @rule(many=st.integers(1, 3))
    def put_at_the_primary(self, many: int) -> None:
        for node in self.world.nodes:
            if node.engine is not None and node.engine.state.primary == node.name:
                for _ in range(many):
                    self.world.put(node)

    @rule(many=st.integers(1, 3))
    def commit(self, many: int) -> None:
        """The primary, or who takes himself for it, commits: nobody else reads."""
        for _ in range(many):
            self.put_at_the_primary(1)
            for who, node in enumerate(self.world.nodes):
                if node.engine is not None and node.engine.state.primary == node.name:
                    self.flow(who)

    @rule(who=WHO, force=st.booleans())
    def promote(self, who: int, force: bool) -> None:
        self.world.promote(self.node(who), force=force)

    @rule(who=WHO, force=st.booleans())
    def take_over(self, who: int, force: bool) -> None:
        self.promote(who, force)
        self.flow(who)

    @precondition(lambda self: self.world.wire)
    @rule(which=st.integers(0, 20), many=st.integers(1, 6))
    def arrive(self, which: int, many: int) -> None:
        for _ in range(many):
            if self.world.wire:
                self.world.arrive(which)

    @rule(who=WHO, many=st.integers(1, 8))
    def read(self, who: int, many: int) -> None:
        log = self.node(who).log
        for _ in range(many):
            if log is not None:
                log.read_one()

    @rule(who=WHO, ticks=st.booleans())
    def turn(self, who: int, ticks: bool) -> None:
        if (engine := self.node(who).engine) is not None:
            engine.look(ticks=ticks)
        self.world.check()

    @rule(who=WHO)
    def flow(self, who: int) -> None:
        """For a while all goes well with one node."""
        node = self.node(who)
        if node.log is not None and not node.log.readable:
            self.world.connect(node)
        for _ in range(4):
            for _ in range(len(self.world.wire)):
                self.world.arrive(0)
            self.read(who, 100)
            self.turn(who, ticks=True)
            self.world.recover(node)

    @rule(seconds=st.integers(1, 5))
    def rest(self, seconds: int) -> None:
        for _ in range(seconds):
            self.world.step()

    @rule(seconds=st.sampled_from([1.0, 3.0, 40.0]))
    def pass_time(self, seconds: float) -> None:
        self.world.clock.now_s += seconds

    @rule(who=WHO)
    def tell(self, who: int) -> None:
        self.world.tell(self.node(who))

    @rule(who=WHO)
    def recover(self, who: int) -> None:
        self.world.recover(self.node(who))

    @rule()
    def sync(self) -> None:
        self.world.synced = len(self.world.stream.records)

    @rule(keep=st.integers(0, 5), dead=st.sets(WHO))
    def power_cut(self, keep: int, dead: set[int]) -> None:
        self.world.power_cut(keep)
        for who in dead:
            self.world.kill(self.node(who))

    @rule(who=WHO, keep=st.integers(0, 2))
    def stand_still(self, who: int, keep: int) -> None:
        """Its engine waits for something: what comes, and that brokers have lost it and are back, it sees at once."""
        self.put_at_the_primary(1)
        self.turn(who, ticks=False)
        while self.world.wire:
            self.world.arrive(0)
        self.read(who, 100)
        self.world.power_cut(keep)
        self.world.connect(self.node(who))
        self.turn(who, ticks=True)

    @rule(who=WHO)
    def kill(self, who: int) -> None:
        self.world.kill(self.node(who))

    @rule(who=WHO)
    def come_back(self, who: int) -> None:
        self.world.start(self.node(who))
        self.world.connect(self.node(who))

    @rule(who=WHO)
    def cut(self, who: int) -> None:
        if (log := self.node(who).log) is not None:
            log.cut()

    @rule(who=WHO, down=st.booleans())
    def database_is_away(self, who: int, down: bool) -> None:
        self.node(who).store.down = down

    @rule(who=WHO)
    def an_answer_is_lost(self, who: int) -> None:
        self.node(who).store.mute = True

    @rule(all_=st.booleans())
    def lose_database(self, all_: bool) -> None:
        self.world.lose_database(all_=all_)

    @rule()
    def keep_backup(self) -> None:
        self.world.keep_backup()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            try:
                self.world.end()
            finally:
                self.world.close()


@PROFILES
def test_nothing_acknowledged_is_lost_by_nodes_that_share_a_database(profile: settings) -> None:
    run_state_machine_as_test(machine(), settings=profile)


def machine() -> type[Machine]:
    return type("Sharing", (Machine,), {"database": Database()})


# ── would the model notice? ──────────────────────────────────────────────────────────────────────────────────────────


def forgets_what_it_has_not_stored(self: Engine, instructions: list[Instruction], event: Event) -> list[Instruction]:
    return instructions


@pytest.mark.long
@pytest.mark.parametrize(
    ("part", "method", "broken"),
    [(Recovery, "_stored_more", lambda _: None), (Engine, "_left_of", forgets_what_it_has_not_stored)],
)
def test_finds_nodes_that_err(part: type, method: str, broken: Any) -> None:
    """They do not ask their own store; or compare the log with what they have not stored yet."""
    profile = settings(
        short(50), max_examples=1000, phases=[Phase.generate], print_blob=False, report_multiple_bugs=False
    )
    quietly = mock.patch("hypothesis.reporting.default", lambda _: None)
    with mock.patch.object(part, method, broken), quietly, pytest.raises((AssertionError, StoreCorrupt)):
        run_state_machine_as_test(machine(), settings=profile)
