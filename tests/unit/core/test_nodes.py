"""Nodes: who may join and why not, who repeats a join, what changes about a node, who goes for good."""

from dataclasses import replace
from typing import Any

import pytest

from provider.core import documents as docs
from provider.core.commands import (
    DeleteToken,
    Difference,
    JoinNode,
    LabelNode,
    Precondition,
    PutSetting,
    RemoveNode,
    UpdateNode,
    differences,
    put,
)
from provider.core.state import State
from shared.errors import Conflict, Invalid, NotFound, Refused, StaleRevision, TokenRefused
from tests.support.commands import NOW, do, get, refusal, token

HOUR_MS = 3_600_000
LATER = NOW + HOUR_MS
CLUSTER: dict[str, Any] = {"version": "1.0", "api.body_max_bytes": 1_048_576, "broker.version": "4.0.5"}


def certificate(of: str, number: int = 1) -> docs.CertificateSpec:
    return docs.CertificateSpec(sha256=f"{of} {number}", key_sha256=f"key of {of}", authority="ca", expires_at=LATER)


def node(name: str, **more: Any) -> docs.NodeSpec:
    said: dict[str, Any] = {"url": f"https://{name}:1", "endpoints": (f"amqps://{name}:1",), "version": "1.0"}
    said |= {"token_sha256": f"token of {name}", "public_key": f"public {name}", "certificates": (certificate(name),)}
    return docs.NodeSpec(**said | more)


def cluster(*names: str) -> State:
    """`p1`, perhaps others, and a node token each for those that may come."""
    members = ("p1", *names)
    changes = (
        *(put("node", name, node(name)) for name in members),
        put("authority", "ca", docs.AuthoritySpec(certificate="", key="", signs=True)),
        put("key", "k1", docs.KeySpec(wrapped={name: f"k1 for {name}" for name in members})),
        *(put("token", f"for {name}", token("node", LATER)) for name in ("p2", "p3", "p4", "p5", "p6")),
    )
    return State.genesis(generation="g", primary="p1", now=NOW, changes=changes)


def joining(name: str, token_id: str | None = None, *, keys: tuple[str, ...] = ("k1",), **more: Any) -> JoinNode:
    spec = more.pop("spec", node(name))
    return JoinNode(name, token_id or f"for {name}", spec, {key: f"{key} for {name}" for key in keys}, **more)


def removing(name: str, *others: str, key: str = "k2") -> RemoveNode:
    return RemoveNode(name, key, docs.KeySpec(wrapped={other: f"{key} for {other}" for other in others}))


# ── joining ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_up_to_four_nodes_and_no_fifth() -> None:
    state = cluster()
    for name in ("p2", "p3", "p4"):
        state = do(state, joining(name))
    assert [one.id for one in state.of("node")] == ["p1", "p2", "p3", "p4"]
    refusal(state, joining("p5"), Refused, "4 nodes, the most there may be")
    room = do(state, removing("p4", "p1", "p2", "p3"))
    assert do(room, joining("p5", keys=("k1", "k2"))).get("node", "p5") is not None


def test_names_that_are_taken_or_are_none() -> None:
    refusal(cluster(), joining("P 2"), Invalid, "node name")
    another = node("p1", public_key="another", url="https://another:1")
    refusal(cluster(), joining("p1", "for p2", spec=another), Refused, "member already; choose another name")
    two = do(cluster(), joining("p2"))
    refusal(two, joining("p2", "for p3", spec=node("p2", public_key="another")), Refused, "member already")


def test_no_two_nodes_at_one_address() -> None:
    refusal(cluster(), joining("p2", spec=node("p2", url="https://p1:1")), Refused, "p1 is a member at https://p1:1")


def broker(number: int, **more: Any) -> docs.BrokerNode:
    return docs.BrokerNode(**{"node": f"rabbit@p{number}", "version": "4.0.5", "address": f"10.0.0.{number}"} | more)


