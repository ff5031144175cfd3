"""Invariant: where a place and a recovery key are set, a backup lies there that opens; where none can be made, all
nodes say so until one is."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from localcluster.cluster import Cluster

from tests.support.api import Client, client
from tests.support.nodes import command, primary_of, standbys_of


@pytest.fixture
def node(cluster: Cluster) -> Iterator[Client]:
    """A standby. What is set through it is unset in the end."""
    found = client(cluster, standbys_of(cluster)[0])
    yield found
    for item in found.read("/settings?prefix=backup.")["items"]:
        if item["id"] != "backup.done":
            found.write("DELETE", f"/settings/{item['id']}")


def place(cluster: Cluster, name: str, *parts: str) -> Path:
    """Where that provider's user may write."""
    return cluster.providers[name].files.directory.joinpath("data", *parts)


def warned(node: Client, text: str) -> None:
    node.wait_for("/cluster", lambda one: any(text in warning for warning in one["warnings"]))


def scheduled(node: Client, by: str, place: Path) -> Path:
    """The backup that `by` has made there."""
    found = node.wait_for(
        "/backups", lambda one: one["scheduled"] is not None and one["scheduled"]["where"].startswith(str(place))
    )
    assert found["scheduled"]["node"] == by
    return Path(found["scheduled"]["where"])


def test_backups_are_made_by_themselves_on_the_primary_or_another_node(
    cluster: Cluster, node: Client, tmp_path: Path
) -> None:
    leader, standby, key = primary_of(cluster), standbys_of(cluster)[0], tmp_path / "recovery.key"
    first, second = place(cluster, leader, "backups"), place(cluster, standby, "backups")
    node.write("PUT", "/settings/backup.to", {"value": str(first)})
    warned(node, "there is no recovery key")
    said = command(cluster, standby, "provider", "backup", "key", "--out", str(key))
    assert said.code == 0, said
    made = scheduled(node, leader, first)
    known = ["--recovery-key-file", str(key), "--json"]
    said = command(cluster, leader, "provider", "backup", "verify", str(made), *known)
    assert (said.code, json.loads(said.out)["opened"]) == (0, True), said
    cluster_id = node.read("/cluster")["id"]
    assert json.loads(said.out)["cluster"] == cluster_id
    assert not any("backup" in warning for warning in node.read("/cluster")["warnings"])

    node.write("PUT", "/settings/backup.node", {"value": standby})
    node.write("PUT", "/settings/backup.keep", {"value": 1})
    node.write("PUT", "/settings/backup.to", {"value": str(second)})
    scheduled(node, standby, second)
    said = command(cluster, standby, "provider", "backup", "--keep", "1")
    assert said.code == 0, said
    listed = command(cluster, standby, "provider", "backup", "list")
    assert len(listed.out.splitlines()) == 1, "the one before it has outlived"
    assert listed.out.strip() == said.out.splitlines()[0]
    status = command(cluster, leader, "provider", "status")
    assert f"each 24 h to {second} by {standby}" in status.out, status
    assert b"bellwether_backup_scheduled_timestamp_seconds" in client(cluster, leader).get("/metrics").body

    node.write("PUT", "/settings/backup.to", {"value": str(place(cluster, standby, "state.db", "x"))})
    warned(node, "state.db/x: ")


def test_a_passphrase_closes_one_that_was_asked_for_by_hand(cluster: Cluster, node: Client, tmp_path: Path) -> None:
    phrase, other = tmp_path / "phrase", tmp_path / "other"
    phrase.write_text("correct horse battery\n")
    other.write_text("incorrect horse battery\n")
    leader = primary_of(cluster)
    to = ["--to", str(tmp_path / "mine"), "--passphrase-file", str(phrase)]
    said = command(cluster, leader, "provider", "backup", *to)
    assert said.code == 0, said
    check = ["provider", "backup", "verify", str(tmp_path / "mine"), "--passphrase-file"]
    assert command(cluster, leader, *check, str(phrase)).code == 0
    refused = command(cluster, leader, *check, str(other))
    assert (refused.code, "does not open" in refused.err) == (1, True), refused
    assert len(refused.err.splitlines()) == 1
