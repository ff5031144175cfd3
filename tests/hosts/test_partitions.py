"""Three hosts lose sight of each other, in every way there is, and see each other again.

Invariant: nothing that was acknowledged is lost or done twice, all nodes are equal at the end, and nobody did anything
but wait. Clients reach all hosts all the time, and write through all of them.
"""

import threading
from collections.abc import Sequence
from itertools import combinations

import pytest

from tests.testbed.cluster import Cluster
from tests.testbed.links import Traffic

SETTLED_S = 120.0
SHAPES = {
    "all three apart": [(0, 1), (0, 2), (1, 2)],
    "the primary alone": [(0, 1), (0, 2)],
    "a standby alone": [(0, 1), (1, 2)],
    "primary and a standby do not see each other": [(0, 1)],
    "the standbys do not see each other": [(1, 2)],
}


def ride_out(
    cluster: Cluster,
    links: Sequence[tuple[int, int]],
    held_s: float,
    traffic: Traffic = Traffic.ALL,
    *,
    one_way: bool = False,
) -> None:
    """Writes go on while these links are cut for so long; then all is checked. 0 is the primary, 1 and 2 standbys."""
    before = cluster.equal()
    hosts = [cluster.primary(), *cluster.standbys()]
    with cluster.writing() as load:
        load.wait_for_more(10)
        for a, b in links:
            cluster.bed.cut(hosts[a], hosts[b], traffic, one_way=one_way)
        threading.Event().wait(held_s)  # the time is what is tried
        cluster.bed.heal()
        load.wait_for_more(30, timeout_s=SETTLED_S)
    after = cluster.healthy(timeout_s=SETTLED_S)
    assert (after["primary"], after["epoch"], after["generation"]) == (
        before["primary"],
        before["epoch"],
        before["generation"],
    ), "nobody was promoted, and the log is the same"
    cluster.check(load, after=before["revision"])


@pytest.mark.parametrize("shape", SHAPES)
def test_a_partition_heals_after_a_moment(healthy: Cluster, shape: str) -> None:
    ride_out(healthy, SHAPES[shape], 5)


@pytest.mark.long
@pytest.mark.parametrize("held_s", [30, 90])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_partition_heals_after_long(healthy: Cluster, shape: str, held_s: float) -> None:
    ride_out(healthy, SHAPES[shape], held_s)


@pytest.mark.long
@pytest.mark.parametrize("traffic", [Traffic.API, Traffic.AMQP, Traffic.CLUSTERING])
@pytest.mark.parametrize("shape", SHAPES)
def test_one_kind_of_traffic_is_parted(healthy: Cluster, shape: str, traffic: Traffic) -> None:
    ride_out(healthy, SHAPES[shape], 30, traffic)


@pytest.mark.long
@pytest.mark.parametrize(("a", "b"), [*combinations(range(3), 2), (1, 0), (2, 0), (2, 1)])
def test_a_link_fails_one_way(healthy: Cluster, a: int, b: int) -> None:
    ride_out(healthy, [(a, b)], 30, one_way=True)
