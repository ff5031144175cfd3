"""Whether a node hears the others that are alive."""

import threading

from immutables import Map

from provider.core.entries import Change
from provider.core.state import State
from provider.fleet.hearing import SILENT_S, Hearing, silent
from provider.fleet.view import NodeSeen, View
from shared.messages import NodePulse

NOW_S = 1000.0
PULSE = NodePulse(role="standby", state="active", version="1", revision=1, digest="d", started="s")


def state() -> State:
    nodes = (Change(kind="node", id=name, spec={"url": f"https://{name}:1"}) for name in ("p1", "p2", "p3"))
    return State.genesis(generation="g", primary="p1", now=0, changes=tuple(nodes))


def heard(**ago_s: float) -> View:
    return View(nodes=Map({name: NodeSeen(0, NOW_S - ago, PULSE, 1) for name, ago in ago_s.items()}))


def missed(view: View, *, since_s: float = 0.0) -> list[str]:
    return silent(state(), view, "p1", NOW_S, since_s)


def test_who_was_not_heard_of_for_long_is_missed_and_a_node_does_not_miss_itself() -> None:
    assert missed(heard(p2=0.5, p3=SILENT_S + 1)) == ["p3"]
    assert missed(heard(p2=0.5)) == ["p3"], "never heard of at all"
    assert missed(heard(p2=SILENT_S - 0.5, p3=0.1)) == []


def test_nobody_is_missed_before_one_could_hear_them() -> None:
    assert missed(heard(p2=3600), since_s=NOW_S - SILENT_S + 1) == []
    assert missed(heard(p2=3600), since_s=NOW_S - SILENT_S - 1) == ["p2", "p3"]


def test_the_connection_is_made_anew_only_where_somebody_answers_who_is_not_heard() -> None:
    asked, restarted = list[str](), threading.Event()
    reasons: list[str] = []

    def alive(name: str) -> bool:
        asked.append(name)
        return name == "p3"

    def restart(why: str) -> None:
        reasons.append(why)
        restarted.set()

    hearing = Hearing(lambda: ["p2", "p3"], alive, restart)
    hearing.start()
    assert restarted.wait(20)
    hearing.stop()
    assert asked == ["p2", "p3"]
    assert reasons == ["p3 is alive, and nothing is heard of it here; connecting anew"]


def test_a_host_that_is_gone_costs_no_connection() -> None:
    asked_twice, asked, restarts = threading.Event(), list[str](), list[str]()

    def alive(name: str) -> bool:
        asked.append(name)
        if len(asked) > 1:
            asked_twice.set()
        return False

    hearing = Hearing(lambda: ["p2", "p3"], alive, restarts.append)
    hearing.start()
    assert asked_twice.wait(20)
    hearing.stop()
    assert restarts == []
