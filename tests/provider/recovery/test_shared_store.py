"""Nodes that share a database: each entry is stored once, and nothing rolls it back."""

from contextlib import closing
from pathlib import Path

import pytest

from provider.core.pending import Result
from provider.core.replica import Progress
from provider.core.state import State
from provider.log.port import Position
from provider.store import Store
from shared.errors import Behind, BellwetherError
from tests.support.engines import PATIENCE_S, Host
from tests.support.recovering import NAMES, Cluster, all_on_one
from tests.support.stores import execute


def test_on_a_shared_database_each_entry_is_stored_once_whoever_comes_first(cluster: Cluster) -> None:
    p1, p2, p3 = all_on_one(cluster)
    for number in range(20):
        p1.answer(p1.put("a", number, again=f"key {number}"))
    p2.promoted()
    newest = p2.answer(p2.put("a", "last")).revision
    assert p1.reach(newest).digest == p2.reach(newest).digest == p3.reach(newest).digest
    assert [row.revision for row in p3.store.history(0, 100)] == list(range(2, newest + 1))
    cluster.stop("p3")
    assert cluster.start("p3", database="one").reach(newest).digest == p1.engine.state.digest
    assert cluster.fetched == 0


def test_what_only_the_shared_database_still_knows_is_put_back(cluster: Cluster) -> None:
    """p1 stored it, and is gone for good; the others had not read it when the brokers lost it."""
    p1, p2, p3 = all_on_one(cluster)
    p1.answer(p1.put("a", "before"))
    p2.reach(2)
    p3.reach(2)
    p2.log.deaf = p3.log.deaf = True
    kept = len(cluster.stream.records)
    last = p1.answer(p1.put("a", "acknowledged")).revision
    cluster.stop("p1")
    cluster.stream.forget(kept)
    cluster.stream.cut()
    p2.reach(last)
    assert isinstance(forced(p2), Progress)
    newest = p2.answer(p2.put("b")).revision
    assert p3.reach(newest).digest == p2.engine.state.digest
    assert p2.value("a") == p3.value("a") == "acknowledged"


@pytest.mark.parametrize(
    "statements",
    [
        ("DELETE FROM meta",),
        ("DROP TABLE meta",),
        ("DROP TABLE meta", "DROP TABLE history", "DROP TABLE documents", "DROP TABLE idempotency_keys"),
    ],
)
def test_a_shared_database_that_is_emptied_gets_back_what_the_running_nodes_have(
    cluster: Cluster, statements: tuple[str, ...]
) -> None:
    """Invariant: what is in memory is not given up, whether anybody writes at that moment or nobody does."""
    p1, p2, p3 = all_on_one(cluster)
    p1.answer(p1.put("a", 1))
    for host in (p2, p3):
        host.reach(2)
    execute(p1.url, *statements)
    last = p1.answer(p1.put("a", 2)).revision
    assert p2.reach(last).digest == p3.reach(last).digest == p1.store.load()[0].digest
    execute(p1.url, *statements)
    p1.until(lambda: holds(p1, last), what="nobody writes it back while nothing is written")
    assert p1.answer(p1.put("a", 3)).revision == last + 1
    assert all(host.reach(last + 1) for host in (p2, p3))
    assert cluster.fetched == 0


def holds(host: Host, revision: int) -> bool:
    try:
        return host.store.load()[0].revision == revision
    except BellwetherError:
        return False


def test_an_older_database_in_the_place_of_the_shared_one_is_brought_up_to_date(cluster: Cluster) -> None:
    """Somebody restored a backup of it; or a node that found it torn has put an older snapshot there."""
    p1, p2, _ = all_on_one(cluster)
    p1.answer(p1.put("a", 1))
    older, at = p1.store.load()
    for number in range(3):
        p1.answer(p1.put("b", number))
    p2.reach(5)
    with closing(Store(p1.url)) as other:
        other.seed(older, at)
    last = p1.answer(p1.put("b", "on")).revision
    assert p2.reach(last).digest == p1.store.load()[0].digest
    assert last == 6


class Overtaken(Cluster):
    """While a snapshot is on its way, its giver goes on."""

    def snapshot(self, url: str) -> tuple[State, Position | None]:
        found = super().snapshot(url)
        giver = self._at(url)
        self.last = giver.answer(giver.put("a", "meanwhile")).revision
        return found


def test_a_snapshot_that_is_taken_over_does_not_roll_a_shared_database_back(tmp_path: Path) -> None:
    cluster = Overtaken(tmp_path)
    p1, p2, _ = all_on_one(cluster)
    p1.answer(p1.put("a", 1))
    p2.reach(2)
    p2.engine.lose("a test")
    p2.until(lambda: cluster.fetched > 0 and p2.engine.reading.lost is None, what="it does not come back")
    assert p2.reach(cluster.last).digest == p1.reach(cluster.last).digest
    assert [row.revision for row in p1.store.history(0, 10)] == list(range(2, cluster.last + 1))
    assert p1.answer(p1.put("a", 2)).revision == cluster.last + 1
    for name in NAMES:
        cluster.stop(name)


def test_a_promotion_by_force_waits_for_what_its_own_store_has(cluster: Cluster) -> None:
    """Invariant: nothing is claimed in the place of what is in the database that all share, and they go on with."""
    p1, p2, p3 = all_on_one(cluster)
    p1.answer(p1.put("a", "before"))
    for host in (p2, p3):
        host.reach(2)
        host.log.deaf = True
    kept = len(cluster.stream.records)
    last = p1.answer(p1.put("a", "acknowledged")).revision
    cluster.stop("p1")
    cluster.stream.forget(kept)
    cluster.stream.cut()
    p2.log.reread("a test")
    p3.log.reread("a test")
    if not isinstance(said := forced(p2), Progress):
        assert isinstance(said, Behind), said
        assert isinstance(forced(p2), Progress), "as it says"
    newest = p2.answer(p2.put("b")).revision
    assert p3.reach(newest).digest == p2.engine.state.digest
    assert (p2.value("a"), last) == ("acknowledged", 3)


def forced(host: Host) -> Result:
    """What became of a promotion by force."""
    ticket = host.engine.ticket()
    host.engine.barrier(ticket, wait_s=PATIENCE_S, promote=True, force=True)
    return host.result(ticket)
