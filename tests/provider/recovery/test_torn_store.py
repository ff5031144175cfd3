"""A store, or one record in it, that is torn: it is never believed, and mended from another member."""

from collections.abc import Callable
from pathlib import Path

import pytest

from provider.core.commands import PutSetting
from provider.recovery.known import Known, write_known
from provider.settings import ApiSettings, BrokerSettings, ProviderSettings
from provider.starting import opened
from provider.store import HistoryDamaged, StoreCorrupt
from shared.errors import Refused
from tests.support.recovering import NAMES, Cluster, all_started
from tests.support.stores import execute


def settings(cluster: Cluster, name: str) -> ProviderSettings:
    return ProviderSettings(
        name=name,
        url=f"https://{name}:1",
        data_dir=cluster.data_dir(name),
        store_url=f"sqlite:///{cluster.directory / f'{name}.db'}",
        broker=BrokerSettings(endpoints=("amqps://x:1",), username="x"),
        api=ApiSettings(listen=":1"),
    )


def overwritten(path: Path) -> None:
    path.write_bytes(b"no database at all" * 1000)


def a_row_lost(path: Path) -> None:
    execute(f"sqlite:///{path}", "DELETE FROM documents WHERE id LIKE 'user.%'")


def page_torn(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 4096)


@pytest.mark.parametrize("tear", [overwritten, a_row_lost, page_torn, Path.unlink])
def test_a_torn_store_is_set_aside_and_made_anew_from_another_member(
    cluster: Cluster, tear: Callable[[Path], object]
) -> None:
    p1, p2, p3 = all_started(cluster)
    answer = p1.answer(p1.submit(PutSetting("user.a", "x")))
    p2.reach(answer.revision)
    p3.reach(answer.revision)
    cluster.stop("p3")
    p1.answer(p1.put("a", "y"))
    path = cluster.directory / "p3.db"
    tear(path)
    write_known(cluster.data_dir("p3"), Known("a cluster", {name: f"https://{name}:1" for name in NAMES}))
    store, (state, position) = opened(f"sqlite:///{path}", settings(cluster, "p3"), cluster)
    assert state.digest == p1.engine.state.digest
    assert position is not None
    store.close()
    assert any(cluster.directory.glob("p3.db.torn-*")) == (tear is not Path.unlink)
    p3 = cluster.start("p3").caught_up()
    assert p3.value("a") == "y"
    p3.until(lambda: p3.store.oldest_history() == 2, what="it has no history")


def test_a_torn_store_is_not_touched_before_somebody_gives_another_state(cluster: Cluster) -> None:
    """Others may share it, and run on with what they have in memory; or start later."""
    path = cluster.directory / "p1.db"
    overwritten(path)
    write_known(cluster.data_dir("p1"), Known("a cluster", {name: f"https://{name}:1" for name in NAMES}))
    with pytest.raises(Refused, match="start another member first"):
        opened(f"sqlite:///{path}", settings(cluster, "p1"), cluster, patience_s=0.0)
    assert path.read_bytes().startswith(b"no database")


def test_a_torn_store_of_a_node_that_knows_no_other_is_left_as_it_is(cluster: Cluster) -> None:
    path = cluster.directory / "p1.db"
    overwritten(path)
    with pytest.raises(StoreCorrupt, match="restore a backup"):
        opened(f"sqlite:///{path}", settings(cluster, "p1"), cluster)
    assert path.exists()


def test_a_node_without_a_store_says_so_where_nobody_answers(cluster: Cluster) -> None:
    write_known(cluster.data_dir("p1"), Known("a cluster", {"p1": "https://p1:1", "p2": "https://p2:1"}))
    path = cluster.directory / "p1.db"
    with pytest.raises(Refused, match="start another member first"):
        opened(f"sqlite:///{path}", settings(cluster, "p1"), cluster, patience_s=0.0)


# ── a history that is damaged ──


FLIPPED = "UPDATE history SET record = replace(record, '\"good\"', '\"bad!\"')"


def test_a_damaged_record_is_not_shown_and_is_taken_from_another_member(cluster: Cluster) -> None:
    p1, p2, p3 = all_started(cluster)
    revision = p1.answer(p1.put("a", "good")).revision
    for host in (p2, p3):
        host.reach(revision)
    rows = p2.store.history(0, 10)
    execute(p2.url, FLIPPED)
    with pytest.raises(HistoryDamaged):
        p2.store.history(0, 10)
    p2.until(lambda: p2.store.damaged is None, what="it is not mended")
    assert p2.store.history(0, 10) == rows


def test_a_damaged_record_is_never_put_back_into_the_log(cluster: Cluster) -> None:
    """Nobody but p1 has it, and the brokers have lost the log."""
    p1, *_ = all_started(cluster)
    p1.answer(p1.put("a", "good"))
    p1.answer(p1.put("b", "kept"))
    for name in NAMES:
        cluster.stop(name)
    cluster.stream.forget(0)
    execute(p1.url, FLIPPED)
    p1 = cluster.start("p1")
    p1.until(lambda: p1.engine.health.connected and p1.engine.reading.compares is None, what="it compares for ever")
    last = p1.engine.state.revision
    for name in ("p2", "p3"):
        host = cluster.start(name)
        assert host.reach(last).digest == p1.engine.state.digest
    assert not any(b"bad!" in record for record in cluster.stream.records)
    assert p1.answer(p1.put("c", "on")).revision == last + 1
