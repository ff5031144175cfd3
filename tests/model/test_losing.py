"""Brokers that lose the end of the log, again and again, whatever the nodes are doing: nothing acknowledged is lost."""

from typing import Any, ClassVar
from unittest import mock

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from provider.core.comparing import Comparison
from provider.core.entries import Claim, Entry, LogRecord
from provider.core.following import Chain, Following
from provider.core.replica import Instruction, Now, Replica
from tests.model.losing import Node, World
from tests.model.profiles import profiles, short

PROFILES = profiles(50, 120)
WHO = st.integers(0, 2)


class Machine(RuleBasedStateMachine):
    variant: ClassVar[dict[str, Any]] = {}

    @initialize()
    def begin(self) -> None:
        self.world = World(**self.variant)
        self.world.settle()

    def up(self, who: int) -> Node | None:
        node = self.world.nodes[who]
        return node if node.course is not None else None

    @rule(who=WHO)
    def put(self, who: int) -> None:
        if node := self.up(who):
            self.world.put(node)

    @rule()
    def put_at_the_primary(self) -> None:
        for node in self.world.nodes:
            if node.course is not None and node.course.replica.is_primary:
                self.world.put(node)

    @rule(many=st.integers(1, 4))
    def commit(self, many: int) -> None:
        """The primary, or who takes himself for it, commits: nobody else reads."""
        for _ in range(many):
            self.put_at_the_primary()
            for who, node in enumerate(self.world.nodes):
                if node.course is not None and node.course.replica.is_primary:
                    self.flow(who)

    @rule(who=WHO, force=st.booleans())
    def promote(self, who: int, force: bool) -> None:
        if node := self.up(who):
            self.world.promote(node, force=force)

    @rule(who=WHO, force=st.booleans())
    def take_over(self, who: int, force: bool) -> None:
        self.promote(who, force)
        self.flow(who)

    @rule(who=WHO)
    def tell(self, who: int) -> None:
        self.world.tell(self.world.nodes[who])

    @precondition(lambda self: self.world.wire)
    @rule(which=st.integers(0, 20), many=st.integers(1, 6))
    def arrive(self, which: int, many: int) -> None:
        for _ in range(many):
            if self.world.wire:
                self.world.arrive(which)

    @rule(who=WHO, many=st.integers(1, 8))
    def read(self, who: int, many: int) -> None:
        for _ in range(many):
            self.world.read(self.world.nodes[who])

    @rule(who=WHO)
    def ask(self, who: int) -> None:
        self.world.answer_asks(self.world.nodes[who])

    @rule(who=WHO)
    def flow(self, who: int) -> None:
        """For a while all goes well with one node."""
        node = self.world.nodes[who]
        for _ in range(4):
            while (at := next((i for i, (n, _) in enumerate(self.world.wire) if n is node), None)) is not None:
                self.world.arrive(at)
            while self.world.read(node):
                pass
            self.world.answer_asks(node)

    @rule()
    def rest(self) -> None:
        self.world.settle()

    @rule()
    def sync(self) -> None:
        self.world.synced = len(self.world.log)

    @rule(keep=st.integers(0, 5), all_hosts=st.booleans())
    def power_cut(self, keep: int, all_hosts: bool) -> None:
        self.world.power_cut(keep, all_hosts=all_hosts)

    @rule(who=WHO, keep=st.integers(0, 5), other_hosts=st.booleans())
    def power_cut_but(self, who: int, keep: int, other_hosts: bool) -> None:
        self.world.power_cut_but(self.world.nodes[who], keep, other_hosts=other_hosts)

    @rule(who=WHO)
    def come_back(self, who: int) -> None:
        node = self.world.nodes[who]
        if node.course is None:
            self.world.start(node)
        elif not node.connected:
            self.world.connect(node)

    @rule(who=WHO)
    def kill(self, who: int) -> None:
        self.world.kill(self.world.nodes[who])

    @rule(who=WHO)
    def cut(self, who: int) -> None:
        node = self.world.nodes[who]
        if node.connected:
            self.world.cut(node)

    @rule(who=WHO)
    def heal(self, who: int) -> None:
        if self.world.nodes[who].lost:
            self.world.heal_lost(self.world.nodes[who])

    @invariant()
    def promises_are_kept(self) -> None:
        if hasattr(self, "world"):
            self.world.check()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.end()


def cut_off_and_promoted() -> None:
    """p2 and p3 are cut off, p1 goes on. Then the brokers and p1 lose their power; p2 is promoted."""
    world = World()
    p1, p2, p3 = world.nodes
    world.put(p1)
    world.settle()
    world.synced = len(world.log)
    world.cut(p2)
    world.cut(p3)
    world.put(p1)
    world.settle()
    world.power_cut(0, all_hosts=False)
    world.kill(p1)
    world.connect(p2)
    world.connect(p3)
    world.settle()
    world.promote(p2)
    world.settle()
    world.end()


