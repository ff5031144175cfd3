"""The broker comes back with an earlier copy of its data, as after a power cut that took what was not synced: nothing
that was acknowledged is lost, and no hand is needed. Long: each story restarts the broker twice."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from localcluster.cluster import Cluster
from localcluster.process import wait_until

from tests.cluster.conftest import StartCluster
from tests.support.api import client
from tests.support.nodes import command, living, primary_of, promote, restart, standbys_of, wait_equal
from tests.support.writers import check_promises, running

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def own(start_cluster: StartCluster) -> Cluster:
    return start_cluster(databases=1)


@pytest.fixture(autouse=True)
def _left_in_order(own: Cluster) -> Iterator[None]:
    yield
    restart(own, *own.dead())
    for name in own.providers:
        client(own, name).wait_for("/health/ready", lambda h: h["state"] == "active")
    wait_equal(own)


def earlier(own: Cluster, kept: Path) -> None:
    """A copy of the broker's data, as they are now."""
    own.kill("broker")
    shutil.copytree(own.layout.broker / "data", kept)
    restart(own, "broker")
    for name in living(own):
        client(own, name).wait_for("/health/ready", lambda h: h["state"] == "active")


def put_back_to(own: Cluster, kept: Path) -> None:
    """The broker loses everything since; it stays down."""
    if own.alive("broker"):
        own.kill("broker")
    shutil.rmtree(own.layout.broker / "data")
    shutil.copytree(kept, own.layout.broker / "data")


def hears(own: Cluster, name: str, other: str) -> None:
    """The node hears from the other one that it is well, from now on."""
    path = f"/nodes/{other}"
    before = client(own, name).read(path)["status"]["last_seen"]
    client(own, name).wait_for(path, lambda n: n["status"]["last_seen"] > before and n["status"]["state"] == "active")


def said(own: Cluster, name: str) -> str:
    return own.providers[name].log.read_text()


@contextmanager
def seen(own: Cluster, name: str, text: str) -> Iterator[None]:
    """The node's log says this within the block."""
    before = said(own, name).count(text)
    yield
    assert said(own, name).count(text) > before


def test_what_the_broker_lost_is_put_back_under_load(own: Cluster, tmp_path: Path) -> None:
    before = wait_equal(own)
    earlier(own, tmp_path / "data")
    with running(own, roaming=4, timeout_s=3) as load:
        load.wait_for_more(100)
        with seen(own, primary_of(own), "it goes on"):
            put_back_to(own, tmp_path / "data")
            restart(own, "broker")
            load.wait_for_more(100)
    after = wait_equal(own)
    assert (after["primary"], after["epoch"]) == (before["primary"], before["epoch"])
    check_promises(own, load, after=before["revision"])


def test_all_power_is_lost_and_a_deposed_primary_is_the_first_to_come_back(own: Cluster, tmp_path: Path) -> None:
    """The log knows nothing of the newer epoch any more, and of what was acknowledged in it; nor does the old primary,
    which was down. It must not go on as if it still were one."""
    old, new, third = primary_of(own), *standbys_of(own)
    before = wait_equal(own)
    earlier(own, tmp_path / "data")
    hears(own, new, old)  # and so knows that its log was whole
    own.kill(old)
    promote(own, new)
    answer = client(own, new).put("/settings/user.newer", {"value": 1})
    assert answer.status == 201, answer
    own.kill(new)
    own.kill(third)
    put_back_to(own, tmp_path / "data")
    restart(own, "broker", old)
    first = client(own, old)
    refused = first.put("/settings/user.older", {"value": 1})
    assert (refused.status, refused.code) == (503, "log_unavailable"), refused
    restart(own, new, third)
    first.wait_for("/cluster", lambda c: c["primary"] == new)
    after = wait_equal(own)
    assert after["epoch"] == before["epoch"] + 1
    for name in own.providers:
        assert client(own, name).read("/settings/user.newer")["spec"]["value"] == 1
        assert client(own, name).get("/settings/user.older").status == 404


def test_who_was_given_up_takes_a_snapshot_by_itself_and_keeps_what_only_it_had(own: Cluster, tmp_path: Path) -> None:
    old, new = primary_of(own), standbys_of(own)[0]
    earlier(own, tmp_path / "data")
    wait_equal(own)
    for name in standbys_of(own):
        own.kill(name)
    answer = client(own, old).put("/settings/user.only", {"value": 1})
    assert answer.status == 201, answer
    own.kill(old)
    put_back_to(own, tmp_path / "data")
    restart(own, "broker", *(name for name in own.providers if name != old))
    forced = command(own, new, "failover", "--operation", "promote", "--force")
    assert forced.code == 0, forced
    assert client(own, new).put("/settings/user.other", {"value": 2}).status == 201
    with seen(own, old, "follows the log again"):
        restart(own, old)
        client(own, old).wait_for("/cluster", lambda c: c["primary"] == new)
        client(own, old).wait_for("/health/ready", lambda h: h["state"] == "active")
    wait_equal(own)
    assert client(own, old).get("/settings/user.only").status == 404
    kept = list((own.layout.provider(old).config.parent / "data" / "set-aside").iterdir())
    assert len(kept) == 1
    lines = [json.loads(line) for line in kept[0].read_text().splitlines()]
    assert "user.only" in kept[0].read_text()
    assert lines[0]["revision"] <= answer.json["revision"]
    client(own, old).wait_for("/audit?limit=1", lambda audit: audit["items"])  # it has the history, too


def test_a_standby_whose_store_is_torn_comes_back_by_itself(own: Cluster) -> None:
    name = standbys_of(own)[0]
    before = wait_equal(own)
    wait_until(lambda: _data(own, name, "members.json").exists(), timeout_s=20, what="it does not know the others")
    own.kill(name)
    with _data(own, name, "state.db").open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 8192)
    _data(own, name, "state.db-wal").unlink(missing_ok=True)
    with seen(own, name, "begins with the state of another member"):
        restart(own, name)
        client(own, name).wait_for("/health/ready", lambda h: h["state"] == "active")
    after = wait_equal(own)
    assert (after["epoch"], after["primary"]) == (before["epoch"], before["primary"])
    assert list(_data(own, name, "").glob("state.db.torn-*"))


def _data(own: Cluster, name: str, file: str) -> Path:
    return own.layout.provider(name).config.parent / "data" / file
