"""What lies on the disk of a broker that does not run: others' things are seen, and nothing of them is believed."""

import os
from pathlib import Path

import pytest

from provider.broker.host.facts import Facts
from provider.broker.host.foreign import in_the_way, on_disk


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Of a broker that holds what `broker-setup` makes, and a copy of the log."""
    vhost(tmp_path, "bellwether")
    vhost(tmp_path, "/")
    (tmp_path / "stream" / "bellwether_bellwether_log_a_1").mkdir(parents=True)
    (tmp_path / "quorum" / "rabbit@p1").mkdir(parents=True)
    (tmp_path / "quorum" / "rabbit@p1" / "00000001.wal").touch()
    return tmp_path


def vhost(data: Path, name: str) -> Path:
    made = data / "msg_stores" / "vhosts" / f"hash-of-{name.replace('/', 'default')}"
    made.mkdir(parents=True)
    (made / ".vhost").write_text(name)
    return made


def test_what_is_ours_is_not_taken_for_others(data: Path) -> None:
    (data / "msg_stores" / "vhosts" / "hash-of-bellwether" / "queues" / "a").mkdir(parents=True)
    assert not on_disk(data)
    assert not on_disk(data / "nothing")


def test_what_others_have_there_is_seen(data: Path) -> None:
    for made in (
        "msg_stores/vhosts/hash-of-default/queues/a",
        "quorum/rabbit@p1/2F_ORDERS",
        "stream/__orders_1",
    ):
        (data / made).mkdir(parents=True)
        assert on_disk(data), made
        (data / made).rmdir()
    assert not on_disk(data)
    vhost(data, "shop")
    assert on_disk(data)


def test_what_cannot_be_read_counts_as_others(data: Path) -> None:
    """Nobody is waited for, and no link is followed."""
    name = vhost(data, "x") / ".vhost"
    name.unlink()
    os.mkfifo(name)
    assert on_disk(data)
    name.unlink()
    name.symlink_to(data / "msg_stores" / "vhosts" / "hash-of-bellwether" / ".vhost")
    assert on_disk(data)


def test_a_broker_with_others_things_does_not_begin_again_empty_by_itself() -> None:
    ours = Facts("rabbit@p1", "4.0.5", (), ("rabbit@p1",), ("rabbit@p1",), holds=("queue 'log'",))
    assert in_the_way(ours) is None
    shared = Facts("rabbit@p1", "4.0.5", (), ("rabbit@p1",), ("rabbit@p1",), foreign=("virtual host 'shop'",))
    assert "holds virtual host 'shop', not Bellwether's own" in str(in_the_way(shared))
