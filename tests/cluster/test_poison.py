"""Invariant: whatever arrives from the broker, it is counted, logged once, and skipped; every daemon lives, the nodes
stay equal, and the next good message is served."""

import json
import time
from collections.abc import Callable, Iterator

import pytest
from localcluster.cluster import Cluster
from localcluster.process import wait_until
from prometheus_client.parser import text_string_to_metric_families

from shared.messages import up_key
from tests.support.amqp import Rogue, as_provider, envelope, publish
from tests.support.api import client
from tests.support.nodes import command, wait_equal

HUGE = b'{"v": 1, "x": "' + b"x" * 4_200_000 + b'"}'

# What is sent to everybody who listens, and the word by which it is counted.
POISON: dict[str, tuple[bytes, str]] = {
    "nothing that is JSON": (b"\x00\xff\xfe no json", "not_json"),
    "half of it": (b'{"v": 1, "type": "pulse"', "not_json"),
    "too deep": (b"[" * 100_000, "not_json"),
    "too long a number": (b'{"v": ' + b"9" * 10_000 + b"}", "not_json"),
    "10 MB": (HUGE, "too_large"),
    "a newer version": (envelope("pulse", {}, sender="db1", version=2), "newer_version"),
    "a version of the far future": (b'{"v": 1e300, "type": "pulse"}', "malformed"),
    "an array": (b"[]", "malformed"),
    "null": (b"null", "malformed"),
    "no envelope": (b"{}", "malformed"),
    "an unknown field": (envelope("inquire", {}, sender="p1", surprise=1), "malformed"),
    "an unknown type": (envelope("launch", {}, sender="p1"), "unknown_type"),
    "version 0": (envelope("inquire", {}, sender="p1", version=0), "unknown_type"),
    "a body of another type": (envelope("pulse", {"epoch": "x"}, sender="db1"), "malformed"),
    "no body": (envelope("advice", None, sender="p1"), "malformed"),
    "a negative epoch": (envelope("inquire", {}, sender="p1", epoch=-1), "malformed"),
    "an epoch without end": (envelope("inquire", {}, sender="p1", epoch=2**70), "malformed"),
    "a lone surrogate as type": (envelope("\ud800", {}, sender="p1"), "not_json"),
    "a lone surrogate within": (envelope("pulse", {"version": "\ud800"}, sender="db1"), "not_json"),
}


def counters(cluster: Cluster, node: str) -> dict[str, float]:
    text = client(cluster, node).holding(None).get("/metrics").body.decode()
    return {
        f"{sample.name} {value}": sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        for value in sample.labels.values()
        if "skipped" in sample.name or "unreadable" in sample.name
    }


def skipped(cluster: Cluster, node: str, kind: str) -> float:
    return counters(cluster, node).get(f"bellwether_messages_skipped_total {kind}", 0)


@pytest.fixture(autouse=True)
def _all_live_and_are_equal(cluster: Cluster) -> Iterator[None]:
    pids = {name: member.process.pid for name, member in cluster.members.items() if member.process is not None}
    yield
    assert cluster.dead() == []
    assert pids == {name: member.process.pid for name, member in cluster.members.items() if member.process is not None}
    wait_equal(cluster)
    for name, provider in cluster.providers.items():
        assert "Traceback" not in provider.log.read_text(), name
    assert "Traceback" not in cluster.agents["db1"].log.read_text()


def _still_works(cluster: Cluster) -> None:
    """A wish goes all the way: log, agent, server, and back."""
    name = f"sound{time.monotonic_ns()}"
    one = client(cluster, "p3")
    one.write("PUT", f"/instances/db1/databases/{name}", {})
    one.wait_for(f"/instances/db1/databases/{name}", lambda d: d["status"]["phase"] == "ready")
    one.write("DELETE", f"/instances/db1/databases/{name}?drop=true")