def with_brokers(*numbers: int, names: tuple[str, ...] = ("p2", "p3")) -> State:
    """`p1` and others, of which those of these numbers have a broker of their own."""
    state = cluster(*names)
    for number in numbers:
        state = do(state, UpdateNode(f"p{number}", certificate(f"p{number}"), {"broker": broker(number).model_dump()}))
    return state


@pytest.mark.parametrize(
    ("own", "why"),
    [
        (broker(4, node="rabbit@localhost"), "is called localhost, which means something else"),
        (broker(4, node="rabbit@p3"), "the broker of p3 is called rabbit@p3 as well"),
        (broker(4, address="10.0.0.3"), "the broker of p3 is known at 10.0.0.3; if p3 is gone for good"),
    ],
    ids=["reserved", "name", "address"],
)
def test_a_broker_that_others_could_not_tell_from_another_does_not_come_in(own: docs.BrokerNode, why: str) -> None:
    """Hosts would not know what to write into /etc/hosts."""
    state, newcomer = with_brokers(1, 2, 3), joining("p4", spec=node("p4", broker=own))
    refusal(state, newcomer, Refused, why)
    refusal(state, UpdateNode("p2", certificate("p2"), {"broker": own.model_dump()}), Refused, why[:40])
    moved = joining("p4", spec=node("p4", broker=broker(4)))
    refusal(do(state, moved), newcomer, Refused, why)
    freed = do(state, removing("p3", "p1", "p2"))
    if own.host != "localhost":
        assert do(freed, joining("p4", spec=node("p4", broker=own), keys=("k1", "k2"))).get("node", "p4") is not None


def test_a_node_that_joins_gets_every_data_key() -> None:
    state = do(cluster(), joining("p2"))
    assert get(state, "key", "k1").spec["wrapped"] == {"p1": "k1 for p1", "p2": "k1 for p2"}
    refusal(cluster(), joining("p2", keys=()), Conflict, "try again")
    refusal(cluster(), joining("p2", keys=("k1", "k2")), Conflict, "try again")


def test_what_has_to_be_alike_is_refused_by_name_of_what_differs() -> None:
    assert do(cluster(), joining("p2", says=CLUSTER, cluster=CLUSTER)).get("node", "p2") is not None
    assert do(cluster(), joining("p2", says={}, cluster=CLUSTER)).get("node", "p2") is not None, "it takes it over"
    says = {"version": "2.0", "api.body_max_bytes": 65_536, "broker.version": "4.0.5", "broker.plugins": ["x"]}
    with pytest.raises(Refused) as error:
        joining("p2", says=says, cluster=CLUSTER).plan(cluster(), NOW)
    assert error.value.detail == (
        "p2 is not like the cluster's nodes: api.body_max_bytes: p2 has 65536, the cluster 1048576; "
        'broker.plugins: p2 has ["x"], the cluster nothing; version: p2 has 2.0, the cluster 1.0'
    )


def test_differences_are_those_of_json() -> None:
    assert differences({"a": 1, "b": [1]}, {"b": [1], "c": 2, "a": 1}) == []
    assert differences({"a": 1}, {"a": True}) == [Difference("a", 1, True)]
    assert differences({"b": 1, "a": "x"}, {}) == [Difference("a", "x", None), Difference("b", 1, None)]


@pytest.mark.parametrize(("skew_s", "told"), [(2.5, "2.50 s ahead of"), (-3600.0, "3600.00 s behind")])
def test_a_clock_that_is_far_off_is_refused_with_the_measured_figure(skew_s: float, told: str) -> None:
    refusal(cluster(), joining("p2", clock_skew_s=skew_s), Refused, told)
    wide = do(cluster(), PutSetting("cluster.clock_skew_s", 3600))
    assert do(wide, joining("p2", clock_skew_s=skew_s)).get("node", "p2") is not None
    for good_s in (2.0, -2.0, 0.0, None):
        assert do(cluster(), joining("p2", clock_skew_s=good_s)).get("node", "p2") is not None


