"""Agents come and go, and what is said to whom: by the primary, and by nobody else."""

from provider.core.commands import removed_key
from provider.core.entries import Change
from provider.fleet.instructions import SendAdvice, SendDesired, SendInquire, SendPulse, Warn
from provider.fleet.roster import ADVISED_A_SECOND, OFFLINE_AFTER_S
from shared import messages as m
from tests.support.rosters import (
    ONLINE,
    UP,
    Fleet,
    agent,
    change,
    database,
    hello,
    instance,
    node_pulse,
    observed,
    pulse,
    saying,
)


def test_an_agent_that_says_hello_is_sent_its_desired_state_and_recorded_as_online() -> None:
    fleet = Fleet()
    fleet.commit(agent("db1"), instance("db1", "db1"))
    assert fleet.hear("db1", hello(observed())) == [SendDesired("db1")]
    assert fleet.status("agent", "db1") == ONLINE.model_dump(exclude_none=True)
    assert fleet.status("instance", "db1") == UP.model_dump(exclude_none=True)


def test_an_idle_fleet_costs_the_log_nothing(fleet: Fleet) -> None:
    for _ in range(20):
        assert fleet.hear("db1", pulse()) == []
        assert fleet.wait(2.0) == []
    assert fleet.recorded == []


def test_who_falls_silent_is_offline_and_its_instances_unknown_until_it_speaks_again(fleet: Fleet) -> None:
    fleet.wait(OFFLINE_AFTER_S - 0.5)
    assert fleet.status("agent", "db1")["state"] == "online"
    fleet.wait(1.0)
    assert fleet.status("agent", "db1")["state"] == "offline"
    assert fleet.status("instance", "db1")["state"] == "unknown"
    assert "offline" in str(fleet.status("instance", "db1")["message"])
    assert fleet.status("instance", "db1")["version"] == "11", "the last that it said is kept"

    fleet.recorded.clear()
    fleet.wait(60.0)
    assert fleet.recorded == [], "once"
    fleet.hear("db1", pulse())
    assert fleet.status("agent", "db1")["state"] == "online"
    assert fleet.status("instance", "db1") == UP.model_dump(exclude_none=True)


def test_how_long_silence_is_allowed_is_a_setting(fleet: Fleet) -> None:
    fleet.commit(Change(kind="setting", id="agents.offline_after_s", spec={"value": 100}))
    fleet.wait(99.0)
    assert fleet.status("agent", "db1")["state"] == "online"
    fleet.wait(2.0)
    assert fleet.status("agent", "db1")["state"] == "offline"


def test_silence_says_nothing_while_we_ourselves_hear_nothing(fleet: Fleet) -> None:
    fleet.roster.link_down()
    fleet.wait(100.0)
    assert fleet.status("agent", "db1")["state"] == "online"
    assert fleet.link_up() == [SendAdvice("all"), SendInquire("all")]
    fleet.wait(OFFLINE_AFTER_S - 0.5)
    assert fleet.status("agent", "db1")["state"] == "online", "it has its time from now on"
    fleet.wait(1.0)
    assert fleet.status("agent", "db1")["state"] == "offline"


def test_one_that_was_heard_by_its_pulse_first_is_asked_for_the_rest() -> None:
    fleet = Fleet()
    fleet.commit(agent("db1", ONLINE))
    assert SendInquire("db1") in fleet.hear("db1", pulse())
    assert SendInquire("db1") not in fleet.hear("db1", pulse())


def test_strangers_and_those_who_were_removed_are_not_heard(fleet: Fleet) -> None:
    assert fleet.hear("nobody", hello(observed("x"))) == []
    assert "nobody" not in fleet.roster.view.agents
    fleet.commit(Change(kind="agent", id="db1"))
    assert "db1" not in fleet.roster.view.agents
    assert fleet.hear("db1", pulse()) == []
    assert fleet.wait(100.0) == []
    assert fleet.recorded == []


# ── who speaks ──


def test_a_standby_listens_and_says_nothing_until_it_leads() -> None:
    fleet = Fleet(node="p2")
    fleet.commit(agent("db1"), instance("db1", "db1"))
    assert fleet.hear("db1", hello(observed())) == []
    assert fleet.commit(database("db1/shop")) == []
    assert fleet.wait(1.0) == []
    assert fleet.recorded == []

    assert fleet.claim("p2") == [SendAdvice("all")], "it knows the fleet already"
    assert fleet.hear("db1", m.Advised(epoch=2, primary="p2")) == []
    assert fleet.due(0.1) == [SendDesired("db1")]
    assert fleet.status("agent", "db1")["state"] == "online"


