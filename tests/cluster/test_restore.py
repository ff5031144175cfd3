"""Invariant: of a cluster of which nothing is left but one backup, a cluster is made again that its agents obey; and
nothing on a database server is changed by that, whatever was done there since the backup."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from localcluster.broker import Broker, BrokerPorts
from localcluster.cluster import BROKER_USER, Cluster
from localcluster.ports import free_ports
from localcluster.process import ProcessFailed
from localcluster.provider import Provider

from shared.files import write_atomically
from tests.cluster.conftest import StartCluster
from tests.support.api import Client, client
from tests.support.nodes import Said, command, promote, wait_equal
from tests.support.sql import accounts, databases, sql, sql_as, wait_for_database

BASE = "/instances/db1"
BEFORE, AFTER = "the password before", "the password after"


@pytest.fixture(scope="module")
def cluster(start_cluster: StartCluster) -> Cluster:
    return start_cluster(providers=2, databases=1)


def _ready(node: Client, path: str) -> None:
    node.wait_for(path, lambda one: one["status"]["phase"] == "ready")


def _account(node: Client, name: str, password: str) -> None:
    grants = [{"database": "kept", "privileges": ["SELECT"]}]
    node.write("PUT", f"{BASE}/accounts/{name}", {"host": "%", "password": password, "grants": grants})
    _ready(node, f"{BASE}/accounts/{name}")


def _well(said: Said) -> str:
    assert said.code == 0, said
    return said.out


def _destroy(cluster: Cluster) -> None:
    """What providers and broker were, and knew. Agents and their database servers go on."""
    for name in [*cluster.providers, "broker"]:
        if cluster.members[name].process is not None:
            cluster.kill(name)
    for name in cluster.providers:
        shutil.rmtree(cluster.layout.provider(name).directory, ignore_errors=True)
    shutil.rmtree(cluster.broker.directory)
    cluster.layout.broker_password.unlink()


def _restore(cluster: Cluster, backup: Path, key: Path) -> str:
    """On a host that has nothing, at the addresses that the cluster's first node and its broker have by now."""
    write_atomically(cluster.layout.broker_password, "another password of a fresh broker\n")
    first, broker = cluster.first, cluster.broker
    options = ["--broker-endpoint", broker.endpoint, "--broker-management", broker.management]
    options += ["--broker-user", BROKER_USER, "--broker-password-file", str(cluster.layout.broker_password)]
    known = ["--name", first.name, "--url", first.url, "--recovery-key-file", str(key)]
    said = first.command("restore", str(backup), *known, *options)
    cluster.take_ca()
    for member in (broker, first):
        member.launch()
        member.wait_ready()
    return said


def _elsewhere(cluster: Cluster) -> None:
    """The next ones are at addresses that no agent knows."""
    amqps, management, distribution, epmd, https = free_ports(5)
    old = cluster.broker
    ports = BrokerPorts(amqps=amqps, management=management, distribution=distribution, epmd=epmd)
    cluster.broker = Broker(
        old.directory,
        ports,
        certificate=old.certificate,
        key=old.key,
        ca=old.ca,
        users=old.users,
        owner=old.owner,
    )
    first = cluster.first
    moved = Provider(first.name, first.files, https, user=first.user, reader=first.reader)
    cluster.providers[first.name] = moved
    cluster.members = {**cluster.members, "broker": cluster.broker, first.name: moved}


def _found_again(node: Client, epoch: int) -> None:
    node.wait_for("/agents/db1", lambda one: one["status"]["state"] == "online" and one["status"]["advised"])
    assert node.read("/agents/db1")["status"]["epoch"] == epoch == node.read("/cluster")["epoch"]


