"""What stands before the providers, on real hosts: an address that follows the primary (keepalived), and a client host
with HAProxy. Invariants: the address is never on two hosts that both accept a write; what is planned fails no request
of a client behind the proxy."""

import json
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from localcluster.process import wait_until

from tests.hosts.conftest import StartCluster
from tests.support.readers import reading, writing
from tests.testbed import sampler
from tests.testbed.cluster import Cluster, url_of
from tests.testbed.host import Host

pytestmark = pytest.mark.long  # until they have been seen with a broker on each host, on a quiet machine

ADDRESS = "10.77.0.100"
PLAN = f"""
[haproxy]
leader = "*:444"
[keepalived]
address = "{ADDRESS}/16"
interface = "host0"
"""
THERE = f"https://{ADDRESS}:444"
"""What clients are given: the proxy on the host that has the address, and its port for the primary."""
MOVES_S = 40.0
Sample = tuple[float, float, int | None]


@pytest.fixture(scope="module")
def cluster(start_cluster: StartCluster) -> Cluster:
    """Three providers whose hosts have HAProxy and keepalived, as the appliance sets them up."""
    cluster = start_cluster(databases=0)
    first = cluster.primary()
    cluster.api(first).write("PUT", "/settings/cluster.certificate_hosts", {"value": [ADDRESS]})
    for host in cluster.nodes.values():
        host.write("/root/admin.token", cluster.token, mode="600")
        host.write("/root/sampler.py", Path(sampler.__file__).read_text())
        host.write("/etc/bellwether-balancing.toml", PLAN)
        host.run("systemctl start bellwether-balancing.service")
        watch(host)
    return cluster


@pytest.fixture
def address(healthy: Cluster) -> Iterator["Cluster"]:
    """The cluster, the address where it belongs; afterwards all that was seen is judged."""
    wait_for_address(healthy, healthy.primary())
    yield healthy
    healthy.bed.restore()
    for host in healthy.nodes.values():
        watch(host)
    wait_for_address(healthy, healthy.primary())
    never_twice({name: samples(host) for name, host in healthy.nodes.items()})


def watch(host: Host) -> None:
    """Has the host looked at from now on, unless it is already. What was seen before is kept."""
    command = f"python3 /root/sampler.py {ADDRESS} {url_of(host)} /etc/bellwether/ca.pem /root/admin.token"
    host.wait_for(
        "systemctl is-active --quiet sampler || systemd-run --quiet --collect --unit=sampler "
        f"--property=StandardOutput=append:/root/samples {command}"
    )


def samples(host: Host) -> list[Sample]:
    lines = host.read("/root/samples").splitlines()
    return [json.loads(line) for line in lines if line.endswith("]")]  # not one that a power cut has halved


def never_twice(seen: dict[str, list[Sample]]) -> None:
    """No two hosts had the address and accepted a write at the same time."""
    served = [
        (began, ended, name)
        for name, looks in seen.items()
        for began, ended, status in looks
        if status is not None and 200 <= status < 300
    ]
    assert {name for _, _, name in served}, "nobody has ever served"
    latest: tuple[float, str] = (0.0, "")
    for began, ended, name in sorted(served):
        assert began > latest[0] or name == latest[1], f"{name} and {latest[1]} both served at {began}"
        latest = max(latest, (ended, name))


def has_address(host: Host) -> bool:
    return f" {ADDRESS}/" in host.run("ip -4 -oneline address show dev host0").out


def wait_for_address(cluster: Cluster, host: Host) -> float:
    """Until that host alone has the address, and clients find a primary there. Seconds that it took."""
    began_s = time.monotonic()

    def there() -> bool:
        return [one.name for one in cluster.living if has_address(one)] == [host.name]

    wait_until(there, timeout_s=MOVES_S, what=f"the address is not on {host.name} alone")
    cluster.bed.client().wait_for(f"curl -q -s --fail --max-time 5 --cacert /root/ca.pem {THERE}/api/leader-check")
    return time.monotonic() - began_s


def promote(cluster: Cluster, host: Host) -> None:
    said = host.ssh("failover --operation promote")
    assert said.code == 0, said


def standby_without_the_broker(cluster: Cluster) -> Host:
    return next(host for host in cluster.standbys() if host.name != "p1")


@pytest.fixture(autouse=True)
def _trusted(cluster: Cluster) -> None:
    cluster.bed.client().write("/root/ca.pem", cluster.ca.read_text())


def test_the_address_follows_a_planned_promotion(address: Cluster) -> None:
    for host in address.standbys():
        promote(address, host)
        wait_for_address(address, host)


@pytest.mark.long
def test_the_address_leaves_a_host_that_vanishes_and_does_not_go_back(address: Cluster) -> None:
    lost = standby_without_the_broker(address)
    promote(address, lost)
    wait_for_address(address, lost)
    lost.power_off()
    heir = standby_without_the_broker(address)
    promote(address, heir)
    wait_for_address(address, heir)
    lost.boot()
    address.healthy()
    assert has_address(heir)
    assert not has_address(lost)


def test_both_sides_of_a_partition(address: Cluster) -> None:
    """The primary's host reaches its clients and nobody else. It gives the address up by itself; after the promotion on
    the other side the address is there, and healing changes nothing."""
    cut_off = standby_without_the_broker(address)
    promote(address, cut_off)
    wait_for_address(address, cut_off)
    address.bed.isolate(cut_off, but=[address.bed.client()])
    wait_until(lambda: not has_address(cut_off), timeout_s=MOVES_S, what="the address stays")
    heir = next(host for host in address.nodes.values() if host is not cut_off and host.name != "p1")
    promote(address, heir)
    wait_until(lambda: has_address(heir), timeout_s=MOVES_S, what="nobody has the address")
    address.healthy()
    assert not has_address(cut_off)


