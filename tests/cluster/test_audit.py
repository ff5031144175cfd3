"""Invariant: whatever is done and whatever is refused, on any node, is in the audit, once, and the same on every node:
also after a promotion, and on a node that joined later."""

import http.client
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from localcluster.cluster import Cluster
from localcluster.layout import ServerFiles
from localcluster.ports import free_ports
from localcluster.process import wait_until
from localcluster.provider import Provider

from shared.tls import client_context
from tests.cluster.conftest import StartCluster
from tests.support.amqp import enrolled
from tests.support.api import Client, client
from tests.support.nodes import primary_of, promote, restart, run, standbys_of, wait_equal

PATIENCE_S = 40.0
"""What goes on for long is told of less often; see `provider.api.record.refusals_book`."""
SECRET = "Hn7-correct horse"
PULSE = {"version": "1", "session": "s", "epoch": 1, "revision": 0, "endpoint": "e"}


@pytest.fixture(scope="module")
def cluster(start_cluster: StartCluster) -> Cluster:
    return start_cluster(providers=3, databases=1)


def audit(node: Client, query: str = "") -> tuple[int, list[dict[str, Any]]]:
    """The revision that it is of, and all items."""
    revision, items, after = None, [], ""
    while True:
        page = node.read(f"/audit?limit=500{query}{after}")
        revision = page["revision"] if revision is None else revision
        items += page["items"]
        if page["next"] is None:
            return revision, items
        after = f"&after={page['next']}"


def wait_for(node: Client, query: str, count: int = 1) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []

    def told() -> bool:
        found[:] = audit(node, query)[1]
        return sum(item["count"] for item in found) >= count

    wait_until(told, timeout_s=PATIENCE_S, what=f"{count} in the audit for {query}")
    return found


def all_equal(nodes: list[Client]) -> list[dict[str, Any]]:
    """What every node tells up to the revision that all have."""
    told = [audit(node, "&all=true") for node in nodes]
    least = min(revision for revision, _ in told)
    lists = [[item for item in items if item["revision"] <= least] for _, items in told]
    assert all(one == lists[0] for one in lists), [len(one) for one in lists]
    return lists[0]


def be_refused(node: Client, name: str, viewer: str) -> dict[str, tuple[str, str]]:
    """Makes one refusal of each kind. By what was asked: code and principal."""
    path = f"/settings/user.{name}"
    made = node.write("PUT", path, {"value": 1}).json["revision"]
    node.write("PUT", path, {"value": 2})
    nobody, reader = node.holding(None), node.holding(viewer)
    assert nobody.get(f"{path}.read").status == 401
    assert nobody.put(f"{path}.write", {"value": 1}).status == 401
    assert node.holding(f"bw.node.{'0' * 16}.{'0' * 64}").post("/join", {"name": name}).status == 401
    assert reader.put(f"{path}.role", {"value": 1}).status == 403
    assert node.put(path, {"value": 3}, If_Match=f'"{made}"').status == 412
    assert node.put(f"{path}.body", {"password": SECRET, SECRET: 1}).status == 422
    assert node.delete(f"{path}.none").status == 404
    return {
        f"GET /api/v1{path}.read": ("unauthenticated", "?"),
        f"PUT /api/v1{path}.write": ("unauthenticated", "?"),
        f"PUT /api/v1{path}.role": ("forbidden", f"token:{viewer.split('.')[2]}"),
        f"PUT /api/v1{path}": ("stale_revision", "token:"),
        f"PUT /api/v1{path}.body": ("invalid", "token:"),
        f"DELETE /api/v1{path}.none": ("not_found", "token:"),
    }


def check_refused(cluster: Cluster, expected: dict[str, tuple[str, str]]) -> None:
    primary = next(client(cluster, name) for name in cluster.providers)
    for action, (code, principal) in expected.items():
        query = f"&outcome=refused&code={code}&action={action.replace(' ', '%20')}"
        found = [item for item in wait_for(primary, query) if item["action"] == action]
        assert [item["count"] for item in found] == [1], (action, found)
        assert found[0]["principal"].startswith(principal), action
        assert found[0]["source"] == "127.0.0.1", action


@pytest.fixture
def newcomer(tmp_path: Path) -> Iterator[Provider]:
    found = Provider("p4", ServerFiles(tmp_path / "p4", "provider"), free_ports(1)[0])
    yield found
    if found.process is not None:
        found.process.kill()


