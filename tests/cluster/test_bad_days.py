"""Invariant: whatever dies or hangs under load, nothing that was answered "done" is lost or done twice, all nodes end
equal, and there is never a second primary. Reads go on; what cannot be written is refused in time, in so many words."""

import signal
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import pytest
from localcluster.cluster import Cluster
from localcluster.process import wait_until

from tests.cluster.conftest import StartCluster
from tests.support.api import Client, client
from tests.support.nodes import (
    command,
    events,
    living,
    primary_of,
    promote,
    restart,
    standbys_of,
    suspended,
    wait_equal,
    wait_well,
)
from tests.support.sql import databases, wait_for_database
from tests.support.writers import check_promises, running


@pytest.fixture(scope="module")
def own(start_cluster: StartCluster) -> Cluster:
    cluster = start_cluster(databases=1)
    # An agent that is silent for two of its pulses is offline, so that tests need not wait for three.
    client(cluster, "p1").write("PUT", "/settings/agents.offline_after_s", {"value": 4.5})
    return cluster


@pytest.fixture(autouse=True)
def _left_in_order(own: Cluster) -> Iterator[None]:
    yield
    restart(own, *own.dead())
    for name in own.providers:
        client(own, name).wait_for("/health/ready", lambda h: h["state"] == "active")
    client(own, "p1").wait_for("/agents/db1", lambda a: a["status"]["state"] == "online")
    wait_equal(own)


def quick(own: Cluster, name: str) -> Client:
    """For questions that may not be answered."""
    return Client(own.providers[name].url, ca=own.layout.ca, token=client(own, name).token, timeout_s=12)


# ── the primary ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_primary_is_killed_and_a_standby_is_promoted(own: Cluster) -> None:
    before, old = wait_equal(own), primary_of(own)
    new, third = standbys_of(own)
    with running(own, roaming=4, timeout_s=3) as load:
        load.wait_for_more(40)
        own.kill(old)
        refused = client(own, third).put("/settings/user.nobody", {"value": 1})
        assert (refused.status, refused.code, refused.json["retryable"]) == (503, "no_primary", True)
        assert "failover --operation promote" in refused.json["detail"]
        assert client(own, third).read("/settings?limit=5")["items"], "reads go on"
        promote(own, new)
        load.wait_for_more(40)
        restart(own, old)
        client(own, old).wait_for("/cluster", lambda c: c["primary"] == new)
        load.wait_for_more(40)
    assert {f.status for f in load.failures} <= {0, 503, 504}, load.failures
    after = wait_equal(own)
    assert (after["primary"], after["epoch"]) == (new, before["epoch"] + 1)
    assert client(own, old).get("/health/standby").status == 200
    check_promises(own, load, after=before["revision"])


def test_the_primary_is_killed_and_comes_back(own: Cluster) -> None:
    """Nobody promoted anyone: it goes on in its epoch."""
    before, old = wait_equal(own), primary_of(own)
    with running(own, roaming=4, timeout_s=3) as load:
        load.wait_for_more(40)
        own.kill(old)
        restart(own, old)
        load.wait_for_more(40)
    after = wait_equal(own)
    assert (after["primary"], after["epoch"], after["generation"]) == (old, before["epoch"], before["generation"])
    check_promises(own, load, after=before["revision"])


def test_a_node_that_is_restarted_has_the_same_state(own: Cluster) -> None:
    for name in (primary_of(own), standbys_of(own)[0]):
        before = wait_equal(own)
        process = own.providers[name].process
        assert process is not None
        process.signal(signal.SIGTERM)
        assert process.wait(10), "SIGTERM ends it"
        assert "provider ends" in own.providers[name].log.read_text().splitlines()[-1]
        restart(own, name)
        after = client(own, name).read("/cluster", Bellwether_Min_Revision=str(before["revision"]))
        assert (after["epoch"], after["primary"]) == (before["epoch"], before["primary"])
        if after["revision"] == before["revision"]:
            assert after["digest"] == before["digest"]


