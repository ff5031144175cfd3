"""A fresh host with its own broker joins a cluster that holds 100,000 documents: within a minute. What each step took
is printed (`tests/run -m long -s`)."""

import time
from pathlib import Path

import pytest

from tests.benchmarks import fill
from tests.benchmarks.join import AT_MOST_S, DOCUMENTS
from tests.hosts.conftest import StartCluster
from tests.testbed.cluster import url_of


@pytest.mark.long
def test_a_host_joins_a_large_cluster_within_a_minute(start_cluster: StartCluster) -> None:
    cluster = start_cluster(providers=1)
    first = cluster.nodes["p1"]
    first.run("systemctl stop bellwether-provider")
    script = Path(fill.__file__).read_text()
    first.run(
        f"/opt/bellwether/bin/python - sqlite:////var/lib/bellwether/state.db {DOCUMENTS}", data=script, timeout_s=500
    )
    first.run("chown -R bellwether: /var/lib/bellwether; systemctl start bellwether-provider")
    cluster.healthy()
    host = cluster.bed.provider("p2")
    host.boot()
    host.write("/root/join.token", first.run("provider token create --role node").out, mode="600")
    began_s = time.monotonic()
    said = host.run(
        f"provider join {url_of(first)} --name p2 --url {url_of(host)} --token-file /root/join.token", timeout_s=500
    )
    took_s = time.monotonic() - began_s
    print(f"{said.out}joined, and caught up: {took_s:.1f} s")
    cluster.nodes["p2"] = host
    cluster.healthy()
    assert took_s <= AT_MOST_S, said.out
