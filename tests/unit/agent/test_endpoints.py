"""In which order agents use brokers: the primary's first, the others evenly, and always the same."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from agent.endpoints import in_order, share

BROKERS = tuple(f"amqps://p{number}:5671" for number in range(1, 5))
endpoint_lists = st.lists(st.text(min_size=1, max_size=30), min_size=1, max_size=6, unique=True)
names = st.text(max_size=30)


@given(endpoint_lists, names)
def test_the_first_stays_first_and_all_are_there(endpoints: list[str], agent: str) -> None:
    order = in_order(endpoints, agent)
    assert order[0] == endpoints[0]
    assert sorted(order) == sorted(endpoints)


@given(endpoint_lists, names, st.randoms(use_true_random=False))
def test_how_the_others_were_listed_makes_no_difference(endpoints: list[str], agent: str, chance: object) -> None:
    others = endpoints[1:]
    chance.shuffle(others)  # type: ignore[attr-defined]
    assert in_order([endpoints[0], *others], agent) == in_order(endpoints, agent)


@given(endpoint_lists, names, st.integers(0, 5))
def test_one_that_goes_changes_nothing_between_those_that_stay(endpoints: list[str], agent: str, which: int) -> None:
    gone = endpoints[which % len(endpoints)]
    left = [one for one in endpoints if one != gone]
    if gone == endpoints[0] or not left:
        return
    assert in_order(left, agent) == tuple(one for one in in_order(endpoints, agent) if one != gone)


def test_the_agents_of_a_lost_broker_spread_evenly_over_the_rest() -> None:
    agents = [f"db{number}" for number in range(3000)]
    seconds = Counter(in_order(BROKERS, agent)[1] for agent in agents)
    assert set(seconds) == set(BROKERS[1:])
    assert all(850 < count < 1150 for count in seconds.values()), seconds
    # ... and those of the second lost one, too.
    thirds = Counter(in_order(BROKERS, agent)[2] for agent in agents if in_order(BROKERS, agent)[1] == BROKERS[1])
    assert all(400 < count < 600 for count in thirds.values()), thirds


@given(names, names)
def test_a_share_is_a_share_of_one(agent: str, what: str) -> None:
    assert 0 <= share(agent, what) < 1


def test_shares_of_a_fleet_are_spread_evenly() -> None:
    tenths = Counter(int(share(f"db{number}", "#1") * 10) for number in range(2000))
    assert all(140 < tenths[tenth] < 260 for tenth in range(10)), tenths
