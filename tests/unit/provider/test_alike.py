"""Clocks, settings, versions, places: what nodes must have in common is measured sensibly, and warned about for as
long as they have not."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider.concerns import broker_users, own_clock, warnings
from provider.core.commands import BROKER_ADMIN, Difference
from provider.core.entries import Change
from provider.core.state import State
from provider.fleet.alike import clock_skews, drifted, sent_ms, together
from provider.fleet.roster import Roster
from provider.fleet.view import LAGS_KEPT, View
from shared import messages as m

NOW_MS = 1_700_000_000_000


def cluster(*names: str, settings: dict[str, Any] | None = None, **labels: dict[str, str]) -> State:
    nodes = [Change(kind="node", id=name, spec={"labels": labels.get(name, {})}) for name in names]
    known = [Change(kind="setting", id=key, spec={"value": value}) for key, value in (settings or {}).items()]
    return State.genesis(generation="g", primary="p1", now=NOW_MS, changes=(*nodes, *known))


def pulse(
    started: str = "s", version: str = "1", configuration: str | None = None, settings: dict[str, Any] | None = None
) -> m.NodePulse:
    return m.NodePulse(
        role="standby",
        state="active",
        version=version,
        revision=1,
        digest="d",
        started=started,
        configuration=configuration,
        settings=settings or {},
    )


def hears(roster: Roster, sender: str, *, ahead_ms: int, way_ms: int = 1, said: m.NodePulse | None = None) -> None:
    """A message of a node whose clock is so far ahead of ours, that was so long on its way."""
    sent = NOW_MS + ahead_ms
    roster.heard(sender, said or pulse(), 1, NOW_MS + way_ms, 0.0, sent)


def skews(roster: Roster, primary: str = "p1", here: str = "p2") -> dict[str, float]:
    return clock_skews(roster.view, here, primary)


def test_clocks_are_told_against_the_primarys_by_whoever_is_asked() -> None:
    for here, ahead in (("p1", {"p2": 1000, "p3": -2500}), ("p2", {"p1": -1000, "p3": -3500})):
        roster = Roster(here, cluster("p1", "p2", "p3"))
        for name, ahead_ms in ahead.items():
            hears(roster, name, ahead_ms=ahead_ms, way_ms=0)
        assert skews(roster, here=here) == {"p1": 0.0, "p2": 1.0, "p3": -2.5}


def test_without_the_primary_nothing_is_said() -> None:
    roster = Roster("p2", cluster("p1", "p2", "p3"))
    hears(roster, "p3", ahead_ms=0)
    assert skews(roster) == {}


@given(ways=st.lists(st.integers(0, 30_000), min_size=1, max_size=40), ahead_ms=st.integers(-5000, 5000))
def test_a_message_that_was_long_on_its_way_is_no_clock_that_is_behind(ways: list[int], ahead_ms: int) -> None:
    roster = Roster("p1", cluster("p1", "p2"))
    for way_ms in ways:
        hears(roster, "p2", ahead_ms=ahead_ms, way_ms=way_ms)
    quickest_ms = min(ways[-LAGS_KEPT:])
    assert skews(roster, here="p1")["p2"] == pytest.approx((ahead_ms - quickest_ms) / 1000)


def test_a_clock_that_jumps_is_noticed() -> None:
    roster = Roster("p1", cluster("p1", "p2"))
    for _ in range(LAGS_KEPT):
        hears(roster, "p2", ahead_ms=0)
    hears(roster, "p2", ahead_ms=5000)
    assert skews(roster, here="p1")["p2"] == pytest.approx(5, abs=0.1), "ahead: at once"
    for _ in range(LAGS_KEPT):
        hears(roster, "p2", ahead_ms=-5000)
    assert skews(roster, here="p1")["p2"] == pytest.approx(-5, abs=0.1), "behind: when what was before is forgotten"
    hears(roster, "p2", ahead_ms=0, way_ms=2000, said=pulse(started="anew"))
    assert skews(roster, here="p1")["p2"] == pytest.approx(-2, abs=0.1), "started anew: from then on"


def test_times_of_messages() -> None:
    assert sent_ms("2023-11-14T22:13:20.123Z") == NOW_MS + 123
    assert sent_ms("0001-01-01T00:00:00Z") is not None
    assert [sent_ms(text) for text in ("", "yesterday", "99999-01-01")] == [None, None, None]


def heard(**said: m.NodePulse) -> View:
    roster = Roster("p1", cluster(*said))
    for name, one in said.items():
        hears(roster, name, ahead_ms=0, said=one)
    return roster.view


def test_a_configuration_that_is_not_the_primarys_is_told_by_name() -> None:
    view = heard(p1=pulse(configuration="a", settings={"x": 1}), p2=pulse(configuration="b", settings={"y": [2]}))
    assert drifted(view, "p2", "p1") == [Difference("x", "the default", 1), Difference("y", [2], "the default")]
    assert drifted(view, "p1", "p1") == drifted(view, "p3", "p1") == []
    (warning,) = warnings(cluster("p1", "p2", "p3"), view, "p1", [])
    assert "configuration of p2 is not the primary's: x: the default, the primary 1; y: [2], the prim" in warning


def test_a_fingerprint_alone_tells_that_something_differs() -> None:
    view = heard(p1=pulse(configuration="a"), p2=pulse(configuration="b"))
    assert drifted(view, "p2", "p1") == [Difference("configuration", "b", "a")]


def test_another_version_is_warned_about() -> None:
    view = heard(p1=pulse(version="1"), p2=pulse(version="2"), p3=pulse(version="1"))
    (warning,) = warnings(cluster("p1", "p2", "p3"), view, "p1", [])
    assert "p2 runs version 2, the primary 1" in warning


def test_nodes_that_can_be_lost_together() -> None:
    state = cluster("p1", "p2", "p3", "p4", p1={"zone": "a", "host": "x"}, p2={"zone": "a"}, p3={"host": "x"})
    assert together(state) == [("host", "x", ["p1", "p3"]), ("zone", "a", ["p1", "p2"])]
    assert warnings(state, View(), "p1", []) == [
        "p1 and p3 share the host x: they can be lost together",
        "p1 and p2 share the zone a: they can be lost together",
    ]


def test_a_clock_that_is_far_off_is_warned_about_for_as_long_as_it_is() -> None:
    roster = Roster("p1", cluster("p1", "p2", "p3"))
    hears(roster, "p1", ahead_ms=0)
    hears(roster, "p2", ahead_ms=2600)
    hears(roster, "p3", ahead_ms=1900)
    (warning,) = warnings(roster.state, roster.view, "p1", [])
    assert warning.startswith("the clock of p2 is 2.6 s ahead of p1's, more than the 2 s that are allowed")
    strict = cluster("p1", "p2", "p3", settings={"cluster.clock_skew_s": 0.5})
    assert len(warnings(strict, roster.view, "p1", [])) == 2
    assert warnings(cluster("p1", "p3", "p4"), roster.view, "p1", []) == [], "who is no member is not spoken of"


def test_whose_clock_is_far_off_hears_it_before_it_is_primary() -> None:
    """It is that clock by which tokens end and certificates begin from then on."""
    roster = Roster("p2", cluster("p1", "p2", "p3"))
    hears(roster, "p1", ahead_ms=-3_600_000)
    hears(roster, "p3", ahead_ms=-3_600_000)
    said = own_clock(roster.state, roster.view, "p2")
    assert str(said).startswith("the clock of p2 is 3600.0 s ahead of p1's")
    assert own_clock(roster.state, View(), "p2") is None
    right = Roster("p3", cluster("p1", "p2", "p3"))
    hears(right, "p1", ahead_ms=0)
    hears(right, "p2", ahead_ms=3_600_000)
    assert own_clock(right.state, right.view, "p3") is None, "another one's is"


def test_two_nodes_are_warned_about() -> None:
    assert ["two nodes" in one for one in warnings(cluster("p1", "p2"), View(), "p1", [])] == [True]
    assert warnings(cluster("p1"), View(), "p1", []) == warnings(cluster("p1", "p2", "p3"), View(), "p1", []) == []


LOOPBACK = "https://127.0.0.1:15671"


@pytest.mark.parametrize(
    ("own", "url", "management", "able"),
    [
        (["p1", "p2"], "https://p2:1", LOOPBACK, True),
        (["p1"], "https://p2:1", LOOPBACK, False),
        (["p1"], "https://p2:1", "https://p1:15671", True),
        (["p1"], "https://p2:1", None, False),
        ([], "https://p2:1", None, False),
        ([], "https://127.0.0.1:1", LOOPBACK, True),
    ],
)
def test_who_could_not_let_agents_in_as_primary_says_so_before(
    own: list[str], url: str, management: str | None, able: bool
) -> None:
    nodes = [
        Change(
            kind="node", id=name, spec={"url": url} | ({"broker": {"node": f"rabbit@{name}"}} if name in own else {})
        )
        for name in ("p1", "p2")
    ]
    admin = Change(kind="credential", id=BROKER_ADMIN, spec={"username": "boss", "passwords": ["sealed"]})
    state = State.genesis(generation="g", primary="p1", now=NOW_MS, changes=(*nodes, admin))
    said = broker_users(state, "p2", management)
    assert (said is None) == able
    assert able or "broker.management" in (said or "")
    unmanaged = State.genesis(generation="g", primary="p1", now=NOW_MS, changes=tuple(nodes))
    assert broker_users(unmanaged, "p2", None) is None, "people make the users"