# ── again ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_interrupted_join_is_repeated_with_the_same_token_name_and_keys() -> None:
    state = do(cluster(), joining("p2", spec=node("p2", labels={"zone": "a"})))
    plan = joining("p2", spec=node("p2", certificates=(certificate("p2", 2),))).plan(state, LATER)
    assert (plan.status, plan.target) == (201, ("node", "p2"))
    again = do(state, joining("p2", spec=node("p2", certificates=(certificate("p2", 2),))), LATER)
    assert [one["sha256"] for one in get(again, "node", "p2").spec["certificates"]] == ["p2 2", "p2 1"]
    assert get(again, "node", "p2").spec["labels"] == {"zone": "a"}, "what is not said anew stays"
    assert get(again, "key", "k1").spec["wrapped"] == get(state, "key", "k1").spec["wrapped"]
    moved = do(again, joining("p2", spec=node("p2", url="https://p2:2")), LATER)
    assert get(moved, "node", "p2").spec["url"] == "https://p2:2"


def test_a_repeated_join_meets_the_rules_again() -> None:
    state = do(cluster(), joining("p2"))
    refusal(state, joining("p2", says={"version": "2.0"}, cluster=CLUSTER), Refused, "version")
    refusal(state, joining("p2", clock_skew_s=9.0), Refused, "clock")


@pytest.mark.parametrize(
    "other",
    [
        {"public_key": "another"},
        {"token_sha256": "another"},
        {"broker_password_hash": "another"},
        {"certificates": (certificate("another"),)},
    ],
    ids=str,
)
def test_nobody_else_repeats_a_join(other: dict[str, Any]) -> None:
    state = do(cluster(), joining("p2"))
    refusal(state, joining("p2", spec=node("p2", **other)), TokenRefused, "used before, by node p2")


def test_a_used_token_is_good_for_nothing_but_that() -> None:
    state = do(cluster(), joining("p2"))
    refusal(state, joining("p3", "for p2"), TokenRefused, "used before, by node p2")
    refusal(do(state, DeleteToken("for p2")), joining("p2"), TokenRefused)
    with pytest.raises(TokenRefused):
        joining("p2").plan(state, LATER + 1)


def test_a_new_token_lets_the_same_newcomer_go_on() -> None:
    state = do(cluster(), joining("p2"))
    again = do(state, joining("p2", "for p3", spec=node("p2", certificates=(certificate("p2", 2),))))
    assert [one["sha256"] for one in get(again, "node", "p2").spec["certificates"]] == ["p2 2", "p2 1"]
    assert get(again, "token", "for p3").status["used_by"] == "node p2"
    refusal(again, joining("p3"), TokenRefused, "used before, by node p2")


def test_of_two_under_one_name_one_is_refused() -> None:
    first, second = joining("p2"), joining("p2", "for p3", spec=node("p2", public_key="another"))
    refusal(do(cluster(), first), second, Refused, "member already")
    refusal(do(cluster(), second), first, Refused, "member already")


def test_a_node_that_was_removed_while_it_joined_is_told_so() -> None:
    state = do(do(cluster(), joining("p2")), removing("p2", "p1"))
    refusal(state, joining("p2", keys=("k1", "k2")), Refused, "removed from the cluster while it joined")


# ── labels, addresses ────────────────────────────────────────────────────────────────────────────────────────────────


def test_labels_are_replaced_as_a_whole() -> None:
    state = do(cluster(), LabelNode("p1", {"zone": "a", "host": "esx1"}))
    state = do(state, LabelNode("p1", {"zone": "b"}))
    assert get(state, "node", "p1").spec["labels"] == {"zone": "b"}
    assert LabelNode("p1", {"zone": "b"}).plan(state, NOW).changes == ()
    refusal(state, LabelNode("p1", {}, Precondition(revision=1)), StaleRevision)
    refusal(state, LabelNode("p9", {}), NotFound)