# ── messages ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("exchange", ["agents.up", "providers"])
def test_providers_skip_what_they_cannot_read(cluster: Cluster, exchange: str) -> None:
    kinds = [kind for _, kind in POISON.values()]
    before = {name: {kind: skipped(cluster, name, kind) for kind in kinds} for name in cluster.providers}
    with as_provider(cluster) as to:
        for body, _ in POISON.values():
            publish(to, exchange, "pulse.db1", body)
            publish(to, exchange, "pulse.db1", body)
    for name in cluster.providers:
        for kind in set(kinds):
            expected = before[name][kind] + 2 * kinds.count(kind)
            wait_until(
                lambda kind=kind, name=name, expected=expected: skipped(cluster, name, kind) == expected,  # type: ignore[misc]
                timeout_s=30,
                what=f"{name} has not counted {kind}: {counters(cluster, name)}",
            )
            said = [line for line in cluster.providers[name].log.read_text().splitlines() if f"kind={kind}" in line]
            assert len(said) == 1, "logged once for each sender, however often it comes"
    _still_works(cluster)


def test_the_agent_skips_what_it_cannot_read(cluster: Cluster) -> None:
    def count() -> dict[str, int]:
        return dict(json.loads(command(cluster, "db1", "agent", "status", "--json").out)["skipped"])

    kinds = [kind for _, kind in POISON.values()]
    before, epoch = count(), client(cluster, "p1").get("/cluster").json["epoch"]  # other tests promote here, too

    def strange() -> dict[str, bytes]:
        """Each time with new ids: what comes twice is acted on once."""
        return {
            "unexpected": envelope("pulse", _pulse(), sender="db1"),
            "stale_epoch": envelope("desired", {"revision": 10**6, "instances": []}, sender="p1", epoch=0),
            "stale_revision": envelope("desired", {"revision": 0, "instances": []}, sender="p1", epoch=epoch),
        }

    with as_provider(cluster) as to:
        for key in ("db1", "all"):
            for body in [body for body, _ in POISON.values()] + list(strange().values()):
                publish(to, "agents.down", key, body)
    expected = {kind: before.get(kind, 0) + 2 * kinds.count(kind) for kind in kinds}
    expected |= {kind: before.get(kind, 0) + 2 for kind in strange()}
    wait_until(lambda: expected.items() <= count().items(), timeout_s=60, what=f"{expected} are skipped")
    log = cluster.agents["db1"].log.read_text()
    assert sum("message skipped" in line and "kind=not_json" in line for line in log.splitlines()) == 1
    _still_works(cluster)


def test_a_command_in_the_name_of_nobody_in_particular_drops_nothing(cluster: Cluster) -> None:
    """An old wish list, of an epoch that has ended, cannot have anything dropped."""
    one = client(cluster, "p2")
    one.write("PUT", "/instances/db1/databases/dear", {})
    one.wait_for("/instances/db1/databases/dear", lambda d: d["status"]["phase"] == "ready")
    drop = {"name": "dear", "drop": True, "version": 1}
    body = {"revision": 10**9, "instances": [{"id": "db1", "databases": [drop]}]}
    with as_provider(cluster) as to:
        publish(to, "agents.down", "db1", envelope("desired", body, sender="p1", epoch=0))
    _still_works(cluster)
    assert one.read("/instances/db1/databases/dear")["status"]["phase"] == "ready"
    shown = one.wait_for("/instances/db1", lambda i: "observed" in i["status"])["status"]["observed"]["databases"]
    assert "dear" in [database["name"] for database in shown]
    one.write("DELETE", "/instances/db1/databases/dear?drop=true")


