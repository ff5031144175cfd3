"""Clients behind HAProxy as it is shipped, in both ways: it passes TLS on, or ends it. Readers and writers run all the
time, each asks once; some writers have idempotency keys, some have not. Invariant: what is planned fails no request."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from uuid import uuid4

import pytest
from localcluster.cluster import Cluster

from tests.support.api import client
from tests.support.nodes import command, primary_of, promote, standbys_of, suspended, wait_equal
from tests.support.proxies import Proxy, proxied
from tests.support.readers import Readers, following, reading
from tests.support.writers import Writers, check_promises, running

# Two of them failed once each on a machine under load, with one request each; not until that is explained.
pytestmark = pytest.mark.long


@pytest.fixture(scope="module", params=["passes TLS on", "ends TLS"])
def proxy(
    request: pytest.FixtureRequest, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxy]:
    wait_equal(cluster)
    with proxied(cluster, tmp_path_factory.mktemp("proxy"), ends_tls=request.param == "ends TLS") as proxy:
        yield proxy


passes_tls_on = pytest.mark.parametrize("proxy", ["passes TLS on"], indirect=True)
ends_tls = pytest.mark.parametrize("proxy", ["ends TLS"], indirect=True)
"""For what is alike in both ways, or shows in one alone: who passes TLS on does not see requests."""


@pytest.fixture(autouse=True)
def _left_in_order(cluster: Cluster) -> Iterator[None]:
    yield
    assert cluster.dead() == []
    wait_equal(cluster)


@dataclass
class Clients:
    reads: Readers
    keyed: Writers
    keyless: Writers

    def go_on(self) -> None:
        self.reads.wait_for_more(40)
        self.keyed.wait_for_more(10)
        self.keyless.wait_for_more(10)

    @property
    def failures(self) -> list[object]:
        return [*self.reads.failures, *self.keyed.failures, *self.keyless.failures]


@contextmanager
def clients(proxy: Proxy) -> Iterator[Clients]:
    """Two readers and two writers at each port of the proxy."""
    ports = {"any": proxy.any_node, "leader": proxy.leader}
    one = proxy.client()
    before = wait_equal(proxy.cluster)["revision"]
    with ExitStack() as stack:
        reads = stack.enter_context(reading([*ports.values()] * 2, ca=one.ca, token=one.token))
        writing = [
            stack.enter_context(running(proxy.cluster, one_each=list(ports), through=ports, keyed=keyed))
            for keyed in (True, False)
        ]
        yield Clients(reads, *writing)
    for load in writing:
        check_promises(proxy.cluster, load, after=before)


def test_a_planned_switchover_fails_no_request(cluster: Cluster, proxy: Proxy) -> None:
    with clients(proxy) as load:
        for name in standbys_of(cluster):
            load.go_on()
            promote(cluster, name)
            proxy.wait_for_leader(name)
            assert proxy.client(proxy.leader).get("/cluster").headers["bellwether-node"] == name
            load.go_on()
    assert load.failures == []


def test_maintenance_fails_no_request(cluster: Cluster, proxy: Proxy) -> None:
    """On, stop, start, off."""
    name = standbys_of(cluster)[0]
    with clients(proxy) as load:
        load.go_on()
        said = command(cluster, name, "provider", "maintenance", "on", "--reason", "new disk")
        assert said.code == 0, said
        assert proxy.servers()[name] == "NOLB", "drained, not cut off"
        cluster.stop(name)
        load.go_on()
        cluster.start(name)
        load.go_on()
        assert command(cluster, name, "provider", "maintenance", "off").code == 0
        proxy.wait_for(name, "UP")
        for _ in range(2 * len(cluster.providers)):  # those that are connected stay where they are
            if proxy.client().get("/cluster").headers["bellwether-node"] == name:
                break
        else:
            pytest.fail(f"nobody is sent to {name}")
        load.go_on()
    assert load.failures == []


@ends_tls
def test_a_standby_that_dies_is_noticed_by_nobody_who_may_ask_twice(cluster: Cluster, proxy: Proxy) -> None:
    """What it was just answering is asked of another node, where that is safe: reads, and writes with a key."""
    name = standbys_of(cluster)[0]
    try:
        with clients(proxy) as load:
            load.go_on()
            cluster.kill(name)
            proxy.wait_for(name, "DOWN")
            load.reads.wait_for_more(40)
            load.keyed.wait_for_more(10)
            cluster.start(name)
        assert load.reads.failures == []
        assert load.keyed.failures == []
    finally:
        cluster.start(name)  # unless it runs


@ends_tls
def test_while_nobody_leads_reads_go_on_and_the_leader_s_port_follows(cluster: Cluster, proxy: Proxy) -> None:
    before, (heir, _) = primary_of(cluster), standbys_of(cluster)
    one = proxy.client()
    try:
        with reading([proxy.any_node, proxy.leader] * 2, ca=one.ca, token=one.token) as reads:
            reads.wait_for_more()
            cluster.kill(before)
            proxy.wait_for(before, "DOWN", "leader")
            refused = proxy.client(proxy.leader).put("/settings/user.leader", {"value": 1})
            assert (refused.status, refused.code) == (503, "no_primary"), "a node says so, not the proxy"
            promote(cluster, heir)
            proxy.wait_for_leader(heir)
            asked = proxy.client(proxy.leader)
            assert asked.write("PUT", "/settings/user.leader", {"value": 2}).headers["bellwether-node"] == heir
            reads.wait_for_more()
        assert reads.failures == []
    finally:
        cluster.start(before)


@passes_tls_on
def test_a_node_that_hangs_is_left(cluster: Cluster, proxy: Proxy) -> None:
    """Connections to it are ended after two looks, so that clients need not wait for their own deadlines."""
    name = standbys_of(cluster)[0]
    with suspended(cluster, name):
        proxy.wait_for(name, "DOWN")
        for _ in range(4):
            assert proxy.client().get("/cluster").headers["bellwether-node"] != name
    proxy.wait_for(name, "UP")


@ends_tls
def test_events_go_on_where_they_ended(cluster: Cluster, proxy: Proxy) -> None:
    """A stream through the proxy outlasts a switchover; at maintenance it ends, whole, and is taken up elsewhere."""
    first, one = wait_equal(cluster)["revision"], proxy.client()
    with following(proxy.any_node, after=first, ca=one.ca, token=one.token) as follower:
        promote(cluster, standbys_of(cluster)[0])
        for name in standbys_of(cluster):
            client(cluster, name).write("PUT", f"/nodes/{name}/maintenance", {})
            proxy.wait_for(name, "NOLB")
            client(cluster, name).write("DELETE", f"/nodes/{name}/maintenance")
            proxy.wait_for(name, "UP")
        newest = int(one.write("PUT", "/settings/user.followed", {"value": uuid4().hex}).json["revision"])
        follower.wait_for(newest)
    assert follower.seen == list(range(first + 1, follower.seen[-1] + 1)), "each once, in order"
    assert follower.broken == []
