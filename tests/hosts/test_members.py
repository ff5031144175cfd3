"""Members come and go on real hosts, each with its own broker: joined by one command however often that is interrupted,
removed without a trace, alone and together again while clients read, and found again at another address."""

import re
import shlex
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from tests.hosts.conftest import StartCluster
from tests.testbed.bed import Bed
from tests.testbed.cluster import Cluster, url_of
from tests.testbed.host import CLOCK_VARIABLES, Host
from tests.testbed.space import CommandFailed

pytestmark = pytest.mark.long
STEPS = ("check", "secrets", "member", "snapshot", "broker", "replica", "config", "start")
DONE = "is a member of the cluster at"
JOIN_S = 500.0
BROKERS_S = 240.0
STALL_S = 3.0
"""A reader that waits longer for its answer calls it a pause. Hosts of the bed share two processors."""


@pytest.fixture(scope="module")
def cluster(start_cluster: StartCluster) -> Cluster:
    return start_cluster(providers=2)


def fresh(bed: Bed, name: str) -> Host:
    """A host that is no provider yet, switched on."""
    host = bed.provider(name)
    host.boot()
    return host


def token_on(cluster: Cluster, host: Host) -> None:
    text = cluster.primary().run("provider token create --role node").out
    host.write("/root/join.token", text, mode="600")


def join_command(cluster: Cluster, host: Host, name: str) -> str:
    through = url_of(cluster.primary())
    return f"provider join {through} --name {name} --url {url_of(host)} --token-file /root/join.token"


def joined(cluster: Cluster, name: str) -> Host:
    """That host as a standby; it joins unless it has."""
    if name not in cluster.nodes:
        host = fresh(cluster.bed, name)
        token_on(cluster, host)
        said = host.run(join_command(cluster, host, name), timeout_s=JOIN_S)
        assert " s  follow " in said.out, said
        cluster.nodes[name] = host
        cluster.healthy()
    return cluster.nodes[name]


def brokers_of(host: Host) -> set[str]:
    """The brokers that the one on this host counts as its cluster's."""
    found = host.json("rabbitmqctl --quiet cluster_status --formatter json")
    return {name.partition("@")[2] for name in found["disk_nodes"]}


def copies_of_log(host: Host) -> set[str]:
    """The brokers that hold a copy of the log."""
    listed = host.json("rabbitmqctl --quiet list_queues -p bellwether name type members --formatter json")
    (stream,) = [queue for queue in listed if queue["name"].startswith("bellwether.log.")]
    return {name.partition("@")[2] for name in stream["members"]}


def wait_brokers(cluster: Cluster, names: set[str]) -> None:
    """Until each member's broker has just these for its cluster, and the log has a copy on each."""
    seen: dict[str, object] = {}

    def agreed() -> bool:
        for host in cluster.living:
            try:
                seen[host.name] = (brokers_of(host), copies_of_log(host))
            except CommandFailed as error:  # while a broker goes, such a question to the others may hang
                seen[host.name] = error
        return all(found == (names, names) for found in seen.values())

    cluster.wait(agreed, f"the brokers are not {sorted(names)}", seen, timeout_s=BROKERS_S)


def wait_left(cluster: Cluster, host: Host, name: str) -> None:
    """Until the broker of a node that was removed is one of its own."""

    def alone() -> bool:
        try:
            return brokers_of(host) == {name}
        except CommandFailed:  # it is being started anew
            return False

    cluster.wait(alone, "its broker has not left")


@dataclass
class Reader:
    """Asks one node all the time."""

    answers: int = 0
    failures: list[str] = field(default_factory=list)


