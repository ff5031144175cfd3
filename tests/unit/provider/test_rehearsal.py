"""When a rehearsal is begun, and what is concluded from what its writers were told."""

from typing import Any

import pytest

from provider.rehearsal import Leg, Outcome, Told, Write, report, told_by, unfit, whereabouts, who

PROMOTED = {"result": "promoted", "epoch": 2}


def node(name: str, role: str = "standby", state: str = "active", reason: str | None = None) -> dict[str, Any]:
    return {"name": name, "role": role, "state": state, "reason": reason}


def cluster(*nodes: dict[str, Any]) -> dict[str, Any]:
    return {"primary": "p1", "epoch": 4, "nodes": list(nodes)}


WELL = cluster(node("p1", "primary"), node("p2"), node("p3"))
AGREED = dict.fromkeys(("p1", "p2", "p3"), who(WELL))


def test_a_healthy_cluster_is_fit() -> None:
    assert unfit(WELL, "p2", AGREED) == []


@pytest.mark.parametrize("state", ["syncing", "out_of_sync", "critical", "lost", "maintenance", "unknown"])
def test_whatever_is_the_matter_with_any_node_is_a_reason(state: str) -> None:
    ill = cluster(node("p1", "primary"), node("p2"), node("p3", state=state, reason="for a reason"))
    assert unfit(ill, "p2", AGREED) == [f"p3 is {state} (for a reason)"]


def test_it_is_run_on_a_standby() -> None:
    assert unfit(WELL, "p1", AGREED) == ["p1 is the primary: run it on a standby: p2, p3"]
    assert unfit(cluster(node("p1", "primary")), "p1", {}) == ["p1 is the primary: there is no standby to promote"]
    assert unfit(WELL, "p9", AGREED) == ["p9 is no member of the cluster"]


def test_all_nodes_answer_and_agree() -> None:
    others = AGREED | {"p1": "p3 is primary, epoch 5", "p3": "does not answer (refused)"}
    assert unfit(WELL, "p2", others) == ["p1: p3 is primary, epoch 5", "p3: does not answer (refused)"]


# ── what came of it ──


def write(number: int, revision: int | None, began_s: float, ended_s: float, **more: Any) -> Write:
    return Write("rehearsal.r.p1", number, revision, began_s, ended_s, more.get("attempts", 1), more.get("error"))


WRITES = [write(1, 10, 0.0, 0.01), write(2, 11, 0.02, 0.05), write(3, 13, 1.0, 1.4), write(4, 14, 2.1, 2.2)]
LEGS = [Leg("p1", "p2", 1.1, 1.5, PROMOTED, online=2), Leg("p2", "p1", 2.0, 2.3, PROMOTED, online=2, missing=("db1",))]
HELD = [Told("rehearsal.r.p1", w.number, w.revision) for w in WRITES if w.revision is not None]


def outcome(**changes: Any) -> Outcome:
    fields: dict[str, Any] = {"writes": WRITES, "legs": LEGS, "told": {"p1": HELD, "p2": HELD}}
    return Outcome(**({"node": "p2", "primary": "p1", "epoch": 6} | fields | changes))


def test_a_clean_rehearsal() -> None:
    found = report(outcome(), 3.0)
    assert found["result"] == "clean"
    assert found["writes"] == {
        "made": 4,
        "failed": 0,
        "lost": 0,
        "twice": 0,
        "asked_again": 0,
        "errors": [],
        "usual_ms": 20.0,
    }
    there, back = found["directions"]
    assert (there["from"], there["to"], there["promotion_ms"], there["longest_stall_ms"]) == ("p1", "p2", 400.0, 400.0)
    assert (back["from"], back["to"], back["longest_stall_ms"]) == ("p2", "p1", 100.0)
    assert there["agents"] == {"online": 2, "follow": 2, "did_not_follow": []}
    assert back["agents"] == {"online": 2, "follow": 1, "did_not_follow": ["db1"]}


@pytest.mark.parametrize("there", [HELD[:-1], [*HELD[:-1], Told("rehearsal.r.p1", 4, 99)]])
def test_an_acknowledged_write_that_one_node_lacks_or_has_elsewhere_is_lost(there: list[Told]) -> None:
    found = report(outcome(told={"p1": HELD, "p2": there}), 3.0)
    assert (found["result"], found["writes"]["lost"]) == ("not_clean", 1)
    assert found["lost"] == ["rehearsal.r.p1 number 4, revision 14, on p2"]


def test_a_write_that_was_done_twice_or_failed_is_not_clean() -> None:
    twice = report(outcome(told={"p1": [*HELD, Told("rehearsal.r.p1", 1, 12)]}), 3.0)
    assert (twice["result"], twice["writes"]["twice"]) == ("not_clean", 1)
    late = write(5, None, 2.3, 22.3, attempts=7, error="no primary")
    failed = report(outcome(writes=[*WRITES, late]), 3.0)
    assert (failed["result"], failed["writes"]["failed"], failed["writes"]["errors"]) == (
        "not_clean",
        1,
        ["no primary"],
    )
    assert report(outcome(writes=[write(1, 10, 0.0, 0.1, attempts=2), *WRITES[1:]]), 3.0)["writes"]["asked_again"] == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"trouble": "interrupted by SIGINT"},
        {"legs": LEGS[:1]},
        {"legs": []},
        {"legs": [LEGS[0], Leg("p2", "p1", 2.0, 2.3, {"result": "failed", "detail": "p1 is gone"})]},
    ],
)
def test_what_did_not_come_to_its_end_has_failed(changes: dict[str, Any]) -> None:
    assert report(outcome(**changes), 3.0)["result"] == "failed"


def test_it_says_who_is_primary_now_and_what_to_do() -> None:
    assert whereabouts(outcome(), "p1") == "p1 is primary now, epoch 6, as before: there is nothing to undo"
    there = whereabouts(outcome(primary="p2"), "p1")
    assert there.startswith("p2 is primary now, epoch 6, and takes writes")
    assert "to have p1 again, run `failover --operation promote` there" in there


def test_events_of_other_things_and_other_runs_are_no_writes_of_ours() -> None:
    def put(id_: str, value: Any, **more: Any) -> dict[str, Any]:
        return {"op": "put", "kind": "setting", "id": id_, "spec": {"value": value}} | more

    changes = [
        put("rehearsal.r.p1", 1),
        put("rehearsal.other.p1", 1),
        put("user.x", 1),
        {"op": "delete", "kind": "setting", "id": "rehearsal.r.p1"},
        put("rehearsal.r.p1", 1, kind="node"),
    ]
    events = [{"revision": 10, "changes": changes}, {"revision": 11, "changes": []}]
    assert told_by(events, "r") == [Told("rehearsal.r.p1", 1, 10)]