def test_who_was_deposed_says_nothing_any_more(fleet: Fleet) -> None:
    assert fleet.claim("p2") == []
    assert fleet.commit(database("db1/shop")) == []
    assert fleet.hear("db1", hello(observed(state="down"))) == []
    assert fleet.wait(100.0) == []
    assert fleet.recorded == []


def test_advice_is_repeated_ever_more_slowly_until_it_is_followed(fleet: Fleet) -> None:
    fleet.claim("p2")
    assert SendAdvice("all") in fleet.claim("p1")
    told = 0
    for _ in range(60):
        told += SendAdvice("db1") in fleet.hear("db1", pulse(epoch=1)) + fleet.wait(1.0)
    assert 8 <= told <= 40
    fleet.hear("db1", m.Advised(epoch=3, primary="p1"))
    assert fleet.roster.view.agents["db1"].epoch == 3
    for _ in range(10):
        assert SendAdvice("db1") not in fleet.hear("db1", pulse(epoch=3)) + fleet.wait(1.0)
    assert fleet.status("agent", "db1")["epoch"] == 3


def test_a_large_fleet_has_time_to_acknowledge_before_anybody_is_asked_again() -> None:
    """Brokers that are slow would have several times as much to carry."""
    fleet, names = Fleet(node="p2"), [f"a{number}" for number in range(ADVISED_A_SECOND)]
    fleet.commit(*map(agent, names))
    for name in names:
        fleet.hear(name, hello())
    assert fleet.claim("p2") == [SendAdvice("all")]
    assert SendAdvice("a1") not in [each for _ in range(10) for each in fleet.due(0.1)], "so many take a second"
    assert SendAdvice("a1") in [each for _ in range(5) for each in fleet.due(0.1)]
    assert SendAdvice("a1") not in [each for _ in range(6) for each in fleet.due(0.1)]


def test_nobody_is_told_twice_who_cannot_hear(fleet: Fleet) -> None:
    fleet.wait(OFFLINE_AFTER_S + 1)
    fleet.claim("p2")
    fleet.claim("p1")
    for _ in range(10):
        assert fleet.wait(1.0) == []
    said = fleet.hear("db1", hello(observed(), epoch=1))
    assert SendAdvice("db1") in said
    assert SendDesired("db1") in said


def test_all_are_advised_when_a_node_comes_or_goes(fleet: Fleet) -> None:
    assert fleet.commit(change("node", "p2", {"url": "https://x"})) == [SendAdvice("all")]
    assert fleet.commit(Change(kind="node", id="p2")) == [SendAdvice("all")]


def test_a_node_that_has_just_started_is_answered_once() -> None:
    fleet = Fleet()
    assert fleet.hear("p2", node_pulse("then")) == [SendPulse()]
    assert fleet.hear("p2", node_pulse("then")) == []
    assert fleet.hear("p2", node_pulse("now")) == [SendPulse()]
    assert fleet.hear("p1", node_pulse("then")) == [], "not ourselves"


def test_of_a_node_that_was_removed_or_given_up_nothing_is_known_any_more() -> None:
    """Its clock stayed in the metrics for as long as the others ran."""
    fleet = Fleet()
    fleet.commit(change("node", "p2", {"url": "https://x"}))
    fleet.hear("p2", node_pulse())
    assert "p2" in fleet.roster.view.nodes
    fleet.commit(Change(kind="node", id="p2"), Change(kind="setting", id=removed_key("p2"), spec={"value": 1}))
    assert "p2" not in fleet.roster.view.nodes
    assert fleet.hear("p2", node_pulse()) == [], "it was on its way"
    assert "p2" not in fleet.roster.view.nodes
    fleet.hear("p3", node_pulse())
    assert "p3" in fleet.roster.view.nodes, "who has just joined"


def test_two_programs_under_one_name_are_noticed_and_a_restart_is_not_taken_for_one(fleet: Fleet) -> None:
    fleet.hear("db1", saying(session="a"))
    assert Warn("db1") not in fleet.hear("db1", saying(session="b"))
    assert Warn("db1") not in fleet.hear("db1", saying(session="c"))
    assert Warn("db1") in fleet.hear("db1", saying(session="b"))
    assert Warn("db1") not in fleet.hear("db1", saying(session="c")), "said once"
    assert fleet.roster.view.agents["db1"].duplicate_until_s > fleet.now_s
