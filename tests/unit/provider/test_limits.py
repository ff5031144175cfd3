"""How much one sender may say: what is admitted, who is cut off, and when it may come back."""

import pytest

from provider.core.entries import Change
from provider.core.state import State
from provider.fleet.limits import BYTES_BURST_S, CUT_AFTER, FIRST_S, FORGET_S, LONGEST_S, Limiter
from tests.support.fleets import agent_change, genesis

MAX_BYTES = 4 * 1024 * 1024


def setting(key: str, value: object) -> Change:
    return Change(kind="setting", id=key, spec={"value": value})


@pytest.fixture
def state() -> State:
    return genesis(agent_change("db1"), agent_change("db2"))


def flood(limiter: Limiter, state: State, now_s: float, *, seconds: float, cuts: bool = True) -> float:
    """200 messages a second, until it is cut off; the time then."""
    end_s = now_s + seconds
    while now_s < end_s:
        for part in range(200):
            limiter.admit("db1", 100, now_s + part / 200)
        now_s += 1
        if limiter.look(state, now_s, cuts=cuts).cut:
            break
    return now_s


def test_a_burst_passes_and_then_as_much_as_flows_in(state: State) -> None:
    limiter = Limiter()
    assert sum(limiter.admit("db1", 100, 0.0) for _ in range(2000)) == 500
    assert sum(limiter.admit("db1", 100, 1.0) for _ in range(2000)) == 50
    assert limiter.admit("db2", 100, 1.0), "that is nothing to others"
    assert limiter.look(state, 1.0, cuts=True).warned == ("db1",)
    assert limiter.shown["db1"].dropped == 3450


def test_bytes_count_too_and_the_largest_message_passes() -> None:
    limiter = Limiter()
    admitted = sum(limiter.admit("db1", MAX_BYTES, 0.0) for _ in range(100))
    assert admitted == BYTES_BURST_S / 2
    assert not limiter.admit("db1", MAX_BYTES, 1.0)
    assert limiter.admit("db1", MAX_BYTES, 2.0)


def test_a_clock_that_goes_back_gives_nothing_and_takes_nothing() -> None:
    limiter = Limiter()
    assert limiter.admit("db1", 1, 100.0)
    assert limiter.admit("db1", 1, 50.0)


def test_one_second_over_the_limit_is_forgiven(state: State) -> None:
    limiter, now_s = Limiter(), 0.0
    for _ in range(20):
        for _ in range(600):
            limiter.admit("db1", 100, now_s)
        assert not limiter.look(state, now_s + 1, cuts=True).cut
        assert not limiter.look(state, now_s + 2, cuts=True).cut
        now_s += 15


def test_who_goes_on_is_cut_off_for_longer_each_time_and_comes_back_by_itself(state: State) -> None:
    limiter, now_s, waits = Limiter(), 0.0, []
    for _ in range(9):
        began_s = now_s
        now_s = flood(limiter, state, now_s, seconds=60)
        assert limiter.suspended == {"db1"}
        assert now_s - began_s >= CUT_AFTER
        assert not limiter.admit("db1", 1, now_s), "what is still on its way is not read"
        until_s = limiter.shown["db1"].until_s
        assert until_s is not None
        waits.append(until_s - now_s)
        assert limiter.look(state, until_s - 1, cuts=True).back == ()
        assert limiter.look(state, until_s, cuts=True).back == ("db1",)
        assert limiter.suspended == frozenset()
        assert limiter.admit("db1", 1, until_s)
        now_s = until_s
    assert waits == [30, 60, 120, 240, 480, 960, 1920, LONGEST_S, LONGEST_S]
    now_s += 2 * FORGET_S + LONGEST_S
    limiter.look(state, now_s, cuts=True)
    now_s = flood(limiter, state, now_s, seconds=60)
    assert limiter.shown["db1"].until_s == now_s + FIRST_S, "it has been good for long enough"


def test_a_standby_cuts_nobody_off_and_nobody_but_agents_is(state: State) -> None:
    limiter = Limiter()
    flood(limiter, state, 0.0, seconds=20, cuts=False)
    assert limiter.suspended == frozenset()
    others = Limiter()
    flood(others, genesis(), 0.0, seconds=20)
    assert others.suspended == frozenset()


def test_limits_are_settings() -> None:
    state, limiter = genesis(setting("agents.messages_per_s", 2), setting("agents.bytes_per_s", 300_000)), Limiter()
    limiter.look(state, 0.0, cuts=True)
    assert sum(limiter.admit("db1", 1, 0.0) for _ in range(100)) == 20


def test_nobody_is_kept_in_mind_for_ever(state: State) -> None:
    limiter = Limiter()
    flood(limiter, state, 0.0, seconds=3)
    limiter.look(state, 10 * FORGET_S, cuts=True)
    assert not limiter.shown
    flood(limiter, state, 0.0, seconds=3)
    limiter.forget(["db1"])
    limiter.look(state, 5.0, cuts=True)
    assert not limiter.shown


@pytest.mark.parametrize(("many", "size"), [(2000, 1), (30, MAX_BYTES)], ids=["messages", "bytes"])
def test_who_is_far_over_the_limit_is_cut_off_in_two_seconds(state: State, many: int, size: int) -> None:
    limiter = Limiter()
    for now_s in (1.0, 2.0):
        assert not limiter.suspended
        for _ in range(many):
            limiter.admit("db1", size, now_s)
        limiter.look(state, now_s, cuts=True)
    assert limiter.suspended == {"db1"}
