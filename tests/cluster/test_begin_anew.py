"""The log is gone for good, and so are two of three providers: the third begins a log of its own with what it holds,
and who comes back afterwards has no part in it. Long: it takes the cluster apart, piece by piece. One story.

Invariant: all that the survivor held is there, agents follow it alone, and nothing that an old member does counts."""

import os
import pty
import select
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from localcluster.cluster import Cluster
from localcluster.ports import free_ports
from localcluster.process import environment, wait_until
from localcluster.provider import Provider, program_path

from tests.cluster.conftest import StartCluster
from tests.support.api import client
from tests.support.nodes import command, primary_of, restart, standbys_of, wait_equal
from tests.support.sql import databases

pytestmark = pytest.mark.long
FORCE = ("failover", "--operation", "promote", "--force", "--wait", "3")
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def own(start_cluster: StartCluster) -> Cluster:
    return start_cluster(databases=1)


class Terminal:
    """A forced promotion on a terminal."""

    def __init__(self, own: Cluster, node: str) -> None:
        self._leader, follower = pty.openpty()
        self._process = subprocess.Popen(
            [program_path(FORCE[0]), *FORCE[1:], "--config", str(own.providers[node].files.config)],
            stdin=follower,
            stdout=follower,
            stderr=follower,
            env=environment(),
            start_new_session=True,
        )
        os.close(follower)
        self.said = ""

    def answer(self, text: str) -> None:
        """To the question, once it is asked."""
        self._read(lambda: "anything else changes nothing: " in self.said)
        os.write(self._leader, text.encode() + b"\n")

    def end(self) -> int:
        """Its exit code, once it has ended."""
        self._read(lambda: False)
        os.close(self._leader)
        return self._process.wait(PATIENCE_S)

    def _read(self, enough: Callable[[], bool]) -> None:
        until_s = time.monotonic() + PATIENCE_S
        while not enough():
            assert time.monotonic() < until_s, self.said
            if not select.select([self._leader], [], [], 1.0)[0]:
                continue
            try:
                self.said += os.read(self._leader, 4096).decode()
            except OSError:  # nobody has it open any more
                return