def test_a_node_that_ends_answers_what_it_holds(own: Cluster) -> None:
    """Also where it cannot know what became of it: that is said, and is no fault in the log."""
    name = standbys_of(own)[0]
    process = own.providers[name].process
    assert process is not None
    with suspended(own, "broker"), ThreadPoolExecutor() as pool:
        held = pool.submit(quick(own, name).put, "/settings/user.ends", {"value": 1})
        assert client(own, name).get("/cluster").status == 200
        process.signal(signal.SIGTERM)
        answer = held.result()
        assert process.wait(20), "it ends although the broker hangs"
    assert (answer.status, answer.code) in {(504, "outcome_unknown"), (503, "log_unavailable")}, answer
    restart(own, name)
    assert "Traceback" not in own.providers[name].log.read_text()


def test_a_write_waits_for_a_primary_and_is_then_refused_in_time(own: Cluster) -> None:
    """`primary_wait_s` is 2 s unless configured: not at once, since a planned change is shorter; and not for ever."""
    old, standby = primary_of(own), standbys_of(own)[0]
    own.kill(old)
    for path in ("/settings/user.waits", "/instances/db1/databases/waits"):
        began = time.monotonic()
        answer = quick(own, standby).put(path, {"value": 1} if "settings" in path else {})
        assert (answer.status, answer.code) == (503, "no_primary")
        assert time.monotonic() - began > 1.5
        assert answer.headers["retry-after"]
        assert client(own, standby).get(path).status == 404
    for name in living(own):
        assert client(own, name).get("/health/primary").status == 503
        assert client(own, name).get("/health/ready").status == 200
        assert client(own, name).get("/api/leader-check").status == 404
    shown = client(own, standby).wait_for(
        "/cluster", lambda c: next(n for n in c["nodes"] if n["name"] == old)["state"] == "lost"
    )
    assert shown["primary"] == old


def test_a_write_that_waits_for_a_primary_is_done_by_the_next_one(own: Cluster) -> None:
    """Also where the primary hangs with the request in its hands."""
    old = primary_of(own)
    new, third = standbys_of(own)
    before = wait_equal(own)
    wait_well(own)
    with suspended(own, old), running(own, one_each=[third], timeout_s=12) as load:
        wait_until(lambda: load.open, timeout_s=30, what="a write is on its way")
        promote(own, new)
        load.wait_for_more(5)
        assert load.failures == []
    wait_equal(own)
    check_promises(own, load, after=before["revision"])


def test_a_primary_that_hangs_and_wakes_after_a_promotion_commits_nothing_and_follows(own: Cluster) -> None:
    before, old = wait_equal(own), primary_of(own)
    new = standbys_of(own)[0]
    with running(own, roaming=5, timeout_s=3) as load:
        load.wait_for_more(40)
        wait_well(own)
        with suspended(own, old):
            promote(own, new)
            load.wait_for_more(40)
        # Writes that it held, and all that come now, go to the new primary.
        client(own, old).wait_for("/cluster", lambda c: c["primary"] == new, timeout_s=30)
        load.wait_for_more(40)
        through = client(own, old).put("/settings/user.through", {"value": uuid4().hex})
        assert through.status in (200, 201)
    after = wait_equal(own)
    assert (after["primary"], after["epoch"]) == (new, before["epoch"] + 1)
    told = events(client(own, new), before["revision"])
    claim = next(event for event in told if event["type"] == "claim")
    assert {e["node"] for e in told if e["revision"] > claim["revision"]} == {new}
    assert {e["node"] for e in told if e["revision"] < claim["revision"]} <= {old}
    assert client(own, old).get("/health/primary").status == 503
    assert client(own, old).get("/health/standby").status == 200
    check_promises(own, load, after=before["revision"])


def test_a_primary_that_hangs_and_wakes_with_nobody_promoted_goes_on(own: Cluster) -> None:
    before, old = wait_equal(own), primary_of(own)
    with running(own, roaming=4, timeout_s=3) as load:
        load.wait_for_more(20)
        with suspended(own, old):
            third = next(name for name in own.providers if name != old)
            assert client(own, third).read("/cluster")["revision"] >= before["revision"]
            held = quick(own, third).put("/settings/user.held", {"value": 1}, Idempotency_Key=uuid4().hex)
            assert (held.status, held.code) in {(503, "no_primary"), (504, "outcome_unknown")}
            assert held.json["retryable"] is True
        load.wait_for_more(20)
    after = wait_equal(own)
    assert (after["primary"], after["epoch"]) == (old, before["epoch"])
    check_promises(own, load, after=before["revision"])