def test_a_node_at_another_address_has_a_certificate_for_it() -> None:
    news = {"url": "https://p2:9", "endpoints": ["amqps://p2:9"], "version": "1.1"}
    state = do(cluster("p2"), UpdateNode("p2", certificate("p2", 2), news))
    spec = get(state, "node", "p2").spec
    assert (spec["url"], spec["endpoints"], spec["version"]) == ("https://p2:9", ["amqps://p2:9"], "1.1")
    assert [one["sha256"] for one in spec["certificates"]] == ["p2 2", "p2 1"]
    assert spec["public_key"] == "public p2"
    taken = {"url": "https://p1:1"}
    refusal(cluster("p2"), UpdateNode("p2", certificate("p2", 2), taken), Refused, "p1 is a member at")
    signed_by_another = certificate("p2", 2).model_copy(update={"authority": "old"})
    refusal(cluster("p2"), UpdateNode("p2", signed_by_another, news), Conflict, "ask again")


# ── going ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_removed_node_never_comes_back_and_a_fresh_one_at_its_address_may() -> None:
    state = do(cluster("p2"), removing("p2", "p1"))
    keys = ("k1", "k2")
    refusal(state, joining("p2", keys=keys), Refused, "never comes back")
    refusal(state, removing("p2", "p1"), NotFound)
    fresh = do(state, joining("p3", keys=keys, spec=node("p3", url="https://p2:1")))
    assert get(fresh, "node", "p3").spec["url"] == "https://p2:1"


def test_the_primary_is_not_removed() -> None:
    refusal(cluster("p2"), removing("p1", "p2"), Refused, "is the primary and cannot be removed")


def test_the_only_broker_is_not_removed_and_who_has_none_may_go() -> None:
    state = with_brokers(2)
    refusal(state, removing("p2", "p1", "p3"), Refused, "p2 has the only broker, and with it the log")
    assert do(state, removing("p3", "p1", "p2")).get("node", "p3") is None
    others = cluster("p2")
    assert do(others, removing("p2", "p1")).get("node", "p2") is None, "brokers that are not ours are not counted"


@pytest.mark.parametrize(
    ("members", "away", "refused", "goes"),
    [
        (("p2", "p3"), {"p2"}, "p3", "p2"),
        (("p2", "p3"), {"p3"}, "p2", "p3"),
        (("p2",), {"p2"}, None, "p2"),
        (("p2", "p3", "p4"), {"p4"}, None, "p3"),
        (("p2", "p3", "p4"), {"p3", "p4"}, "p2", None),
        (("p2", "p3"), set[str](), None, "p3"),
    ],
)
def test_a_broker_goes_only_where_most_of_the_others_are_there(
    members: tuple[str, ...], away: set[str], refused: str | None, goes: str | None
) -> None:
    """Else the log would have no majority, and nothing could be written any more, the way back neither."""
    state = with_brokers(*range(1, len(members) + 2), names=members)
    everybody = {"p1", *members}
    for name in filter(None, (refused, goes)):
        removal = replace(removing(name, *(everybody - {name})), away=frozenset(away))
        if name == refused:
            refusal(state, removal, Refused, f"nothing is heard of {min(away)}")
        else:
            assert do(state, removal).get("node", name) is None


def test_who_was_led_to_a_removed_broker_is_led_to_another() -> None:
    """Agents are told of the primary's endpoints first, and one without a broker of its own has another node's."""
    state = do(with_brokers(2, 3), UpdateNode("p1", certificate("p1"), {"endpoints": ["amqps://p2:1"]}))
    state = do(state, removing("p2", "p1", "p3"))
    assert get(state, "node", "p1").spec["endpoints"] == ["amqps://p3:1"]
    assert get(state, "node", "p3").spec["endpoints"] == ["amqps://p3:1"]


def test_a_removed_node_has_no_part_in_the_next_data_key() -> None:
    state = do(cluster("p2"), removing("p2", "p1"))
    assert get(state, "key", "k1").spec["wrapped"] == {"p1": "k1 for p1"}
    assert get(state, "key", "k2").spec["wrapped"] == {"p1": "k2 for p1"}
    refusal(cluster("p2"), removing("p2"), Conflict, "try again")
    refusal(cluster("p2"), removing("p2", "p1", "p2"), Conflict, "try again")
    refusal(cluster("p2"), removing("p2", "p1", key="k1"), Conflict, "try again")