def test_the_last_of_three_begins_a_log_of_its_own_and_who_comes_back_is_out(own: Cluster, tmp_path: Path) -> None:
    old, standby, survivor = primary_of(own), *standbys_of(own)
    node, server = client(own, survivor), own.servers["db1"]
    node.write("PUT", "/instances/db1/databases/kept", {})
    node.wait_for("/instances/db1/databases/kept", lambda one: one["status"]["phase"] == "ready")
    node.write("PUT", "/settings/user.kept", {"value": 1})
    before = wait_equal(own)
    ordinary = command(own, survivor, *FORCE)
    assert (ordinary.code, "Writes are accepted" in ordinary.out) == (0, True), ordinary
    assert wait_equal(own)["generation"] == before["generation"], "while the log is there, it is gone on with"
    assert command(own, old, "failover", "--operation", "promote").code == 0

    # ── something that only those have who are about to go ──
    before = wait_equal(own)
    own.kill(standby)
    own.kill(survivor)
    client(own, old).write("PUT", "/settings/user.lost", {"value": 1})
    client(own, old).write("PUT", "/instances/db1/databases/late", {})
    client(own, old).wait_for("/instances/db1/databases/late", lambda one: one["status"]["phase"] == "ready")
    last = client(own, old).read("/cluster")
    own.kill(old)
    own.kill("broker")
    shutil.rmtree(own.layout.broker / "data")
    own.members[survivor].launch()
    node.wait_for("/cluster", lambda one: one["primary"] == old)

    # ── it says what it costs, and asks ──
    refused = command(own, survivor, *FORCE)
    assert (refused.code, "--yes" in refused.err) == (1, True), refused
    told = f"{survivor} holds everything up to revision {before['revision']} (epoch {before['epoch']})"
    assert told in refused.out, refused
    assert f"LOST: whatever was acknowledged behind revision {before['revision']}" in refused.out
    asked = Terminal(own, survivor)
    asked.answer("y")
    assert (asked.end(), "nothing was changed" in asked.said) == (1, True), asked.said
    assert node.read("/cluster")["generation"] == before["generation"]
    asked = Terminal(own, survivor)
    asked.answer("yes")
    node.wait_for("/cluster", lambda one: one["generation"] != before["generation"])
    restart(own, "broker")
    assert (asked.end(), "Writes are accepted" in asked.said) == (0, True), asked.said
    assert told in asked.said.partition("Writes are accepted")[2], "it says it once more, afterwards"

    # ── all that it held is there, agents follow, nothing on a server is touched ──
    begun = node.read("/cluster")
    assert [one["name"] for one in begun["nodes"]] == [survivor]
    assert begun["epoch"] > last["epoch"]
    assert begun["revision"] > last["revision"]
    assert node.read("/settings/user.kept")["spec"] == {"value": 1}
    assert node.get("/settings/user.lost").status == 404
    node.write("PUT", "/settings/user.new", {"value": 2})
    node.wait_for("/agents/db1", lambda one: one["status"]["advised"] and one["status"]["epoch"] == begun["epoch"])
    node.wait_for("/instances/db1/databases/kept", lambda one: one["status"]["phase"] == "ready")
    assert {"kept", "late"} <= set(databases(server))
    listed = command(own, survivor, "provider", "adopt", "list")
    assert "late" in listed.out, listed
    assert command(own, survivor, "provider", "adopt", "take", "--all").code == 0
    assert command(own, survivor, "provider", "adopt", "done").code == 0
    assert node.get(f"/events?after={last['revision']}&follow=false").status == 410, "what was seen was given up"
    assert node.read("/audit?limit=200")["items"][-1], "what was before is still told"

    # ── the old primary comes back, and is out ──
    own.members[old].launch()
    back = client(own, old)
    said = back.wait_for("/cluster", lambda one: any(n["state"] == "removed" for n in one["nodes"]))
    reason = next(n["reason"] for n in said["nodes"] if n["name"] == old)
    assert f"{survivor} went on without {old}" in reason
    assert back.put("/settings/user.older", {"value": 1}).status in (409, 503)
    wait_until(lambda: "no member any more" in own.providers[old].log.read_text(), timeout_s=10, what="its log")
    assert "went on without" in command(own, old, "provider", "status").out
    assert node.read("/agents/db1")["status"]["epoch"] == begun["epoch"]
    own.kill(old)

    # ── and the cluster grows again ──
    joining = Provider("p9", own.layout.provider("p9"), free_ports(1)[0], user=own.first.user)
    own.providers[survivor].create_token("node", tmp_path / "token")
    joining.join(own.providers[survivor], tmp_path / "token")
    own.providers["p9"] = joining
    own.members = {**own.members, "p9": joining}
    joining.launch()
    joining.wait_ready()
    wait_equal(own, [survivor, "p9"])
    assert command(own, "p9", "failover", "--operation", "promote").code == 0
    assert client(own, "p9").put("/settings/user.newer", {"value": 3}).status == 201


def test_another_that_is_left_follows_by_itself(start_cluster: StartCluster) -> None:
    own = start_cluster(providers=4, databases=0)
    old, gone, survivor, other = primary_of(own), *standbys_of(own)
    client(own, old).write("PUT", "/settings/user.kept", {"value": 1})
    before = wait_equal(own)
    own.kill(old)
    own.kill(gone)
    own.kill("broker")
    shutil.rmtree(own.layout.broker / "data")
    asked = Terminal(own, survivor)
    asked.answer("yes")
    assert f"{other} answers, holds no more, and goes on with {survivor} by itself" in asked.said
    node = client(own, survivor)
    node.wait_for("/cluster", lambda one: one["generation"] != before["generation"])
    client(own, other).wait_for("/cluster", lambda one: _state(one, other) == "out_of_sync")
    restart(own, "broker")
    assert asked.end() == 0, asked.said
    client(own, other).wait_for("/cluster", lambda one: _state(one, other) == "active")
    after = wait_equal(own, [survivor, other])
    assert [one["name"] for one in after["nodes"]] == sorted([survivor, other])
    assert command(own, other, "failover", "--operation", "promote").code == 0
    client(own, other).write("PUT", "/settings/user.new", {"value": 2})
    assert wait_equal(own, [survivor, other])["primary"] == other


def _state(cluster: dict[str, Any], name: str) -> str:
    return str(next(one["state"] for one in cluster["nodes"] if one["name"] == name))