# ── a standby ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_standby_is_killed_and_another_hangs_and_nobody_else_notices(own: Cluster) -> None:
    before, leader = wait_equal(own), primary_of(own)
    killed, hanging = standbys_of(own)
    with running(own, roaming=3, nodes=[leader]) as load:
        load.wait_for_more(20)
        own.kill(killed)
        with suspended(own, hanging):
            load.wait_for_more(60)
        restart(own, killed)
        load.wait_for_more(20)
    assert load.failures == []
    wait_equal(own)
    check_promises(own, load, after=before["revision"])


# ── the broker ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_broker_is_killed_and_comes_back(own: Cluster) -> None:
    before = wait_equal(own)
    leader, standby = primary_of(own), standbys_of(own)[0]
    with running(own, roaming=4) as load:
        load.wait_for_more(40)
        own.kill("broker")
        with ThreadPoolExecutor() as pool:
            put = lambda name: quick(own, name).put("/settings/user.nolog", {"value": 1}, Idempotency_Key=name)  # noqa: E731
            answers = list(pool.map(put, (leader, standby)))
        assert {(a.status, a.code) for a in answers} <= {(503, "log_unavailable"), (504, "outcome_unknown")}, answers
        assert all(answer.json["retryable"] is True for answer in answers)
        for name in (leader, standby):
            assert client(own, name).read("/settings?limit=5")["items"], "reads go on"
        shown = client(own, standby).wait_for("/cluster", lambda c: _states(c)[standby] == "critical")
        assert "lost" not in _states(shown).values(), "who hears nobody cannot say that the others are gone"
        assert client(own, leader).get("/health/primary").status == 503
        assert client(own, leader).get("/health/ready").status == 200
        assert client(own, standby).get("/health/standby").status == 503
        restart(own, "broker")
        load.wait_for_more(40)
    after = wait_equal(own)
    assert (after["primary"], after["epoch"]) == (before["primary"], before["epoch"])
    check_promises(own, load, after=before["revision"])
    client(own, standby).wait_for("/health/standby", lambda h: h["status"] == "standby")
    client(own, leader).wait_for("/health/primary", lambda h: h["status"] == "primary")


def _states(cluster: Any) -> dict[str, str]:
    return {node["name"]: node["state"] for node in cluster["nodes"]}


def test_the_broker_hangs_for_a_while(own: Cluster) -> None:
    before = wait_equal(own)
    with running(own, roaming=4) as load:
        load.wait_for_more(40)
        with suspended(own, "broker"):
            held = quick(own, before["primary"]).put("/settings/user.held", {"value": 2}, Idempotency_Key=uuid4().hex)
            assert (held.status, held.code) in {(503, "log_unavailable"), (504, "outcome_unknown")}, held
        load.wait_for_more(40)
    after = wait_equal(own)
    assert (after["primary"], after["epoch"]) == (before["primary"], before["epoch"])
    check_promises(own, load, after=before["revision"])


def test_a_broker_that_is_out_of_space_is_named_and_resumes_by_itself(own: Cluster) -> None:
    before = wait_equal(own)
    name = standbys_of(own)[0]
    leader, standby = client(own, before["primary"]), client(own, name)
    with running(own, roaming=4) as load:
        load.wait_for_more(20)
        own.broker.ctl("set_disk_free_limit", "100000GB")
        wait_until(
            lambda: leader.put("/settings/user.full", {"value": 1}).code == "disk_full", timeout_s=20, what="503"
        )
        refused = standby.put("/settings/user.full", {"value": 1})
        assert (refused.status, refused.code, refused.json["retryable"]) == (503, "disk_full", True)
        assert standby.get("/health/ready").status == leader.get("/health/ready").status == 200
        assert leader.get("/health/primary").status == 503
        silent = standby.wait_for("/cluster", lambda c: _states(c)[before["primary"]] == "unknown")
        assert "lost" not in _states(silent).values(), "nobody can say how he is: to promote somebody would not help"
        told = command(own, name, "provider", "status").out
        assert "rabbitmq-diagnostics alarms" in told
        assert ("STALE" in told, "--force" in told) == (False, False), told
        own.broker.ctl("set_disk_free_limit", "100MB")
        load.wait_for_more(20)
    wait_equal(own)
    check_promises(own, load, after=before["revision"])