# ── the log ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_node_skips_what_is_no_record_in_the_log(cluster: Cluster) -> None:
    state = client(cluster, "p1").read("/cluster")
    head = {"v": 1, "id": "forged", "generation": state["generation"], "node": "p9", "at": 1}
    entry = head | {"type": "entry", "epoch": state["epoch"], "commits": []}
    claim = head | {"type": "claim"}
    unreadable = [
        b"no json",
        b"{}",
        b"\x00",
        HUGE,
        b"[" * 100_000,
        b'{"type": "entry", "commits": [' + b'{"a":' * 100_000,
        json.dumps(head | {"type": "launch"}).encode(),
        json.dumps(entry | {"v": 2, "seq": 1}).encode(),
        json.dumps(entry | {"seq": -1}).encode(),
        json.dumps(entry | {"seq": 2**64}).encode(),
        json.dumps(entry | {"seq": 1, "surprise": True}).encode(),
        json.dumps(entry | {"seq": 1, "commits": [{}] * 50_000}).encode(),
        json.dumps(head | {"type": "barrier", "generation": ["x"]}).encode(),
    ]
    harmless = {
        "other_generation": [
            entry | {"generation": "0" * 16, "seq": state["revision"] + 1},
            claim | {"generation": "0" * 16, "ends": state["epoch"]},
            head | {"type": "barrier", "generation": "0" * 16},
        ],
        "other_epoch": [
            entry | {"epoch": state["epoch"] - 1, "seq": state["revision"] + 1},
            entry | {"epoch": state["epoch"] + 1, "seq": state["revision"] + 1},
            claim | {"ends": state["epoch"] - 1},
            claim | {"ends": state["epoch"] + 1},
        ],
        "repeated": [entry | {"seq": 1}],
        "gap": [entry | {"seq": state["revision"] + 10_000}],
    }
    before = {name: counters(cluster, name) for name in cluster.providers}
    stream = f"bellwether.log.{state['generation']}"
    with as_provider(cluster) as to:
        for body in [*unreadable, *(json.dumps(r).encode() for rs in harmless.values() for r in rs)]:
            publish(to, "", stream, body)
    expected = {"bellwether_records_unreadable_total unreadable": len(unreadable)}
    expected |= {f"bellwether_records_skipped_total {why}": len(records) for why, records in harmless.items()}
    for name in cluster.providers:
        _wait_for_counts(cluster, name, {key: before[name].get(key, 0) + more for key, more in expected.items()})
        assert cluster.providers[name].log.read_text().count("is no record; skipped") == 1
    after = wait_equal(cluster)
    assert (after["epoch"], after["primary"]) == (state["epoch"], state["primary"])
    for name in cluster.providers:
        client(cluster, name).write("PUT", "/settings/user.after_poison", {"value": name})
    _still_works(cluster)


def _wait_for_counts(cluster: Cluster, node: str, expected: dict[str, float]) -> None:
    def counted() -> bool:
        return all(counters(cluster, node).get(key, 0) >= value for key, value in expected.items())

    wait_until(counted, timeout_s=15, what=f"{node}: {expected}, but {counters(cluster, node)}")


# ── an agent that has gone bad ───────────────────────────────────────────────────────────────────────────────────────


def _pulse(**changed: object) -> dict[str, object]:
    return {"version": "0.1.0", "session": "s", "epoch": 1, "revision": 0, "endpoint": "amqps://x"} | changed


def _observed(id_: str, **changed: object) -> dict[str, object]:
    return {"id": id_, "engine": "mariadb", "port": 3306, "state": "up", "version": "11"} | changed


TOO_MUCH: dict[str, Callable[[str], tuple[str, dict[str, object]]]] = {
    "a negative epoch": lambda _: ("pulse", _pulse(epoch=-1)),
    "an epoch without end": lambda _: ("pulse", _pulse(epoch=2**70)),
    "a negative revision": lambda _: ("pulse", _pulse(revision=-1)),
    "an acknowledgement without end": lambda _: ("advised", {"epoch": 10**30, "primary": "p1"}),
    "no port": lambda id_: ("hello", _pulse(instances=[_observed(f"{id_}-x", port=0)])),
    "a port beyond ports": lambda id_: ("hello", _pulse(instances=[_observed(f"{id_}-x", port=10**9)])),
    "a wish's version without end": lambda id_: (
        "report",
        {"revision": 1, "instances": [_observed(f"{id_}-db", database_results=[_result(version=2**80)])]},
    ),
}
ODD: dict[str, Callable[[str], tuple[str, dict[str, object]]]] = {
    "very long texts": lambda id_: ("hello", _pulse(version="v" * 10**5, endpoint="e" * 10**5, instances=[])),
    "odd letters": lambda id_: ("hello", _pulse(version="\u0000\u2028😀", instances=[])),
    "an instance with no name": lambda id_: ("hello", _pulse(instances=[_observed("")])),
    "an instance with a path for a name": lambda id_: ("hello", _pulse(instances=[_observed("../../etc")])),
    "an instance of no engine": lambda id_: ("hello", _pulse(instances=[_observed(f"{id_}-y", engine="oracle")])),
    "an address without end": lambda id_: ("hello", _pulse(instances=[_observed(f"{id_}-z", host="h" * 10**5)])),
    "somebody else's instance": lambda id_: ("hello", _pulse(instances=[_observed("db1", state="down", message="!")])),
    "a report of somebody else's": lambda id_: (
        "report",
        {"revision": 1, "instances": [_observed("db1", database_results=[_result(phase="dropped")])]},
    ),
    "the same instance a thousand times": lambda id_: ("hello", _pulse(instances=[_observed(f"{id_}-db")] * 1000)),
    "a hundred instances": lambda id_: ("hello", _pulse(instances=[_observed(f"{id_}-{n}") for n in range(100)])),
    "results that nobody asked for": lambda id_: (
        "report",
        {"revision": 1, "instances": [_observed(f"{id_}-db", database_results=[_result(f"{n}") for n in range(1000)])]},
    ),
}  # fmt: skip


