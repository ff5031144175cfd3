"""A log that a survivor began by force: who follows it, and who is told that it was given up."""

from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from typing import Any

import pytest

from provider.core.anew import done
from provider.core.commands import BEGUN_ANEW, delete
from provider.core.entries import Change, Entry, encode
from provider.core.replica import Asker
from provider.core.state import State
from provider.core.vouching import Word, newer_log
from provider.store import HistoryRow, Store, StoreUnavailable
from shared.errors import BellwetherError, LogUnavailable, OutcomeUnknown, Refused
from tests.support.engines import PATIENCE_S
from tests.support.recovering import NAMES, Cluster, all_on_one, all_started, founded


def begun(state: State, name: str, kept: Sequence[str]) -> tuple[State, HistoryRow]:
    """What `provider.core.anew` makes of it, as far as it matters here."""
    anew = replace(state, generation="another", epoch=state.epoch + 1000, primary=name, revision=state.revision + 1000)
    changes = [delete("node", one) for one in NAMES if one not in kept]
    value = {
        "at": 0,
        "by": name,
        "generation": "another",
        "revision": anew.revision + 1,
        "kept": list(kept),
        "lost": [],
    }
    known = {"from": {"generation": state.generation, "epoch": state.epoch, "revision": state.revision}}
    noted = Change(kind="setting", id=BEGUN_ANEW, spec={"value": value | known})
    done_ = done(anew, "failover --force", (*changes, noted), state.now, Asker("x", None))
    assert isinstance(done_.record, Entry)
    after = done_.state
    return after, HistoryRow(after.revision, after.epoch, after.now, encode(done_.record).decode())


def test_a_survivor_begins_a_log_of_its_own_and_keeps_its_history(cluster: Cluster) -> None:
    p1, p2, p3 = all_started(cluster)
    p1.answer(p1.put("a", 1))
    before = p3.reach(2)
    p2.reach(2)
    cluster.stop("p1")
    cluster.stop("p2")
    state, first = begun(before, "p3", ["p3"])
    p3.engine.begin_anew(before, state, first).result(PATIENCE_S)
    revision = p3.answer(p3.put("a", 2)).revision
    assert revision == state.revision + 1
    assert [row.revision for row in p3.store.history(0, 10)] == [2, state.revision, revision]
    cluster.stop("p3")
    again = cluster.start("p3")
    assert again.value("a") == 2
    cluster.stream.forget(0)  # and the brokers lose all of the new log
    again.log.reread("a test")
    assert again.answer(again.put("a", 3)).revision > revision


class Deaf(Store):
    """Its answers to `seed` are lost: after it has done so, or before; `silent`: then it says nothing at all."""

    arrives = silent = False

    def seed(self, *arguments: Any, **named: Any) -> None:
        if self.arrives:
            super().seed(*arguments, **named)
        raise StoreUnavailable("the connection was lost")

    def reached(self, *, settled: bool = False) -> tuple[str, int, int] | None:
        if self.silent and settled:
            raise StoreUnavailable("nobody answers")
        return super().reached(settled=settled)


@pytest.mark.parametrize(
    ("arrives", "silent", "raised"),
    [(True, False, None), (False, False, StoreUnavailable), (True, True, OutcomeUnknown)],
)
def test_who_begins_a_log_is_told_whether_it_was_begun(
    cluster: Cluster, arrives: bool, silent: bool, raised: type[Exception] | None
) -> None:
    p1 = cluster.start("p1", seed=founded())
    before = p1.engine.state
    state, first = begun(before, "p1", ["p1"])
    with closing(Deaf(p1.url)) as store:
        store.arrives, store.silent = arrives, silent
        p1.engine._durable.store = store
        with pytest.raises(raised) if raised is not None else nullcontext():
            p1.engine.begin_anew(before, state, first).result(PATIENCE_S)
        reached = p1.store.reached()
        assert reached is not None
        assert (reached[0] == state.generation) == arrives
        p1.engine._durable.store = p1.store
    if arrives:
        p1.until(lambda: p1.engine.state.generation == state.generation, what="it does not follow what it has begun")


def test_what_has_read_on_meanwhile_begins_nothing(cluster: Cluster) -> None:
    p1, *_ = all_started(cluster)
    before = p1.engine.state
    p1.answer(p1.put("a", 1))
    with pytest.raises(Refused, match="it is not lost"):
        p1.engine.begin_anew(before, *begun(before, "p1", ["p1"])).result(PATIENCE_S)
    p1.answer(p1.put("a", 2))


@pytest.mark.parametrize("another_log", [False, True])
def test_nothing_is_begun_over_what_others_have_put_into_the_same_database(cluster: Cluster, another_log: bool) -> None:
    """A write that this node has not heard of yet; or two survivors who do not reach each other."""
    p1, p2, p3 = all_on_one(cluster)
    p1.answer(p1.put("a", 1))
    before = p3.reach(2)
    p2.reach(2)
    cluster.recoveries["p3"].stop()
    p3.log.deaf = True
    if another_log:
        cluster.stop("p1")
        p2.engine.begin_anew(before, *begun(before, "p2", ["p2"])).result(PATIENCE_S)
    writer = p2 if another_log else p1
    last = writer.answer(writer.put("a", 2)).revision
    state, first = begun(before, "p3", ["p3"])
    with pytest.raises(Refused, match="more than revision 2 of epoch 1: nothing was changed"):
        p3.engine.begin_anew(before, replace(state, epoch=state.epoch + 1), first).result(PATIENCE_S)
    assert writer.answer(writer.put("a", 3)).revision == last + 1
    assert writer.store.load()[0].digest == writer.engine.state.digest


def test_a_primary_that_was_given_up_is_told_so_before_it_writes(cluster: Cluster) -> None:
    p1, p2, p3 = all_started(cluster)
    p1.answer(p1.put("a", 1))
    before = p3.reach(2)
    p2.reach(2)
    for name in NAMES:
        cluster.stop(name)
    cluster.start("p3").engine.begin_anew(before, *begun(before, "p3", ["p3"])).result(PATIENCE_S)
    cluster.disowns["p3"] = "p3 went on without p1"
    p1 = cluster.start("p1")
    result = p1.result(p1.put("a", "older", wait_s=3.0))
    assert isinstance(result, LogUnavailable), result
    p1.until(lambda: bool(cluster.disowned), what="nobody is told")
    assert p1.engine.reading.lost == "p3 went on without p1"


def test_a_member_that_was_kept_takes_over_the_new_log_before_it_could_write_to_the_old(cluster: Cluster) -> None:
    p1, p2, p3 = all_started(cluster)
    p1.answer(p1.put("a", 1))
    before = p3.reach(2)
    p2.reach(2)
    cluster.stop("p1")
    p3.engine.begin_anew(before, *begun(before, "p3", ["p2", "p3"])).result(PATIENCE_S)
    refused = p2.result(p2.barrier(promote=True))
    assert isinstance(refused, BellwetherError)
    revision = p3.answer(p3.put("a", 2)).revision
    assert p2.engine.state.generation == before.generation
    p2.engine.lose("p3 follows another log")
    assert p2.reach(revision).digest == p3.reach(revision).digest


def test_of_two_that_begin_in_the_same_second_all_hold_the_same_for_later() -> None:
    one, other = Word("a", 7, 1), Word("b", 7, 1)
    assert (newer_log(one, other), newer_log(other, one)) == (False, True)
    assert not newer_log(Word("", 0, 0), one)