def test_a_broker_that_comes_back_without_its_users_is_given_them_again(own: Cluster) -> None:
    """The broker holds nothing that the state cannot make again, and soon: not at the next sweep."""
    own.broker.ctl("delete_user", "db1")
    own.broker.ctl("close_all_connections", "--global", "as after a restart")
    one = client(own, standbys_of(own)[0])
    one.write("PUT", "/instances/db1/databases/welcome", {})
    one.wait_for("/instances/db1/databases/welcome", lambda d: d["status"]["phase"] == "ready", timeout_s=15)


# ── the store ────────────────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def locked(own: Cluster, name: str) -> Iterator[None]:
    """Somebody holds that node's store."""
    held = sqlite3.connect(own.providers[name].files.directory / "data" / "state.db", isolation_level=None)
    held.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        held.close()


def test_the_primarys_store_cannot_be_written(own: Cluster) -> None:
    """Nothing is answered "done" that is not durable on the primary; what is in the log all the same is there once."""
    before = wait_equal(own)
    leader, standby = before["primary"], standbys_of(own)[0]
    with running(own, roaming=4) as load:
        load.wait_for_more(20)
        with locked(own, leader):
            promised = len(load.promised)
            one = client(own, leader)
            one.wait_for("/health/ready", lambda h: "store" in str(h["reason"]))
            promised_then = len(load.promised)
            refused = quick(own, leader).put("/settings/user.locked", {"value": 1})
            assert (refused.status, refused.code) == (503, "store_unavailable")
            assert "locked" in refused.json["detail"]
            assert quick(own, standby).put("/settings/user.locked", {"value": 1}).status == 503
            assert one.read("/settings?limit=5")["items"], "reads go on"
            assert one.get("/health/primary").status == 503
            shown = client(own, standby).wait_for("/cluster", lambda c: _states(c)[leader] == "critical")
            assert shown["primary"] == leader
            assert len(load.promised) == promised_then
            assert promised_then - promised <= len(load.open)
        load.wait_for_more(20)
    wait_equal(own)
    check_promises(own, load, after=before["revision"])
    assert "Traceback" not in own.providers[leader].log.read_text()


def test_a_standbys_store_cannot_be_written(own: Cluster) -> None:
    before, name = wait_equal(own), standbys_of(own)[0]
    with running(own, roaming=3, nodes=[before["primary"]]) as load:
        with locked(own, name):
            client(own, name).wait_for("/health/ready", lambda h: "store" in str(h["reason"]))
            load.wait_for_more(40)
            assert client(own, name).get("/health/standby").status == 503
            refused = command(own, name, "failover", "--operation", "promote")
            assert refused.code == 1
            assert "store" in refused.err
        load.wait_for_more(10)
    assert load.failures == []
    wait_equal(own)
    check_promises(own, load, after=before["revision"])


# ── both ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_reads_go_on_without_log_and_primary(own: Cluster) -> None:
    leader, standby = primary_of(own), standbys_of(own)[0]
    revision = client(own, leader).write("PUT", "/settings/user.last", {"value": uuid4().hex}).json["revision"]
    last = client(own, standby).read("/settings/user.last", Bellwether_Min_Revision=str(revision))
    own.kill(leader)
    own.kill("broker")
    one = client(own, standby)
    assert one.read("/settings/user.last") == last
    assert one.get("/health/ready").status == 200
    assert one.read("/cluster")["revision"] >= revision
    for path in ("/nodes", "/agents", "/instances", "/instances/db1/databases", "/tasks", "/tokens"):
        assert one.get(path).status == 200
    assert [e["revision"] for e in events(one, revision - 1)][:1] == [revision]
    assert one.put("/settings/user.last", {"value": 0}).status == 503


# ── agents and their servers ─────────────────────────────────────────────────────────────────────────────────────────