def _result(name: str = "x", **changed: object) -> dict[str, object]:
    return {"name": name, "version": 1, "phase": "ready"} | changed


def test_numbers_that_cannot_be_are_skipped(cluster: Cluster, rogue: Rogue) -> None:
    before = {name: skipped(cluster, name, "malformed") for name in cluster.providers}
    rogue.say("hello", _pulse(instances=[]))
    for make in TOO_MUCH.values():
        rogue.say(*make(rogue.id))
    for name in cluster.providers:
        _wait_for_counts(cluster, name, {"bellwether_messages_skipped_total malformed": before[name] + len(TOO_MUCH)})
    _still_works(cluster)


def test_whatever_an_agent_says_the_others_are_served(cluster: Cluster, rogue: Rogue) -> None:
    for make in ODD.values():
        rogue.say(*make(rogue.id))
        rogue.say("pulse", _pulse())
    client(cluster, "p1").wait_for(f"/agents/{rogue.id}", lambda a: a["status"]["state"] == "online")
    _still_works(cluster)
    for name in cluster.providers:
        one = client(cluster, name)
        assert one.read("/instances/db1")["spec"]["agent"] == "db1"
        assert one.read("/instances/db1")["status"]["state"] == "up"
        for path in ("/agents", "/instances?limit=1000", f"/agents/{rogue.id}", "/cluster"):
            assert one.get(path).status == 200
        assert one.get("/instances/..%2F..%2Fetc").status == 404


def test_what_an_agent_says_in_anothers_name_is_not_believed(cluster: Cluster, rogue: Rogue) -> None:
    before = {name: skipped(cluster, name, "forged") for name in cluster.providers}
    anonymous = {name: skipped(cluster, name, "anonymous") for name in cluster.providers}
    unexpected = {name: skipped(cluster, name, "unexpected") for name in cluster.providers}
    anonymous = {name: skipped(cluster, name, "anonymous") for name in cluster.providers}
    epoch = client(cluster, "p1").read("/cluster")["epoch"]
    rogue.say("advised", {"epoch": epoch + 5, "primary": "p9"}, sender="db1")
    rogue.say("report", {"revision": 10**6, "instances": [_observed("db1", state="down")]}, sender="db1")
    node_pulse = {
        "role": "primary",
        "state": "active",
        "version": "0.1.0",
        "revision": 10**9,
        "digest": "",
        "started": "",
    }
    rogue.say("node_pulse", node_pulse, sender="p1")
    rogue.say("node_pulse", node_pulse)
    publish(rogue.to, "agents.up", up_key("pulse", rogue.id), envelope("pulse", _pulse(), sender=rogue.id), user=None)
    with as_provider(cluster) as to:
        publish(to, "agents.up", "pulse.db1", envelope("pulse", _pulse(epoch=99), sender="db1"))
        publish(to, "agents.up", "desired.db1", envelope("desired", {"revision": 1, "instances": []}, sender="p1"))
    for name in cluster.providers:
        _wait_for_counts(
            cluster,
            name,
            {
                "bellwether_messages_skipped_total forged": before[name] + 5,
                "bellwether_messages_skipped_total anonymous": anonymous[name] + 1,
                "bellwether_messages_skipped_total unexpected": unexpected[name] + 1,
            },
        )
        assert client(cluster, name).read("/agents/db1")["status"]["epoch"] == epoch
        assert client(cluster, name).read("/instances/db1")["status"]["state"] == "up"
        assert all(0 <= node["lag"] < 1000 for node in client(cluster, name).read("/cluster")["nodes"])
