"""When the primary beats, and when a new one sends the wishes."""

import pytest

from provider.fleet import beats
from provider.fleet.instructions import Instruction, SendAdvice, SendDesired
from shared import messages as m
from tests.support.rosters import Fleet, agent, database, hello, instance, observed


def beat_times(fleet: Fleet, seconds: float) -> list[float]:
    """When agents are told within the next `seconds` that the primary is there, from now on."""
    since_s = fleet.now_s
    fleet.beats.clear()
    for _ in range(round(seconds / 0.1)):
        fleet.due(0.1)
    return [round(at_s - since_s, 1) for at_s, _ in fleet.beats]


def test_the_primary_beats_by_the_clock_and_a_standby_does_not(fleet: Fleet) -> None:
    fleet.wait(beats.INTERVAL_S)
    assert beat_times(fleet, 9.0) == [2.0, 4.0, 6.0, 8.0]
    fleet.claim("p2")
    assert beat_times(fleet, 9.0) == []


def test_a_new_primary_beats_after_its_advice(fleet: Fleet) -> None:
    fleet.claim("p2")
    assert SendAdvice("all") in fleet.claim("p1")
    assert beat_times(fleet, 5.0) == [2.0, 4.0]


def test_there_is_no_beat_without_a_connection_and_one_as_soon_as_there_is(fleet: Fleet) -> None:
    fleet.roster.link_down()
    assert beat_times(fleet, 5.0) == []
    fleet.link_up()
    assert beat_times(fleet, 1.0) == [0.1]


@pytest.mark.parametrize(("agents", "interval_s", "spread_s"), [(0, 2, 0), (1000, 2, 2), (10_000, 10, 20)])
def test_a_large_fleet_is_told_less_often_and_moves_more_slowly(
    agents: int, interval_s: float, spread_s: float
) -> None:
    assert (beats.interval_s(agents), beats.spread_s(agents)) == (interval_s, spread_s)


def test_the_beat_says_when_the_next_one_comes() -> None:
    fleet = Fleet()
    fleet.commit(*(agent(f"a{number}") for number in range(3000)))
    assert beat_times(fleet, 9.0) == [0.1, 3.1, 6.1]
    assert {beat.interval_s for _, beat in fleet.beats} == {3.0}


# ── a new primary and the wishes ──


@pytest.fixture
def heirs() -> Fleet:
    """Standby p2, to which two agents have said hello."""
    fleet = Fleet(node="p2")
    fleet.commit(agent("db1"), instance("db1", "db1"), agent("db2"), instance("db2", "db2"))
    for name in ("db1", "db2"):
        fleet.hear(name, hello(observed(name)))
    return fleet


def wished(instructions: list[Instruction]) -> set[str]:
    return {one.to for one in instructions if isinstance(one, SendDesired)}


def test_wishes_wait_until_all_have_acknowledged_and_then_all_are_sent_them(heirs: Fleet) -> None:
    assert not wished(heirs.claim("p2"))
    assert not wished(heirs.hear("db1", m.Advised(epoch=2, primary="p2")) + heirs.due(0.2))
    assert wished(heirs.hear("db2", m.Advised(epoch=2, primary="p2")) + heirs.due(0.2)) == {"db1", "db2"}
    assert {update.id for record in heirs.recorded for update in record.updates} >= {"db1", "db2"}


def test_who_does_not_acknowledge_keeps_nobody_waiting_for_long(heirs: Fleet) -> None:
    heirs.claim("p2")
    heirs.hear("db1", m.Advised(epoch=2, primary="p2"))
    assert wished(heirs.due(2.0)) == {"db1", "db2"}


def test_new_wishes_and_hellos_do_not_wait_for_the_others(heirs: Fleet) -> None:
    heirs.claim("p2")
    assert wished(heirs.commit(database("db1/shop"))) == {"db1"}
    assert wished(heirs.hear("db2", hello(observed("db2")))) == {"db2"}
