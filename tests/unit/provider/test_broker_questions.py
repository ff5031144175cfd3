"""What brokers answer is read, whole or not at all."""

import json

import pytest

from provider.broker.host.questions import about, copy, entry
from shared.errors import Invalid

STOPPED = {
    "clock_ms": 1795254772952,
    "node": "rabbit@p-1",
    "running": False,
    "version": "4.0.5",
    "plugins": ["rabbitmq_management", "jose"],
    "store_ended": False,
}


def test_a_broker_that_is_stopped_tells_of_itself_only() -> None:
    found = about(json.dumps(STOPPED) + "\nok\n")
    assert (found.node, found.version, found.running) == ("rabbit@p-1", "4.0.5", False)
    assert found.plugins == ("jose", "rabbitmq_management")
    assert found.clock_s == 1795254772.952
    assert not found.founded


@pytest.mark.parametrize(
    ("told", "founded"),
    [
        ({"cluster": ["rabbit@p-1"], "queues": 0}, False),
        ({"cluster": ["rabbit@p-1"], "queues": 1, "some": [["/", "orders"]]}, True),
        ({"cluster": ["rabbit@p-2", "rabbit@p-1"], "queues": 0}, True),
    ],
    ids=["alone and empty", "holds something", "with others"],
)
def test_a_broker_is_founded_by_what_it_holds_or_by_others(told: dict[str, object], founded: bool) -> None:
    assert about(json.dumps(STOPPED | {"running": True} | told)).founded is founded


def test_copies_of_streams_are_told_by_virtual_host_and_name() -> None:
    streams = [["bellwether", "bellwether.log.a", ["rabbit@p2", "rabbit@p1"]]]
    asleep = [["bellwether", "bellwether.log.a"]]
    found = about(json.dumps(STOPPED | {"running": True, "streams": streams, "asleep": asleep}))
    assert found.asleep == (("bellwether", "bellwether.log.a"),)
    assert found.streams == (("bellwether", "bellwether.log.a", frozenset({"rabbit@p1", "rabbit@p2"})),)


@pytest.mark.parametrize("answer", ["", "{badrpc,nodedown}", '{"node":"rabbit@p1"}', "ok"])
def test_what_is_not_understood_is_refused(answer: str) -> None:
    with pytest.raises(Invalid):
        about(answer)


def test_whether_a_host_may_join_now() -> None:
    found = entry('{"known":{"rabbit@p1":"10.0.0.3","rabbit@p2":null},"turn":false,"cluster":{}}\n')
    assert (found.known, found.turn) == ({"rabbit@p1": "10.0.0.3", "rabbit@p2": None}, False)


@pytest.mark.parametrize(
    ("told", "lacks"),
    [
        ({}, None),
        ({"held": False, "added": None}, "it is not made yet"),
        ({"held": False, "added": "{error,timeout}"}, "RabbitMQ said {error,timeout}"),
        ({"online": False}, "it is not in touch with the others"),
        ({"has_say": False}, "it has no say yet in who leads the log"),
    ],
)
def test_what_a_copy_of_the_log_lacks_is_said(told: dict[str, object], lacks: str | None) -> None:
    whole = {"running": True, "there": True, "held": True, "online": True, "has_say": True, "added": "ok"}
    found = copy(json.dumps(whole | told))
    assert found.whole is (lacks is None)
    assert lacks is None or found.lacks == lacks
