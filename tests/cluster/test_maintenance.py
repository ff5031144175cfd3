"""An operator takes a standby out of service, works on it, and puts it back. Invariant: it answers all it is asked as
long as it runs; nobody is sent there by anything that looks at its health; only a command ends it."""

import http.client
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest
from localcluster.cluster import Cluster

from shared.tls import client_context
from tests.support.api import Client, client
from tests.support.nodes import Said, command, primary_of, promote, standbys_of, wait_equal


@pytest.fixture
def standby(cluster: Cluster) -> Iterator[str]:
    """A standby of the shared cluster. Afterwards no node is in maintenance."""
    wait_equal(cluster)
    yield standbys_of(cluster)[0]
    for name in cluster.providers:
        client(cluster, name).write("DELETE", f"/nodes/{name}/maintenance")
    wait_equal(cluster)


def maintenance(cluster: Cluster, node: str, *arguments: str) -> Said:
    return command(cluster, node, "provider", "maintenance", *arguments)


def kept_alive(cluster: Cluster, node: str) -> http.client.HTTPSConnection:
    where = urlsplit(cluster.providers[node].url)
    return http.client.HTTPSConnection(
        where.hostname or "", where.port, timeout=30, context=client_context(cluster.layout.ca)
    )


def asked(connection: http.client.HTTPSConnection, one: Client, path: str) -> http.client.HTTPResponse:
    connection.request("GET", f"/api/v1{path}", headers={"Authorization": f"Bearer {one.token}"})
    return connection.getresponse()


def test_from_on_to_off_with_a_restart_in_between(cluster: Cluster, standby: str) -> None:
    one = client(cluster, standby)
    said = maintenance(cluster, standby, "on", "--reason", "new disk", "--wait", "30")
    assert (said.code, said.err) == (0, ""), said
    assert "may be stopped now" in said.out

    for path in ("/health/ready", "/health/standby", "/api/v1/health/ready"):
        answer = one.get(path)
        assert (answer.status, answer.json) == (503, {"status": "maintenance", "reason": "new disk"}), path
    assert one.get("/health/live").status == 200
    assert one.get("/api/leader-check").status == 404
    written = one.write("PUT", "/settings/user.maintained", {"value": 1}).json
    assert one.read("/settings/user.maintained")["revision"] == written["revision"]
    for name in cluster.providers:
        spec = client(cluster, name).read(f"/nodes/{standby}", Bellwether_Min_Revision=str(written["revision"]))["spec"]
        assert spec["maintenance"]["reason"] == "new disk", "all nodes know"

    advice = one.read("/agents/db1/advice")
    assert advice["providers"][-1] == one.url
    done = client(cluster, primary_of(cluster)).read(f"/audit?kind=node&id={standby}")["items"]
    assert done[0]["action"] == f"PUT /api/v1/nodes/{standby}/maintenance"

    cluster.kill(standby)
    cluster.start(standby)
    assert one.get("/health/ready").json["status"] == "maintenance", "only a command ends it"

    assert maintenance(cluster, standby, "off").code == 0
    assert one.get("/health/ready").status == 200
    assert "maintenance" not in one.read(f"/nodes/{standby}")["spec"]
    assert "close" not in one.get("/cluster").headers.get("connection", "")


def test_clients_are_asked_to_go_and_waited_for(cluster: Cluster, standby: str) -> None:
    """One follows the events, one keeps an idle connection, one goes on asking on the same. The stream ends at an
    event's end, the others get a whole answer first: no one's request fails."""
    one = client(cluster, standby)
    follows, idle, asks = (kept_alive(cluster, standby) for _ in range(3))
    stream = asked(follows, one, "/events")
    first = stream.readline()
    asked(idle, one, "/cluster").read()
    asked(asks, one, "/cluster").read()
    begun = threading.Event()

    def ask_on() -> str:
        begun.set()
        while True:
            answer = asked(asks, one, "/cluster")
            assert answer.status == 200
            json.loads(answer.read())
            if answer.getheader("connection") == "close":
                return "left"

    with ThreadPoolExecutor() as pool:
        asking = pool.submit(ask_on)
        assert begun.wait(10)
        ended = pool.submit(maintenance, cluster, standby, "on", "--wait", "60")
        assert asking.result(30) == "left"
        assert (first + stream.read()).endswith(b"\n\n"), "whole events"
        said = ended.result()
    assert said.code == 0, said
    assert idle.sock is not None
    assert idle.sock.recv(1) == b"", "closed by the node"
    for connection in (follows, idle, asks):
        connection.close()


def test_who_does_not_leave_is_counted_and_not_waited_for_longer_than_asked(cluster: Cluster, standby: str) -> None:
    one = client(cluster, standby)
    assert maintenance(cluster, standby, "on", "--wait", "0").code == 1, "nothing has been waited for"
    stays = kept_alive(cluster, standby)
    stream = asked(stays, one, "/events")  # who comes now is served all the same
    stream.readline()
    said = maintenance(cluster, standby, "on", "--wait", "1")
    assert said.code == 1
    assert "1 connections and 1 requests of clients are left" in said.err
    assert said.err.count("\n") == 1
    stream.close()
    stays.close()
    seen = json.loads(maintenance(cluster, standby, "on", "--wait", "30", "--json").out)
    assert (seen["drained"], seen["connections"], seen["requests"]) == (True, 0, 0)


def test_it_is_not_promoted_unless_forced(cluster: Cluster, standby: str) -> None:
    before = primary_of(cluster)
    client(cluster, standby).write("PUT", f"/nodes/{standby}/maintenance", {"reason": "new disk"})
    refused = command(cluster, standby, "failover", "--operation", "promote")
    assert refused.code == 1
    assert "new disk" in refused.err
    assert "provider maintenance off" in refused.err
    looked = command(cluster, standby, "failover", "--operation", "preflight")
    assert looked.code == 1
    assert "promote would be refused" in looked.out
    assert "FAIL  maintenance" in looked.out
    assert looked.err.startswith(f"error: {standby} would not be promoted: {standby} is in maintenance")
    assert looked.err.count("\n") == 1
    assert primary_of(cluster) == before

    forced = command(cluster, standby, "failover", "--operation", "promote", "--force")
    assert forced.code == 0, forced
    try:
        one = client(cluster, standby)
        assert one.get("/api/leader-check").status == 200, "it leads, so writes go there"
        assert one.get("/health/primary").status == 200
        assert one.get("/health/ready").status == 503
        assert any("promote another node" in warning for warning in one.read("/cluster")["warnings"])
    finally:
        promote(cluster, before)


def test_the_primary_refuses(cluster: Cluster, standby: str) -> None:
    leader = primary_of(cluster)
    said = maintenance(cluster, leader, "on")
    assert said.code == 1
    assert "make another node primary first" in said.err
    answer = client(cluster, standby).put(f"/nodes/{leader}/maintenance", {})
    assert (answer.status, answer.code) == (409, "refused")
    assert client(cluster, leader).get("/health/ready").status == 200


def test_another_node_knows_that_it_is_so_and_not_how_it_is_used(cluster: Cluster, standby: str) -> None:
    leader = client(cluster, primary_of(cluster))
    leader.write("PUT", f"/nodes/{standby}/maintenance", {})
    seen = leader.read(f"/nodes/{standby}/maintenance")
    assert seen["maintenance"]["since"] > 0
    assert seen["drained"] is None
    assert leader.get("/nodes/p9/maintenance").status == 404
    for body in ({"reason": "a\nb"}, {"reason": "x" * 201}, {"why": "?"}, []):
        assert leader.put(f"/nodes/{standby}/maintenance", body).status == 422, body