def test_what_is_asked_for_while_an_agent_is_gone_is_done_when_it_returns(own: Cluster) -> None:
    one = client(own, standbys_of(own)[0])
    own.kill("db1")
    one.write("PUT", "/instances/db1/databases/patient", {})
    one.wait_for("/agents/db1", lambda a: a["status"]["state"] == "offline")
    assert one.wait_for("/instances/db1", lambda i: i["status"]["state"] == "unknown")["status"]["message"]
    assert one.read("/instances/db1/databases/patient")["status"]["phase"] == "pending"
    assert one.read("/agents?state=offline")["items"][0]["id"] == "db1"
    restart(own, "db1")
    one.wait_for("/instances/db1/databases/patient", lambda d: d["status"]["phase"] == "ready")
    one.wait_for("/instances/db1", lambda i: i["status"]["state"] == "up")
    assert "patient" in databases(own.servers["db1"])


def test_an_agent_that_hangs_goes_on_where_it_stopped(own: Cluster) -> None:
    one = client(own, standbys_of(own)[0])
    with suspended(own, "db1"):
        for number in range(5):
            one.write("PUT", f"/instances/db1/databases/slept{number}", {})
        one.write("DELETE", "/instances/db1/databases/slept4")
    for number in range(4):
        one.wait_for(f"/instances/db1/databases/slept{number}", lambda d: d["status"]["phase"] == "ready")
    assert "slept4" not in databases(own.servers["db1"]), "it was forgotten before anybody saw it"


def test_a_database_server_that_dies_is_told_at_once_and_served_when_it_is_back(own: Cluster) -> None:
    one = client(own, standbys_of(own)[0])
    own.kill("mariadb-db1")
    down = one.wait_for("/instances/db1", lambda i: i["status"]["state"] == "down", timeout_s=30)
    assert down["status"]["message"]
    assert one.read("/agents/db1")["status"]["state"] == "online", "its agent lives"
    one.write("PUT", "/instances/db1/databases/later", {})
    restart(own, "mariadb-db1")
    one.wait_for("/instances/db1/databases/later", lambda d: d["status"]["phase"] == "ready")
    up = one.wait_for("/instances/db1", lambda i: i["status"]["state"] == "up")
    assert "message" not in up["status"]


def test_a_database_server_that_hangs_holds_up_nobody_else(own: Cluster) -> None:
    one = client(own, standbys_of(own)[0])
    with suspended(own, "mariadb-db1"), running(own, roaming=2) as load:
        one.write("PUT", "/instances/db1/databases/stuck", {})
        load.wait_for_more(40)
        assert one.read("/agents/db1")["status"]["state"] == "online"
        assert one.read("/instances/db1/databases/stuck")["status"]["phase"] == "pending"
    assert load.failures == []
    one.wait_for("/instances/db1/databases/stuck", lambda d: d["status"]["phase"] == "ready")


# ── everything ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_second_daemon_on_the_same_data_is_refused(own: Cluster) -> None:
    said = command(own, "p1", "provider", "run")
    assert said.code == 1
    *_, last = said.err.splitlines()  # before it, root is warned
    assert "another provider runs on" in last
    assert "Traceback" not in said.err


def test_all_power_is_lost_and_things_come_back_in_another_order(own: Cluster) -> None:
    before = wait_equal(own)
    with running(own, roaming=4, timeout_s=3) as load:
        client(own, "p2").write("PUT", "/instances/db1/databases/survivor", {})
        wait_for_database(own.servers["db1"], "survivor")
        load.wait_for_more(60)
        processes = [member.process for member in own.members.values() if member.process is not None]
        for process in processes:
            process.signal(signal.SIGKILL)
        assert all(process.wait(10) for process in processes)
    # First those that depend on others, and the broker last of all.
    restart(own, "db1", "p3", "p2", "mariadb-db1", "p1", "broker")
    after = wait_equal(own)
    assert (after["primary"], after["epoch"]) == (before["primary"], before["epoch"])
    check_promises(own, load, after=before["revision"])
    client(own, "p1").wait_for("/instances/db1/databases/survivor", lambda d: d["status"]["phase"] == "ready")
    client(own, "p1").wait_for("/instances/db1", lambda i: i["status"]["state"] == "up")
    with running(own, one_each=list(own.providers)) as again:
        again.wait_for_more(20)
    assert again.failures == []
