"""A node takes the state and the history of another one."""

import json
from collections.abc import Iterator, Mapping

import pytest

from provider.client import Broken
from provider.core.entries import Change, decode
from provider.core.replica import Progress
from provider.core.state import State
from provider.core.vouching import Word
from provider.log.port import Position
from provider.recovery.bygone import MARKER, want_history
from provider.recovery.members import Standing, resumed
from provider.recovery.recovery import donor
from provider.snapshot import read_snapshot, write_snapshot
from provider.store import Store
from shared.errors import StaleRevision
from tests.support.engines import PATIENCE_S
from tests.support.recovering import Cluster, all_started
from tests.support.stores import execute


def test_who_has_lost_the_log_takes_the_state_and_the_history_of_another(cluster: Cluster) -> None:
    p1, p2, p3 = all_started(cluster)
    p1.answer(p1.put("a", 0))
    p2.reach(2)
    p3.reach(2)
    cluster.stop("p3")
    for number in range(5):
        p1.answer(p1.put("a", number))
    p2.reach(7)
    cluster.stream.truncate(cluster.stream.next - 1)
    p3 = cluster.start("p3")
    p3.until(lambda: p3.engine.state.revision == 7, what="it does not follow")
    p3.until(lambda: p3.store.oldest_history() == 2, what="it has no history")
    assert p3.engine.health.diverged is None
    assert p3.engine.state.digest == p1.engine.state.digest
    assert cluster.fetched == 1
    assert not (cluster.data_dir("p3") / "set-aside").exists(), "the others have all that it had"
    revision = p1.answer(p1.put("a", "on")).revision
    assert p3.reach(revision).digest == p1.engine.state.digest


def test_a_node_that_ended_while_it_fetched_the_history_goes_on_with_it(cluster: Cluster) -> None:
    p1, p2, p3 = all_started(cluster)
    for number in range(5):
        last = p1.answer(p1.put("a", number)).revision
    state, position = p3.reach(last), p1.engine.snapshot()[1]
    p2.reach(last)
    cluster.stop("p3")
    store = Store(p3.url)
    store.seed(state, position)
    store.add_history(p1.store.history(last - 2, 2))
    store.close()
    want_history(cluster.data_dir("p3"))
    p3 = cluster.start("p3")
    p3.until(lambda: p3.store.oldest_history() == 2, what="it does not go on")
    p3.until(lambda: not (cluster.data_dir("p3") / MARKER).exists(), what="it still wants it")


def test_who_has_lost_the_log_and_then_its_tables_takes_the_state_of_another_all_the_same(cluster: Cluster) -> None:
    p1, p2, p3 = all_started(cluster)
    p2.reach(p1.answer(p1.put("a", 0)).revision)
    cluster.stop("p3")
    p2.reach(p1.answer(p1.put("a", 1)).revision)
    cluster.stream.truncate(cluster.stream.next - 1)
    for name in ("p1", "p2"):
        cluster.stop(name)
    p3 = cluster.start("p3")
    p3.until(lambda: p3.engine.health.diverged is not None, what="it does not see that it cannot follow")
    execute(p3.url, "DROP TABLE meta", "DROP TABLE documents", "DROP TABLE history")
    p1 = cluster.start("p1")
    cluster.start("p2")
    p3.until(lambda: p3.engine.health.diverged is None, what="it does not follow")
    revision = p1.answer(p1.put("a", 2)).revision
    assert p3.reach(revision).digest == p1.engine.state.digest


def test_who_reads_on_over_a_hole_that_others_do_not_see_takes_a_snapshot(cluster: Cluster) -> None:
    p1, p2, p3 = all_started(cluster)
    p1.answer(p1.put("a", 0))
    p2.reach(2)
    p3.reach(2)
    p3.log.deaf = True
    hidden = cluster.stream.next
    p1.answer(p1.put("a", 1))
    p2.reach(3)
    with cluster.stream.lock:  # its broker's replica has lost what the others have
        cluster.stream.records[hidden] = b"{}"
    p3.log.reread("a test")
    revision = p1.answer(p1.put("a", 2)).revision
    assert p3.reach(revision).digest == p2.reach(revision).digest
    assert p3.engine.gaps == 0