@contextmanager
def reading(cluster: Cluster, host: Host) -> Iterator[Reader]:
    """Somebody reads from that node within this block, in a thread."""
    reader, ended = Reader(), threading.Event()
    api = cluster.api(host, timeout_s=STALL_S)

    def run() -> None:
        while not ended.is_set():
            try:
                answer = api.get("/settings?limit=1")
                if answer.status == 200:
                    reader.answers += 1
                else:
                    reader.failures.append(f"{answer.status}: {answer.body!r}")
            except OSError as error:
                reader.failures.append(repr(error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield reader
    finally:
        ended.set()
        thread.join()


def test_a_join_that_is_killed_after_each_step_and_repeated_ends_as_a_healthy_standby(cluster: Cluster) -> None:
    host = fresh(cluster.bed, "p3")
    token_on(cluster, host)
    command = join_command(cluster, host, "p3")
    for step in STEPS:
        script = f"""
            : >join.log
            {command} >>join.log 2>&1 & pid=$!
            grep -q -m 1 ' s  {step} ' < <(timeout 400 tail --pid=$pid -s 0.05 -n +1 -f join.log)
            kill -9 $pid
            cat join.log
        """
        said = host.run(f"bash -c {shlex.quote(script)}", check=False, timeout_s=JOIN_S)
        # What follows a step may have ended before the kill: the next one, or all of it.
        written = host.run("test -e /etc/bellwether/provider.toml", check=False).code == 0
        assert written or f" s  {step} " in said.out, said
        if DONE in said.out:
            break
    else:
        said = host.run(command, timeout_s=JOIN_S)
    assert re.search(r"\d s  follow   standby, active, at revision \d+", said.out), said
    cluster.nodes["p3"] = host
    cluster.healthy()
    wait_brokers(cluster, {"p1", "p2", "p3"})
    assert host.run("ls /etc/bellwether/join.json", check=False).code != 0
    again = host.run(command, check=False)
    assert (again.code, "provider already" in again.err) == (1, True), again


def test_a_standby_whose_host_has_another_address_after_a_reboot_is_found_again(cluster: Cluster) -> None:
    host = joined(cluster, "p3")
    before = host.address
    host.power_off()
    host.address = "10.77.0.113"
    host.boot()
    seen = cluster.healthy()
    assert {node["name"]: node["url"] for node in seen["nodes"]}["p3"] == url_of(host)
    wait_brokers(cluster, {"p1", "p2", "p3"})
    for other in ("p1", "p2"):
        known = cluster.nodes[other].run("getent hosts p3").out.split()[0]
        assert known == host.address, f"{other} knows p3 at {known}"
    advice = cluster.api("p1").read("/nodes/p3")["spec"]
    assert advice["endpoints"] == [f"amqps://{host.address}:5671"]
    assert before not in host.read("/etc/bellwether/provider.toml")
    cluster.api(host).write("PUT", "/settings/user.moved", {"value": 1})


def test_a_clock_that_is_far_off_is_refused_at_join_and_warned_about_later(cluster: Cluster) -> None:
    host = joined(cluster, "p3")
    host.shift_clock(5)
    admin = cluster.api("p1")

    def warned() -> bool:
        return any("the clock of p3 is 5" in warning for warning in admin.read("/cluster")["warnings"])

    cluster.wait(warned, "nobody warns about the clock of p3")
    assert "the clock of p3 is" in cluster.nodes["p2"].run("provider status").out
    host.shift_clock(0)
    cluster.wait(lambda: not warned(), "the warning about the clock of p3 stays")

    late = fresh(cluster.bed, "p4")
    token_on(cluster, late)
    said = late.run(f"env {CLOCK_VARIABLES} FAKETIME=-4 {join_command(cluster, late, 'p4')}", check=False)
    assert (said.code, "4.0" in said.err, "s behind the cluster's, more than the 2 s" in said.err) == (1, True, True), (
        said
    )
    assert "p4" not in [node["id"] for node in admin.read("/nodes")["items"]]


def test_a_removed_node_is_taken_out_of_everything_and_stays_out_when_it_comes_back(cluster: Cluster) -> None:
    host = joined(cluster, "p3")
    host.power_off()
    admin = cluster.api("p1")
    admin.wait_for("/nodes/p3", lambda node: node["status"]["state"] == "lost")
    needed = admin.delete("/nodes/p2")
    assert (needed.status, needed.code) == (409, "refused"), "without the broker of p2 the log would have no majority"
    assert "nothing is heard of p3" in str(needed.json)
    cluster.nodes.pop("p3")
    admin.write("DELETE", "/nodes/p3")
    wait_brokers(cluster, {"p1", "p2"})
    host.boot()
    last: list[str] = []

    def says_so() -> bool:
        last[:] = [host.run("provider status 2>&1", check=False).out]
        return "p3 was removed from the cluster" in last[0]

    cluster.wait(says_so, "it does not say that it was removed", last)
    wait_left(cluster, host, "p3")
    cluster.healthy()
    wait_brokers(cluster, {"p1", "p2"})
    assert [node["name"] for node in admin.read("/cluster")["nodes"]] == ["p1", "p2"]
    said = host.run("failover --operation promote", check=False)
    assert said.code == 1, said


def test_a_host_whose_node_was_removed_becomes_another_one_once_its_daemon_has_ended(cluster: Cluster) -> None:
    host = joined(cluster, "p7")
    cluster.nodes.pop("p7")
    cluster.api(cluster.primary()).write("DELETE", "/nodes/p7")

    wait_left(cluster, host, "p7")
    token_on(cluster, host)
    command = join_command(cluster, host, "p8")
    said = host.run(command, check=False)
    assert (said.code, "rm -r /etc/bellwether/* /var/lib/bellwether/*" in said.err) == (1, True), said
    host.run("rm -r /etc/bellwether/* /var/lib/bellwether/*")
    said = host.run(command, check=False)
    assert (said.code, "systemctl stop bellwether-provider" in said.err) == (1, True), said
    host.run("systemctl stop bellwether-provider")
    said = host.run(command, timeout_s=JOIN_S)
    assert " s  follow   standby, active" in said.out, said
    cluster.nodes["p8"] = host
    cluster.healthy()
    wait_brokers(cluster, {"p1", "p2", "p7"})
    cluster.nodes.pop("p8")
    cluster.api(cluster.primary()).write("DELETE", "/nodes/p8")
    wait_brokers(cluster, {"p1", "p2"})


def test_to_standalone_and_back_while_a_client_reads(cluster: Cluster) -> None:
    last, gone = cluster.primary(), cluster.standbys()[0]
    assert any("two nodes" in warning for warning in cluster.api(last).read("/cluster")["warnings"])
    with reading(cluster, last) as reader:
        cluster.api(last).write("DELETE", f"/nodes/{gone.name}")
        cluster.nodes.pop(gone.name)
        wait_brokers(cluster, {last.name})
        cluster.api(last).write("PUT", "/settings/user.alone", {"value": 1})
        primary = cluster.api(last).delete(f"/nodes/{last.name}")
        assert (primary.status, primary.code) == (409, "refused")
        joined(cluster, "p4")
        wait_brokers(cluster, {last.name, "p4"})
    assert reader.failures == []
    assert reader.answers > 100
    assert cluster.api("p4").read("/settings/user.alone")["spec"]["value"] == 1


def test_two_hosts_join_at_the_same_moment(cluster: Cluster) -> None:
    hosts = [cluster.bed.provider(name) for name in ("p5", "p6")]
    for host in hosts:
        host.boot(wait=False)
    for host in hosts:
        host.wait_booted()
        token_on(cluster, host)
    with ThreadPoolExecutor() as pool:
        running = [pool.submit(host.run, join_command(cluster, host, host.name), timeout_s=JOIN_S) for host in hosts]
        said = [one.result() for one in running]
    assert all(" s  follow   standby, active" in one.out for one in said), said
    cluster.nodes.update({host.name: host for host in hosts})
    cluster.healthy()
    wait_brokers(cluster, set(cluster.nodes))
    cluster.api(hosts[0]).write("PUT", "/settings/user.together", {"value": 1})
    assert cluster.api(hosts[1]).read("/settings/user.together")["spec"]["value"] == 1