@pytest.mark.long
def test_nodes_that_do_not_hear_each_other_s_keepalived(address: Cluster) -> None:
    """Nothing but VRRP is lost between them: the old one still lets go before the new one takes."""
    address.bed.space.run("nft add rule bridge bed links ip protocol 112 drop")
    for host in address.standbys():
        promote(address, host)
        wait_for_address(address, host)


@pytest.mark.long
def test_a_provider_that_hangs_loses_the_address(address: Cluster) -> None:
    primary = address.primary()
    primary.run("systemctl kill --signal=STOP bellwether-provider")
    wait_until(lambda: not has_address(primary), timeout_s=MOVES_S, what="the address stays")
    primary.run("systemctl kill --signal=CONT bellwether-provider")
    wait_for_address(address, primary)


@pytest.mark.long
def test_keepalived_that_is_killed_leaves_no_address_behind(address: Cluster) -> None:
    """At the worst moment: while another node becomes primary."""
    primary, heir = address.primary(), standby_without_the_broker(address)
    primary.run("systemctl kill --signal=KILL keepalived")
    promote(address, heir)
    wait_for_address(address, heir)


# ── a client host with HAProxy ───────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def proxied(cluster: Cluster) -> Cluster:
    """The client host has HAProxy, set up as docs/BALANCING.md says for a host that is no provider."""
    client = cluster.bed.client()
    nodes = ", ".join(f'{name} = "{url_of(host)}"' for name, host in cluster.nodes.items())
    client.write("/root/ca.pem", cluster.ca.read_text())
    client.write(
        "/etc/bellwether-balancing.toml", f'nodes = {{ {nodes} }}\nca = "/root/ca.pem"\n[haproxy]\nleader = "*:444"\n'
    )
    client.run("bellwether-balancing apply")
    client.wait_for("curl -q -s --fail --cacert /root/ca.pem https://127.0.0.1:443/health/ready")
    return cluster


def test_clients_behind_haproxy_notice_neither_switchover_nor_maintenance(proxied: Cluster, healthy: Cluster) -> None:
    """On, stop, start, off, on real hosts with their own units; and a promotion through sshd before and after."""
    place = partial(healthy.bed.space.network_of, "client")
    ports = ["https://127.0.0.1:443", "https://127.0.0.1:444"] * 2
    asked: dict[str, Any] = {"ca": healthy.ca, "token": healthy.token, "place": place}
    with reading(ports, **asked) as reads, writing(ports, **asked) as writes:

        def go_on() -> None:
            reads.wait_for_more()
            writes.wait_for_more()

        for _ in range(2):
            go_on()
            promote(healthy, healthy.standbys()[0])
            go_on()
        resting = standby_without_the_broker(healthy)
        resting.run("provider maintenance on --reason 'new disk' && systemctl stop bellwether-provider")
        go_on()
        resting.run("systemctl start bellwether-provider")
        resting.wait_for("provider maintenance off")
        fresh = f"curl -q -s --head --cacert /root/ca.pem {ports[0]}/health/ready | grep -i 'node: {resting.name}'"
        healthy.bed.client().wait_for(fresh)  # those that are connected stay where they are
        go_on()
    assert reads.failures == []
    assert writes.failures == []


def test_a_provider_host_s_own_proxy_knows_all_nodes(healthy: Cluster) -> None:
    for host in healthy.nodes.values():
        seen = host.run("curl -q -s 'http://127.0.0.1:8404/;csv'").out
        up = [line.split(",")[1] for line in seen.splitlines() if line.startswith("ready,p") and ",UP," in line]
        assert sorted(up) == sorted(healthy.nodes), seen


@pytest.mark.long
def test_a_proxy_that_ends_tls_and_is_trusted_says_who_asks(proxied: Cluster, healthy: Cluster) -> None:
    """The nodes are told to trust it, one after the other; then it is given a certificate, without a restart. A write
    from another host is in the audit with that host's address, whatever the client claims."""
    client, asks = healthy.bed.client(), healthy.nodes["p1"]
    for host in sorted(healthy.nodes.values(), key=lambda host: host is healthy.primary()):
        text = host.read("/etc/bellwether/provider.toml")
        assert "[api]\n" in text
        trusting = text.replace("[api]\n", f'[api]\ntrusted_proxies = ["{client.address}"]\n')
        host.write("/etc/bellwether/provider.toml", trusting, mode="600")
        host.run("systemctl restart bellwether-provider")
        healthy.healthy()
    client.run(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=proxy "
        "-keyout /root/proxy.key -out /root/proxy.pem 2>/dev/null && cat /root/proxy.key >>/root/proxy.pem && "
        "sed -i '/^leader/a certificate = \"/root/proxy.pem\"' /etc/bellwether-balancing.toml && "
        "bellwether-balancing apply"
    )
    claims = f"-H 'Authorization: Bearer {healthy.token}' -H 'X-Forwarded-For: 192.0.2.1' --json '{{\"value\": 1}}'"
    there = f"https://{client.address}/api/v1/settings/user.forwarded"
    put = f"curl -q -s --fail --insecure -X PUT {claims} {there}"
    asks.wait_for(put)
    done = healthy.api(asks).read("/audit?kind=setting&id=user.forwarded")["items"]
    assert done[0]["source"] == asks.address