def test_who_was_cut_off_does_not_vouch_for_what_happened_meanwhile() -> None:
    cut_off_and_promoted()


def spared_and_promoted(*, alone: bool = False) -> None:
    """What p1 acknowledges, p3's broker does not have yet when the hosts of the others lose their power. The brokers
    are back first; p3 is promoted."""
    world = World(alone=alone)
    p1, p2, p3 = world.nodes
    world.put(p1)
    world.settle()
    world.synced = len(world.log)
    world.put(p1)
    for node in (p1, p2):
        while world.wire:
            world.arrive(0)
        while world.read(node):
            pass
    assert len(world.acknowledged) == 2
    world.power_cut_but(p3, 0, other_hosts=True)
    assert world.losses
    world.promote(p3)
    world.settle()
    world.end()


def test_who_read_on_while_the_others_lost_their_power_does_not_vouch_for_it_alone() -> None:
    spared_and_promoted()
    with pytest.raises(AssertionError, match="was acknowledged and is lost"):
        spared_and_promoted(alone=True)


def test_who_has_followed_all_the_time_succeeds_a_primary_that_is_gone() -> None:
    world = World()
    p1, p2, _ = world.nodes
    world.put(p1)
    world.settle()
    world.kill(p1)
    world.promote(p2)
    world.settle()
    assert p2.course is not None
    assert p2.course.replica.is_primary


class ImpatientMachine(Machine):
    variant: ClassVar[dict[str, Any]] = {"impatient": True}


@PROFILES
def test_nothing_acknowledged_is_lost_whatever_the_brokers_lose(profile: settings) -> None:
    run_state_machine_as_test(Machine, settings=profile)


@PROFILES
def test_what_is_lost_where_nobody_waits_is_never_lost_silently(profile: settings) -> None:
    """A promotion by force, or a node that stays away for longer than others wait for it."""
    run_state_machine_as_test(ImpatientMachine, settings=profile)


# ── would the model notice? ──────────────────────────────────────────────────────────────────────────────────────────


def puts_nothing_back(self: Comparison, wall_ms: int) -> list[LogRecord]:
    self.in_line = self.lost is None
    return []


def takes_any_record_for_its_own(self: Comparison, record: Entry | Claim, known: int) -> None:
    kept = self.past.at(known + 1)
    if kept is not None and (not isinstance(record, Entry) or record.seq == known + 1):
        self._is_known(known + 1, kept.epoch)


def sees_no_conflict(self: Comparison, record: Entry | Claim, known: int) -> bool:
    return False


@pytest.mark.parametrize(
    ("method", "broken", "machine"),
    [
        ("_end_reached", puts_nothing_back, Machine),
        ("_follow", takes_any_record_for_its_own, ImpatientMachine),
        ("_accepted", sees_no_conflict, ImpatientMachine),
    ],
)
def test_finds_a_comparison_that_errs(method: str, broken: Any, machine: type[Machine]) -> None:
    with mock.patch.object(Comparison, method, broken):
        assert_found(machine)


def goes_on(self: Following) -> None:
    """Whoever was cut off takes itself for a witness of what happened meanwhile."""


def believes_what_was_said_before(self: Chain, said_s: float, revision: int, own_revision: int) -> None:
    self.whole = self.whole or revision <= own_revision


@pytest.mark.parametrize(
    ("part", "method", "broken"),
    [(Following, "broken", goes_on), (Chain, "heard", believes_what_was_said_before)],
)
def test_finds_a_node_that_vouches_for_what_it_has_not_read(part: type, method: str, broken: Any) -> None:
    with mock.patch.object(part, method, broken), pytest.raises(AssertionError, match="was acknowledged and is lost"):
        cut_off_and_promoted()


class ClaimsUnasked(Replica):
    def barrier(self, *arguments: Any, **options: Any) -> list[Instruction]:
        return super().barrier(*arguments, **options | {"force": True})


class WritesUnasked(Replica):
    def log_up(self, now: Now) -> list[Instruction]:
        out = super().log_up(now)
        self.held = False
        return out


@pytest.mark.long
@pytest.mark.parametrize("broken", [ClaimsUnasked, WritesUnasked])
def test_finds_a_replica_that_does_not_ask_first(broken: type[Replica]) -> None:
    assert_found(Machine, make=broken)


def assert_found(machine: type[Machine], **variant: Any) -> None:
    broken = type(machine.__name__, (machine,), {"variant": machine.variant | variant})
    profile = settings(short(60), max_examples=3000, phases=[Phase.generate], print_blob=False)
    with mock.patch("hypothesis.reporting.default", lambda _: None), pytest.raises(AssertionError) as found:
        run_state_machine_as_test(broken, settings=profile)
    print(found.value)