def test_of_one_backup_a_cluster_is_made_again_and_nothing_on_the_servers_is_lost(
    cluster: Cluster, tmp_path: Path
) -> None:
    server, node, key = cluster.servers["db1"], client(cluster, "p1"), tmp_path / "recovery.key"
    for name in ("kept", "gone"):
        node.write("PUT", f"{BASE}/databases/{name}", {"charset": "utf8mb4"})
        _ready(node, f"{BASE}/databases/{name}")
    _account(node, "app", BEFORE)
    node.write("PUT", "/settings/user.note", {"value": "before"})
    unused = _well(command(cluster, "p1", "provider", "token", "create", "--role", "agent")).strip()

    refused = command(cluster, "p2", "provider", "backup", "--to", str(tmp_path / "backups"))
    assert (refused.code, "recovery key" in refused.err) == (1, True), refused
    _well(command(cluster, "p2", "provider", "backup", "key", "--out", str(key)))
    made = _well(command(cluster, "p2", "provider", "backup", "--to", str(tmp_path / "backups")))
    backup = Path(made.splitlines()[0])
    assert backup.stat().st_mode & 0o077 == 0
    known = ["--recovery-key-file", str(key)]
    assert "can be restored" in _well(command(cluster, "p2", "provider", "backup", "verify", str(backup), *known))
    assert node.read("/cluster")["backup"]["last"]["where"] == str(backup)

    # ── what the backup does not know of ──
    node.write("PUT", f"{BASE}/databases/later", {})
    node.write("DELETE", f"{BASE}/databases/gone?drop=true")
    _account(node, "app", AFTER)
    _account(node, "late", AFTER)
    _ready(node, f"{BASE}/databases/later")
    wait_for_database(server, "gone", there=False)
    sql(server, "CREATE TABLE later.rows (id INT PRIMARY KEY)")
    sql(server, "INSERT INTO later.rows VALUES (42)")
    promote(cluster, "p2")
    lost = client(cluster, "p2").write("PUT", "/settings/user.note", {"value": "lost"})
    last = client(cluster, "p2").read("/cluster")
    agent, before = cluster.agents["db1"].process, (accounts(server), databases(server))

    _destroy(cluster)
    said = _restore(cluster, backup, key)
    assert "p2" in said, said
    _found_again(node, node.read("/cluster")["epoch"])
    restored = node.read("/cluster")
    assert [one["name"] for one in restored["nodes"]] == ["p1"]
    assert restored["id"] == last["id"], "it is the same cluster"
    assert restored["generation"] != last["generation"]
    assert restored["epoch"] > last["epoch"]
    assert restored["revision"] > last["revision"], "no revision that anybody has seen stands for something else now"
    assert any("restored from the backup" in one for one in restored["warnings"])
    assert node.read("/settings/user.note")["spec"] == {"value": "before"}
    stale = node.request("PUT", "/settings/user.note", {"value": "x"}, {"If-Match": f'"{lost.json["revision"]}"'})
    assert stale.status == 412, stale
    assert node.holding(unused).request("POST", "/enroll", {"id": "dbx", "version": "0"}).status in (401, 422)

    # ── what is not alike waits, and what is alike is ready ──
    _ready(node, f"{BASE}/databases/kept")
    decided = node.wait_for("/adoption", _all_looked_at)
    assert {item["id"]: item["state"] for item in decided["items"]} == {
        "account/db1/app": "held",
        "account/db1/late": "unmanaged",
        "database/db1/gone": "held",
        "database/db1/later": "unmanaged",
    }
    assert (accounts(server), databases(server)) == before
    sql_as(server, "app", AFTER, "SELECT 1")
    refused = command(cluster, "p1", "provider", "adopt", "done")
    assert (refused.code, "2 wishes are still held" in refused.err) == (1, True), refused

    listed = _well(command(cluster, "p1", "provider", "adopt", "list"))
    assert "its password is another" in listed, listed
    _well(command(cluster, "p1", "provider", "adopt", "take", "--all"))
    for path in ("accounts/app", "accounts/late", "databases/later"):
        _ready(node, f"{BASE}/{path}")
    assert node.get(f"{BASE}/databases/gone").status == 404, "the server does not have it, and now it is not wished"
    assert (accounts(server), databases(server)) == before
    assert sql(server, "SELECT id FROM later.rows") == [(42,)]
    _well(command(cluster, "p1", "provider", "adopt", "done"))
    assert not any("restored" in one for one in node.read("/cluster")["warnings"])
    assert cluster.agents["db1"].process == agent, "the agent was left alone all the time"
    assert cluster.alive("db1")

    # ── and once more of the same backup, at addresses that no agent knows, with a password that no backup knows ──
    node.write("POST", "/agents/db1/credential")
    node.wait_for("/agents/db1", lambda one: one["status"]["credential"] == 1)
    _destroy(cluster)
    _elsewhere(cluster)
    _restore(cluster, backup, key)
    again = client(cluster, "p1")
    assert again.read("/cluster")["epoch"] > restored["epoch"]
    _well(command(cluster, "db1", "agent", "advise", cluster.first.url))
    _found_again(again, again.read("/cluster")["epoch"])
    again.wait_for("/adoption", _all_looked_at)
    _well(command(cluster, "p1", "provider", "adopt", "release", "db1", "--account", "app", "--database", "gone"))
    wait_for_database(server, "gone")
    _ready(again, f"{BASE}/accounts/app")
    sql_as(server, "app", BEFORE, "SELECT 1")
    assert json.loads(_well(command(cluster, "p1", "provider", "adopt", "list", "--json")))["items"]

    # ── and it grows again ──
    with pytest.raises(ProcessFailed, match="never comes back"):
        _join(cluster, "p2", tmp_path / "token")
    _join(cluster, "p3", tmp_path / "token")
    wait_equal(cluster, ["p1", "p3"])


def _join(cluster: Cluster, name: str, token: Path) -> None:
    """Makes a new standby, and has it run. Raises `ProcessFailed`."""
    first = cluster.first
    first.create_token("node", token)
    joining = Provider(name, cluster.layout.provider(name), free_ports(1)[0], user=first.user)
    joining.join(first, token)
    cluster.providers[name] = joining
    cluster.members = {**cluster.members, name: joining}
    joining.launch()
    joining.wait_ready()


def _all_looked_at(adoption: dict[str, Any]) -> bool:
    waiting = any("has not said" in (item["message"] or "") for item in adoption["items"])
    return len(adoption["items"]) == 4 and not waiting
