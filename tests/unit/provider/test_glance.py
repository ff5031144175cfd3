"""At three in the morning: the first lines say who is primary, what is wrong and what to do."""

from typing import Any

import pytest

from provider.cli.glance import glance
from provider.states import Condition, remedy


def node(name: str, state: Any = "active", reason: str | None = None, **more: Any) -> dict[str, Any]:
    role, part = more.pop("role", "standby"), more.pop("part", None)
    return {
        "name": name,
        "role": role,
        "state": state,
        "reason": reason,
        "part": part,
        "remedy": remedy(Condition(state, reason, part), name, primary=role == "primary"),
        "lag": 0,
        **more,
    }


def cluster(*nodes: dict[str, Any], online: int = 2) -> dict[str, Any]:
    return {
        "epoch": 4,
        "primary": "p1",
        "revision": 128,
        "nodes": nodes,
        "agents": {"total": 2, "online": online},
    }


PRIMARY = node("p1", role="primary")


def words(lines: list[str]) -> list[str]:
    return [line.split()[0] for line in lines]


def test_where_all_is_well_two_lines_say_so() -> None:
    assert glance(cluster(PRIMARY, node("p2"), node("p3")), "p2") == [
        "PRIMARY  p1 is primary, epoch 4, revision 128; it is active: writes are accepted",
        "OK       nothing is wrong",
    ]


@pytest.mark.parametrize("name", ["p1", "p2"])
def test_a_node_that_is_well_and_whose_broker_is_not(name: str) -> None:
    """All goes on, and the next loss stops it: nobody should be told that nothing is wrong."""
    roles = {"p1": "primary", "p2": "standby"}
    nodes = [node(one, reason="its broker is away" if one == name else None, role=roles[one]) for one in roles]
    lines = glance(cluster(*nodes), "p2")
    assert words(lines) == ["PRIMARY", "WRONG", "DO"]
    assert lines[1] == f"WRONG    {name} is active (its broker is away)"
    assert "systemctl status rabbitmq-server" in lines[2]


def test_standing_warnings_are_not_overlooked_where_all_goes_well() -> None:
    warned = cluster(PRIMARY, node("p2")) | {"warnings": ["two nodes: the loss of either leaves no standby"]}
    assert glance(warned, "p2")[-1] == "OK       nothing is wrong; 1 standing warning, at the end"


def test_a_lost_primary_and_the_command_to_run_here() -> None:
    lost = node("p1", "lost", "silent", role="primary")
    assert glance(cluster(lost, node("p2"), node("p3")), "p3") == [
        "WRONG    p1 is primary, epoch 4, revision 128, and is lost (silent): writes may fail, reads go on",
        "DO       if p1 does not come back, run here: failover --operation promote (or on p2)",
    ]


def test_the_command_is_run_where_it_will_work() -> None:
    lost = node("p1", "lost", "silent", role="primary")
    full = node("p2", "critical", "store: full", part="store")
    assert "DO       if p1 does not come back, run on p3: failover --operation promote" in glance(
        cluster(lost, full, node("p3")), "p2"
    )
    late = node("p2", "syncing", "reading the log", lag=900)
    assert "run on p3: failover --operation promote (or on p2)" in glance(cluster(lost, late, node("p3")), "p2")[-1]
    gone = node("p3", "lost", "silent")
    assert "run on p2: failover --operation promote" in "".join(glance(cluster(lost, late, gone), "p3"))


def test_no_standby_is_fit() -> None:
    lost = node("p1", "lost", "silent", role="primary")
    lines = glance(cluster(lost, node("p2", "out_of_sync", "truncated: gone"), node("p3", "lost", "silent")), "p2")
    assert words(lines)[:2] == ["STALE", "WRONG"]
    assert any("no standby can be promoted now" in line for line in lines)


def test_a_node_that_cannot_read_the_log_says_that_it_is_stale() -> None:
    cut_off = node("p1", "critical", "log: not connected", role="primary", part="log")
    lines = glance(cluster(cut_off, node("p2", "unknown", "silent"), node("p3", "unknown", "silent")), "p1")
    assert lines[0] == "STALE    p1 cannot read the log: what it tells may be out of date. Ask another node"
    assert "p1 is primary" in lines[1]
    assert words(lines).count("WRONG") == 3


def test_a_broker_without_room_is_no_reason_to_promote_anybody() -> None:
    reason = "log: the broker takes no writes (low on disk)"
    for name in ("p1", "p2"):
        nodes = [node(one, "unknown", "silent", role=role) for one, role in (("p1", "primary"), ("p2", "standby"))]
        here = nodes[name == "p2"]
        here |= node(name, "critical", reason, role=here["role"], part="log")
        lines = glance(cluster(*nodes), name)
        assert "STALE" not in words(lines), "it reads"
        assert "p1 is primary" in lines[0]
        assert any("rabbitmq-diagnostics alarms" in line for line in lines if line.startswith("DO"))
        assert not any("failover" in line for line in lines)


@pytest.mark.parametrize("state", ["critical", "lost", "out_of_sync", "unknown"])
def test_whatever_is_wrong_with_a_standby_is_said_with_its_remedy(state: str) -> None:
    ill = node("p3", state, "for a reason")
    lines = glance(cluster(PRIMARY, node("p2"), ill), "p2")
    assert words(lines) == ["PRIMARY", "WRONG", "DO"]
    assert lines[1] == f"WRONG    p3 is {state} (for a reason)"
    assert lines[2] == f"DO       p3: {ill['remedy']}"


def test_maintenance_is_nothing_wrong() -> None:
    assert words(glance(cluster(PRIMARY, node("p2"), node("p3", "maintenance", "new kernel")), "p2")) == [
        "PRIMARY",
        "OK",
    ]


def test_agents_that_are_away() -> None:
    assert "WRONG    1 of 2 agents are not online" in glance(cluster(PRIMARY, node("p2"), online=1), "p2")


def test_a_node_that_is_no_member() -> None:
    lines = glance(cluster(PRIMARY, node("p2")), "p9")
    assert lines[0] == "WRONG    p9 is no member of this cluster"
