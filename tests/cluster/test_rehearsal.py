"""A rehearsal leaves the cluster as it was, and says plainly what it saw and where it stopped."""

import json
import signal
import subprocess
from collections.abc import Iterator

import pytest
from localcluster.cluster import Cluster
from localcluster.process import environment
from localcluster.provider import program_path

from tests.support.api import client
from tests.support.nodes import command, primary_of, promote, standbys_of, suspended, wait_equal


@pytest.fixture
def own(cluster: Cluster) -> Cluster:
    """The shared one: a rehearsal leaves it as it was, and so does each test here."""
    return cluster


@pytest.fixture(autouse=True)
def _left_in_order(own: Cluster) -> Iterator[None]:
    """p1 is primary, nothing of a rehearsal is left."""
    for name in own.providers:
        client(own, name).wait_for("/cluster", lambda c: {n["state"] for n in c["nodes"]} == {"active"})
    before = wait_equal(own)["primary"]
    yield
    assert own.dead() == []
    if wait_equal(own)["primary"] != before:
        promote(own, before)
    one = client(own, before)
    assert one.read("/settings?prefix=rehearsal.")["items"] == []
    assert not any((t["spec"].get("name") or "").startswith("rehearsal") for t in one.read("/tokens")["items"])


def test_there_and_back_without_a_trace(own: Cluster) -> None:
    before, name = wait_equal(own), standbys_of(own)[0]
    client(own, name).write("PUT", "/settings/rehearsal.old.p1", {"value": "left by a run that was killed"})
    said = command(own, name, "failover", "--operation", "rehearse", "--json")
    assert said.code == 0, said
    found = json.loads(said.out)
    assert (found["result"], found["primary"], found["epoch"]) == ("clean", before["primary"], before["epoch"] + 2)
    assert (found["writes"]["failed"], found["writes"]["lost"], found["writes"]["twice"]) == (0, 0, 0)
    assert found["writes"]["made"] >= 3 * 3 * 25, "each node takes writes before, between and after"
    assert [(d["from"], d["to"]) for d in found["directions"]] == [(before["primary"], name), (name, before["primary"])]
    for direction in found["directions"]:
        assert direction["agents"] == {"online": 1, "follow": 1, "did_not_follow": []}
        assert [step["step"] for step in direction["steps"]] == ["check", "barrier", "claim", "advise"]
        assert direction["longest_stall_ms"] > 0


def test_for_people(own: Cluster) -> None:
    before, name = primary_of(own), standbys_of(own)[0]
    said = command(own, name, "failover", "--operation", "rehearse")
    assert (said.code, said.err) == (0, ""), said
    assert f"{before} → {name}  longest stall of a write" in said.out
    assert "0 failed, 0 lost" in said.out
    last = said.out.splitlines()[-1]
    assert last.startswith(f"Clean: nothing was lost and nothing failed. {before} is primary now, epoch")


def test_it_is_refused_where_anything_is_the_matter(own: Cluster) -> None:
    before, (one, two) = primary_of(own), standbys_of(own)
    assert f"{before} is the primary: run it on a standby: {one}, {two}" in _refused(own, before)
    client(own, one).write("PUT", f"/nodes/{two}/maintenance", {"reason": "new disk"})
    try:
        assert f"{two} is maintenance (new disk" in _refused(own, one)
    finally:
        client(own, one).write("DELETE", f"/nodes/{two}/maintenance")
    with suspended(own, two):
        client(own, one).wait_for(f"/nodes/{two}", lambda n: n["status"]["state"] == "lost")
        said = _refused(own, one)
        assert f"{two} is lost" in said
        assert f"{two}: does not answer" in said
    told = command(own, before, "failover", "--operation", "rehearse", "--json")
    assert json.loads(told.out)["result"] == "refused"


def _refused(own: Cluster, name: str) -> str:
    epoch = client(own, name).read("/cluster")["epoch"]
    said = command(own, name, "failover", "--operation", "rehearse")
    assert (said.code, said.out) == (1, ""), said
    assert said.err.startswith("error: no rehearsal: ")
    assert said.err.endswith("Nothing was changed\n")
    assert said.err.count("\n") == 1
    assert client(own, name).read("/cluster")["epoch"] == epoch
    return said.err


def _begin(own: Cluster, name: str, until: str) -> subprocess.Popen[str]:
    """A rehearsal that has said `until`."""
    rehearsing = subprocess.Popen(
        [program_path("failover"), "--operation", "rehearse", "--config", own.providers[name].files.config],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert rehearsing.stdout is not None
    assert any(until in line for line in rehearsing.stdout), rehearsing.communicate()
    return rehearsing


def test_interrupted_half_way_it_says_who_is_primary_and_how_to_go_back(own: Cluster) -> None:
    before, name = primary_of(own), standbys_of(own)[0]
    rehearsing = _begin(own, name, f"{name} is primary, revision")
    rehearsing.send_signal(signal.SIGINT)
    _, err = rehearsing.communicate(timeout=60)
    assert rehearsing.returncode == 130
    assert "the rehearsal did not come to its end: interrupted by SIGINT" in err
    assert f"{name} is primary now" in err
    assert f"to have {before} again, run `failover --operation promote` there" in err
    assert err.count("\n") == 1
    assert primary_of(own) == name


def test_where_the_way_back_fails_it_says_so(own: Cluster) -> None:
    before, name = primary_of(own), standbys_of(own)[0]
    rehearsing = _begin(own, name, f"{name} is primary, revision")
    own.kill(before)
    try:
        _, err = rehearsing.communicate(timeout=120)
        assert rehearsing.returncode == 1
        assert f"{name} is primary now" in err
        assert f"to have {before} again, run `failover --operation promote` there" in err
    finally:
        own.start(before)
