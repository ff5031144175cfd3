"""What rules a broker out as one of the cluster's, said in plain sentences; what RabbitMQ's failures mean."""

import pytest

from provider.broker.host.commands import BrokerAway, CommandFailed, CookieRefused, failure
from provider.broker.host.facts import Facts, facts, held, objections, series
from provider.broker.host.questions import About
from provider.core.documents import BrokerNode
from shared.errors import Invalid

PLUGINS = ("rabbitmq_management",)
MEMBER = BrokerNode(node="rabbit@p1", version="4.0.5", address="10.0.0.1", plugins=PLUGINS)


def new(**changes: object) -> Facts:
    fields: dict[str, object] = {
        "node": "rabbit@p2",
        "version": "4.0.5",
        "plugins": PLUGINS,
        "cluster": ("rabbit@p2",),
        "running": ("rabbit@p2",),
    }
    return Facts(**(fields | changes))  # type: ignore[arg-type]


def test_an_empty_broker_of_the_same_kind_may_join() -> None:
    assert objections(new(), [MEMBER]) == []
    assert objections(new(version="4.0.9"), [MEMBER]) == []


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"version": "3.10.8"}, ["RabbitMQ 3.10.8 is too old for several brokers", "rabbit@p1 has 4.0.5"]),
        ({"version": "4.1.0"}, ["this host has RabbitMQ 4.1.0, rabbit@p1 has 4.0.5"]),
        ({"plugins": (*PLUGINS, "rabbitmq_shovel")}, ["differ in rabbitmq_shovel"]),
        ({"node": "rabbit@p1"}, ["another member's broker is called rabbit@p1 as well"]),
        ({"cluster": ("rabbit@p2", "rabbit@x")}, ["belongs to a cluster with rabbit@x already"]),
        ({"holds": ("queue 'orders' in virtual host '/'",)}, ["holds queue 'orders' in virtual host '/'"]),
    ],
    ids=["old", "another series", "plug-ins", "same name", "another cluster", "not empty"],
)
def test_what_differs_is_named(changes: dict[str, object], named: list[str]) -> None:
    found = "; ".join(objections(new(**changes), [MEMBER]))
    assert all(words in found for words in named), found


def test_one_that_was_interrupted_while_joining_may_hold_the_log_by_now() -> None:
    again = new(cluster=("rabbit@p1", "rabbit@p2"), holds=("queue 'bellwether.log.a' in virtual host 'bellwether'",))
    assert objections(again, [MEMBER]) == []


def test_what_is_held_leaves_out_what_broker_setup_makes() -> None:
    assert held(["/", "bellwether"], []) == ()
    assert held(["/", "shop"], [("/", "orders")]) == ("virtual host 'shop'", "queue 'orders' in virtual host '/'")


def test_what_a_broker_says_of_itself_becomes_facts() -> None:
    names = (("/", "a"), ("/", "b"), ("/", "c"), ("/", "d"))
    told = About(
        clock_ms=0,
        node="rabbit@p2",
        running=True,
        version="4.0.5",
        plugins=PLUGINS,
        cluster=("rabbit@p2",),
        seen=("rabbit@p2",),
        vhosts=("/", "bellwether"),
        queues=7,
        some=names,
    )
    found = facts(told)
    assert (found.node, found.others, found.more) == ("rabbit@p2", (), 3)
    assert "holds queue 'a' in virtual host '/', queue 'b'" in (said := "; ".join(objections(found, [MEMBER])))
    assert "'c' in virtual host '/' and 4 more, which joining would delete" in said


def test_what_is_not_ours_is_told_apart() -> None:
    told = About(
        clock_ms=0,
        node="rabbit@p2",
        running=True,
        version="4.0.5",
        plugins=(),
        vhosts=("/", "bellwether", "shop"),
        queues=2,
        some=(("/", "orders"), ("bellwether", "bellwether.log.a")),
    )
    assert facts(told).foreign == ("virtual host 'shop'", "queue 'orders' in virtual host '/'")


@pytest.mark.parametrize("node", ["rabbit@P1", "rabbit@p1.example.org", "bunny@p1"])
def test_a_name_that_brokers_cannot_have_is_said_with_what_to_do(node: str) -> None:
    with pytest.raises(Invalid, match=rf"is called {node}.*capitals or dots.*systemctl restart rabbitmq-server"):
        new(node=node).as_node("10.0.0.2")


def test_versions_are_compared_as_numbers() -> None:
    assert series("4.10.1") > series("4.9.0")


@pytest.mark.parametrize(
    ("output", "kind", "words"),
    [
        ("  * TCP connection succeeded but Erlang distribution failed", CookieRefused, "does not let this host in"),
        (
            "unable to connect to epmd (port 4369) on p9: nxdomain (non-existing domain)",
            BrokerAway,
            "name is not known",
        ),
        ("Error: unable to perform an operation on node 'rabbit@p2'.", BrokerAway, "does not run"),
        ("Error:\nRabbitMQ on node rabbit@p3 must be stopped", CommandFailed, "must be stopped"),
        ("", CommandFailed, "did not say why"),
    ],
)
def test_failures_become_plain_sentences(output: str, kind: type[Exception], words: str) -> None:
    error = failure(["rabbitmqctl", "--quiet", "reset"], "rabbit@p2", output)
    assert type(error) is kind
    assert words in str(error)