def test_all_that_is_done_and_refused_is_told_alike_by_every_node(cluster: Cluster, newcomer: Provider) -> None:
    nodes = [client(cluster, name) for name in cluster.providers]
    made = nodes[0].write("POST", "/tokens", {"role": "viewer"}).json
    for node in nodes:
        node.read("/cluster", Bellwether_Min_Revision=str(made["revision"]))

    expected: dict[str, tuple[str, str]] = {}
    for name in cluster.providers:
        expected |= be_refused(client(cluster, name), name, made["token"])
    check_refused(cluster, expected)

    with enrolled(cluster) as rogue:
        rogue.say("pulse", PULSE, sender="db1")
        (forged,) = wait_for(nodes[1], f"&principal=agent:{rogue.id}")
        assert (forged["action"], forged["code"], forged["outcome"]) == ("message pulse", "forged", "refused")
        assert "db1" in forged["detail"]

    promote(cluster, "p2")
    (promotion,) = wait_for(nodes[0], "&action=promotion%20of%20p2")
    assert (promotion["principal"], promotion["source"], promotion["outcome"]) == ("node:p2", "127.0.0.1", "done")

    again: dict[str, tuple[str, str]] = {}
    for name in cluster.providers:
        again |= be_refused(client(cluster, name), f"{name}.again", made["token"])
    check_refused(cluster, again)

    everything = all_equal([*nodes, join(cluster, newcomer)])
    assert {item["node"] for item in everything if item["outcome"] == "refused"} == {"p1", "p2", "p3"}
    actions = [item["action"] for item in everything]
    assert len(actions) == len(set(map(json.dumps, everything))), "something is told twice"
    assert any(action.startswith("POST /api/v1/join") for action in actions)
    assert any(action.startswith("POST /api/v1/enroll") for action in actions)
    assert any(action == "RecordStatus" for action in actions)
    assert SECRET not in json.dumps(everything)
    assert made["token"].split(".")[3] not in json.dumps(everything)


def join(cluster: Cluster, newcomer: Provider) -> Client:
    token = client(cluster, "p1").write("POST", "/tokens", {"role": "node"}).json["token"]
    newcomer.files.directory.mkdir(mode=0o700, parents=True)
    file = newcomer.files.directory / "join.token"
    file.write_text(token)
    who = ["--name", "p4", "--url", newcomer.url, "--token-file", str(file), "--config", str(newcomer.files.config)]
    said = run("provider", "join", cluster.providers["p2"].url, *who)
    assert said.code == 0, said
    newcomer.launch()
    newcomer.wait_ready()
    return Client(newcomer.url, ca=newcomer.ca, token=client(cluster, "p1").token)


def test_a_client_s_address_is_that_of_the_client_whichever_node_it_asked(cluster: Cluster) -> None:
    """The primary decides on what a standby forwards, and both know from where it came; nobody can say so himself."""
    standby, primary = client(cluster, standbys_of(cluster)[0]), client(cluster, primary_of(cluster))
    where, address = urlsplit(standby.url), "127.0.0.5"
    connection = http.client.HTTPSConnection(
        "127.0.0.1", where.port, timeout=20, context=client_context(standby.ca), source_address=(address, 0)
    )
    headers = {"Authorization": f"Bearer {standby.token}", "Bellwether-Client": "192.0.2.66"}
    headers |= {"X-Forwarded-For": "192.0.2.66", "Bellwether-Forwarded": "p1"}
    with closing(connection):
        for condition, status in ({"If-None-Match": "*"}, 201), ({"If-None-Match": "*"}, 412):
            connection.request("PUT", "/api/v1/settings/user.address", b'{"value": 1}', {**headers, **condition})
            answer = connection.getresponse()
            answer.read()
            assert answer.status == status
    for outcome in ("done", "refused"):
        (item,) = wait_for(standby, f"&action=user.address&outcome={outcome}")
        assert (item["source"], item["node"]) == (address, primary.read("/cluster")["primary"])
    assert audit(standby, "&source=192.0.2.66")[1] == []


def test_what_is_refused_while_nobody_is_primary_is_told_later_and_once(cluster: Cluster) -> None:
    before = primary_of(cluster)
    others = [name for name in cluster.providers if name != before]
    cluster.kill(before)
    for name in others:
        for _ in range(3):
            assert client(cluster, name).holding(None).put(f"/settings/user.orphan.{name}", {"value": 1}).status == 401
    promote(cluster, others[0])
    restart(cluster, before)
    for name in others:
        action = f"PUT%20/api/v1/settings/user.orphan.{name}"
        (item,) = wait_for(client(cluster, before), f"&action={action}", 3)
        assert (item["node"], item["count"], item["outcome"]) == (name, 3, "refused")
    wait_equal(cluster)
    all_equal([client(cluster, name) for name in cluster.providers])


def test_the_command_shows_it(cluster: Cluster) -> None:
    environment = {
        "BELLWETHER_API": ",".join(provider.url for provider in cluster.providers.values()),
        "BELLWETHER_CA": str(cluster.layout.ca),
        "BELLWETHER_TOKEN_FILE": str(cluster.layout.admin_token),
    }
    client(cluster, "p3").write("PUT", "/settings/user.shown", {"value": 1})
    said = run("bellwether", "audit", "--since", "1h", "--id", "user.shown", **environment)
    assert said.code == 0, said
    assert said.out.count("\n") == 1
    assert "PUT /api/v1/settings/user.shown  201  [setting user.shown r" in said.out
    said = run("bellwether", "audit", "--outcome", "refused", "--limit", "3", "--json", **environment)
    assert {item["outcome"] for item in json.loads(said.out)} <= {"refused"}
    assert run("bellwether", "audit", "--since", "yesterday", **environment).code == 2
    assert run("bellwether", "audit", "--outcome", "maybe", **environment).code == 1
