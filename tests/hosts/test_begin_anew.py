"""Two of three hosts are gone for good, and with them the majority of the brokers: the third begins a log of its own,
on a RabbitMQ that it begins anew. When the two come back all the same, they are out, although they are a majority."""

import json

import pytest

from tests.testbed.cluster import Cluster, url_of
from tests.testbed.host import Host

pytestmark = pytest.mark.long
FORCE = "failover --operation promote --force --wait 10"
BEGIN_S = 300.0
SETTLED_S = 300.0


def states(cluster: Cluster, host: Host) -> dict[str, str]:
    return {node["name"]: node["state"] for node in cluster.api(host).get("/cluster").json["nodes"]}


def is_out(cluster: Cluster, host: Host) -> bool:
    return states(cluster, host)[host.name] == "removed"


def test_one_of_three_begins_a_log_of_its_own_and_the_others_stay_out(cluster: Cluster) -> None:
    primary, other, survivor = cluster.primary(), *cluster.standbys()
    api = cluster.api(survivor)
    api.write("PUT", "/settings/user.before", {"value": 1})
    before = cluster.equal()
    primary.power_off()
    other.power_off()

    # ── it asks, and without anybody to answer nothing is done ──
    refused = survivor.ssh(FORCE)
    assert (refused.code, "--yes" in refused.err) == (1, True), refused
    assert f"{survivor.name} holds everything up to revision" in refused.out
    assert f"{primary.name} does not answer; last heard of" in refused.out
    assert f"(rabbit@{survivor.name}) starts again, empty" in refused.out
    assert api.get("/cluster").json["generation"] == before["generation"]

    # ── it begins, and goes on alone ──
    begun = survivor.run(f"{FORCE} --yes", timeout_s=BEGIN_S)
    assert "Writes are accepted" in begun.out, begun
    now = api.get("/cluster").json
    assert ([node["name"] for node in now["nodes"]], now["primary"]) == ([survivor.name], survivor.name)
    assert now["epoch"] > before["epoch"]
    assert api.get("/settings/user.before").json["spec"]["value"] == 1
    api.write("PUT", "/settings/user.after", {"value": 2})
    (agent,) = cluster.agents

    def follows() -> bool:
        status = api.get(f"/agents/{agent}").json["status"]
        return bool(status["state"] == "online" and status["advised"] and status["epoch"] == now["epoch"])

    cluster.wait(follows, "its agent does not follow", timeout_s=SETTLED_S)
    assert json.loads(survivor.run("provider broker status --json").out)["cluster"] == [f"rabbit@{survivor.name}"]
    kept = survivor.run("ls /var/lib/rabbitmq/set-aside/*").out
    assert f"rabbit@{survivor.name}" in kept

    # ── two that come back are a majority of the brokers of before ──
    primary.boot(wait=False)
    other.boot(wait=False)
    for host in (primary, other):
        host.wait_booted()
        cluster.wait(
            lambda host=host: states(cluster, host)[host.name] == "removed", "it is not out", timeout_s=SETTLED_S
        )  # type: ignore[misc]
        told = host.run("provider status", check=False).out
        assert f"{survivor.name} went on without {host.name}" in told, told
        assert cluster.api(host).put("/settings/user.older", {"value": 1}).status in {409, 503}
    assert follows()
    api.write("PUT", "/settings/user.still", {"value": 3})

    # ── and one of them is made a fresh node ──
    def left() -> bool:
        said = other.run("provider broker status --json", check=False)
        return said.code == 0 and json.loads(said.out)["cluster"] == [f"rabbit@{other.name}"]

    cluster.wait(left, "its broker does not leave", timeout_s=SETTLED_S)
    other.run("systemctl disable --now bellwether-provider; rm -rf /etc/bellwether/* /var/lib/bellwether/*")
    other.write("/root/join.token", survivor.run("provider token create --role node").out, mode="600")
    join = f"provider join {url_of(survivor)} --name fresh --url {url_of(other)} --token-file /root/join.token"
    other.run(join, timeout_s=2 * BEGIN_S)
    cluster.wait(lambda: states(cluster, survivor).get("fresh") == "active", "it does not follow", timeout_s=SETTLED_S)