@pytest.mark.parametrize("truncated", [False, True])
def test_what_only_a_given_up_node_had_is_kept_in_a_file(cluster: Cluster, truncated: bool) -> None:
    """Also where the log does not show it any more: retention has removed that part, or nobody can tell."""
    p1, p2, _ = all_started(cluster)
    p1.answer(p1.put("a", 1))
    p2.reach(2)
    cluster.up["p3"].reach(2)
    cluster.stop("p2")
    cluster.stop("p3")
    kept = len(cluster.stream.records)
    lost = p1.answer(p1.put("a", "lost")).revision
    cluster.stop("p1")
    cluster.stream.forget(kept)
    p2 = cluster.start("p2")
    ticket = p2.engine.ticket()
    p2.engine.barrier(ticket, wait_s=PATIENCE_S, promote=True, force=True)
    assert isinstance(p2.result(ticket), Progress)
    cluster.start("p3")
    revision = p2.answer(p2.put("a", "new")).revision
    if truncated:
        kinds = [decode(data).type for data in cluster.stream.records]
        cluster.stream.truncate(max(at for at, kind in enumerate(kinds) if kind == "entry"))
    p1 = cluster.start("p1")
    assert p1.reach(revision).digest == p2.engine.state.digest
    (file,) = (cluster.data_dir("p1") / "set-aside").iterdir()
    records = [json.loads(line) for line in file.read_text().splitlines()]
    assert [record["revision"] for record in records] == [lost]
    assert "lost" in file.read_text()
    assert file.stat().st_mode & 0o077 == 0


# ── which member's state ──


def standing(revision: int, *, primary: bool = False, healthy: bool = True, epoch: int = 1, log: str = "g") -> Standing:
    return Standing(Word(log, epoch, revision), "c", healthy, primary)


@pytest.mark.parametrize(
    ("standings", "chosen"),
    [
        ({"p2": standing(5), "p3": standing(9)}, "p3"),
        ({"p2": standing(5, primary=True), "p3": standing(9)}, "p2"),
        ({"p2": standing(5, primary=True, healthy=False), "p3": standing(9)}, "p3"),
        ({"p2": standing(5), "p3": standing(9, epoch=7, log="h")}, "p3"),
        ({"p2": standing(5), "p3": standing(9, epoch=1, log="f")}, "p2"),
        ({"p2": None, "p3": standing(9, healthy=False)}, None),
    ],
)
def test_whose_state_is_taken(standings: Mapping[str, Standing | None], chosen: str | None) -> None:
    assert donor(Word("g", 1, 7, lost=True), "c", standings) == chosen
    assert donor(Word("g", 1, 7, lost=True), "another", standings) is None


# ── a snapshot that breaks off ──


class Breaking:
    """A client whose connections break after so many lines; the member has another state after `forgets` of them."""

    def __init__(self, state: State, after: int, forgets: int = 99) -> None:
        self.lines_of, self.after, self.forgets = list(write_snapshot(state, Position(3, "d"))), after, forgets
        self.asked: list[str] = []

    def lines(self, _method: str, path: str, **_: object) -> Iterator[str]:
        self.asked.append(path)
        first = int(path.partition("from=")[2] or 0)
        if len(self.asked) > self.forgets:
            raise StaleRevision("gone")
        for number, line in enumerate(self.lines_of[first:]):
            if number == self.after:
                raise Broken("cut")
            yield line


def filled() -> State:
    changes = tuple(Change(kind="setting", id=f"user.{n}", spec={"value": n}) for n in range(20))
    return State.genesis(generation="g", primary="p1", now=1, changes=changes)


def test_a_snapshot_goes_on_where_it_broke_off() -> None:
    client = Breaking(filled(), after=9)
    state, position = read_snapshot(resumed(client))  # type: ignore[arg-type]
    assert (state.digest, position) == (filled().digest, Position(3, "d"))
    assert len(client.asked) == 3
    assert client.asked[1] == f"/snapshot?digest={state.digest}&from=9"


def test_one_whose_state_is_gone_meanwhile_is_not_patched_together() -> None:
    with pytest.raises(StaleRevision):
        read_snapshot(resumed(Breaking(filled(), after=9, forgets=1)))  # type: ignore[arg-type]
