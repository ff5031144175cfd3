"""A node that asks the others, and takes the state of one: real engines and stores, a log in memory."""

import json
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from immutables import Map

from provider.client import Broken
from provider.core.anew import done
from provider.core.commands import BEGUN_ANEW, CLUSTER_ID, PutSetting, delete
from provider.core.entries import Change, Entry, decode, encode
from provider.core.replica import Asker, Progress
from provider.core.state import State
from provider.core.vouching import CLAIM_PATIENCE_S, Verdict, Word, newer_log
from provider.fleet.view import NodeSeen, View
from provider.log.port import Position
from provider.recovery.bygone import MARKER, want_history
from provider.recovery.known import Known, known_members, write_known
from provider.recovery.members import Standing, resumed
from provider.recovery.recovery import Recovery, donor
from provider.settings import ApiSettings, BrokerSettings, ProviderSettings
from provider.snapshot import read_snapshot, write_snapshot
from provider.starting import opened
from provider.store import HistoryDamaged, HistoryRow, Store, StoreCorrupt, StoreUnavailable
from shared.errors import BellwetherError, LogUnavailable, OutcomeUnknown, Refused, StaleRevision
from shared.messages import NodePulse
from tests.support.engines import PATIENCE_S, Host
from tests.support.history import GENERATION, START_MS
from tests.support.memory_log import MemoryLogStream

NAMES = ("p1", "p2", "p3")


def founded() -> State:
    nodes = [Change(kind="node", id=n, spec={"url": f"https://{n}:1", "version": "1", "endpoints": []}) for n in NAMES]
    cluster = Change(kind="setting", id=CLUSTER_ID, spec={"value": "a cluster"})
    return State.genesis(generation=GENERATION, primary="p1", now=START_MS, changes=(*nodes, cluster))


class Cluster:
    """Implements `Members` for all nodes in this process: those that are up answer."""

    def __init__(self, directory: Path) -> None:
        self.stream, self.directory = MemoryLogStream(), directory
        self.up: dict[str, Host] = {}
        self.recoveries: dict[str, Recovery] = {}
        self.fetched = 0
        self.disowned: list[str] = []
        """What nodes were told that are members no more."""
        self.disowns: dict[str, str] = {}
        """Members that say so, and their words."""
        self.heard: Map[str, NodeSeen] = Map()

    def start(self, name: str, *, seed: State | None = None, database: str | None = None) -> Host:
        host = Host(name, self.stream, self.directory, seed=seed, database=database)
        recovery = Recovery(
            node=name,
            engine=host.engine,
            store=host.store,
            data_dir=self.data_dir(name),
            members=self,
            view=self.view,
            on_disowned=self.disowned.append,
        )
        self.up[name], self.recoveries[name] = host, recovery
        recovery.start()
        return host.start()

    def data_dir(self, name: str) -> Path:
        found = self.directory / name
        found.mkdir(exist_ok=True)
        return found

    def stop(self, name: str) -> None:
        self.recoveries.pop(name).stop()
        self.up.pop(name).stop()

    def standings(self, urls: Mapping[str, str], patience_s: float = 1.0) -> dict[str, Standing | None]:
        return {name: self._standing(name) for name in urls}

    def _standing(self, name: str) -> Standing | None:
        host = self.up.get(name)
        if name in self.disowns:
            return Standing(Word("", 0, 0), "", healthy=False, primary=False, disowns=self.disowns[name])
        if host is None:
            return None
        reading, health = host.engine.reading, host.engine.health
        primary = reading.course.replica.state.primary
        return Standing(reading.word, "a cluster", health.connected and health.caught_up, primary == name)

    def view(self) -> View:
        """What members say each second, up to their end."""
        for name, host in self.up.items():
            state, health = host.engine.state, host.engine.health
            role: Literal["primary", "standby"] = "primary" if state.primary == name else "standby"
            how = "active" if health.connected and health.caught_up and health.asking is None else "syncing"
            pulse = NodePulse(role=role, state=how, version="1", revision=state.revision, digest="", started="")
            self.heard = self.heard.set(name, NodeSeen(0, time.monotonic(), pulse, state.epoch))
        return View(nodes=self.heard)

    def snapshot(self, url: str) -> tuple[State, Position | None]:
        self.fetched += 1
        return self._at(url).engine.snapshot()

    def history(self, url: str, until: int) -> Iterator[str]:
        rows = self._at(url).store.history_back(until + 1, 0, 10_000)
        yield from (json.dumps([row.revision, row.epoch, row.at, row.record]) for row in rows)
        yield json.dumps(["end", len(rows)])

    def _at(self, url: str) -> Host:
        return self.up[url.removeprefix("https://").partition(":")[0]]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    found = Cluster(tmp_path)
    yield found
    for name in list(found.up):
        found.stop(name)


def all_started(cluster: Cluster) -> list[Host]:
    return [cluster.start(name, seed=founded()) for name in NAMES]


def test_a_primary_writes_when_all_have_answered(cluster: Cluster) -> None:
    p1, p2, p3 = all_started(cluster)
    assert p1.answer(p1.put("a")).revision == 2
    assert p2.reach(2).digest == p3.reach(2).digest


def test_a_deposed_primary_that_the_log_tells_nothing_of_it_waits_for_who_knows(cluster: Cluster) -> None:
    """p2 took over and committed; then the brokers lost all of it, and p1, who was down, has nothing to compare."""
    p1, p2, _ = all_started(cluster)
    p1.answer(p1.put("a", 1))
    hears_the_primary(p2)
    cluster.stop("p1")
    kept = len(cluster.stream.records)
    p2.promoted()
    newest = p2.answer(p2.put("a", 2)).revision
    cluster.stream.forget(kept)
    cluster.stop("p2")
    cluster.stop("p3")
    p2 = cluster.start("p2")
    p1 = cluster.start("p1")
    ticket = p1.put("a", 3, again="key")
    assert not isinstance(p1.result(ticket), Progress)
    assert p1.reach(newest).primary == "p2"
    assert p2.value("a") == p1.value("a") == 2


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


def hears_the_primary(*hosts: Host) -> None:
    """They know that the log, as they read it, leads to what the primary has."""
    for host in hosts:
        host.until(lambda host=host: host.engine.reading.word.whole, what="it does not hear the primary")  # type: ignore[misc]


def cut_off_while_the_primary_goes_on(cluster: Cluster) -> tuple[Host, int]:
    """p2 and p3 hear nothing more; p1 goes on, and acknowledges. Then brokers lose the end of the log, and p1's host
    its power. p2, which has read so far as the log goes now; the last revision that was acknowledged."""
    p1, p2, p3 = all_started(cluster)
    p1.answer(p1.put("a", "before"))
    hears_the_primary(p2, p3)
    p2.log.deaf = p3.log.deaf = True
    kept = len(cluster.stream.records)
    newest = p1.answer(p1.put("a", "acknowledged")).revision
    cluster.stop("p1")
    cluster.stream.forget(kept)
    p2.log.deaf = p3.log.deaf = False
    cluster.stream.cut()
    return p2, newest


def test_a_standby_that_was_cut_off_is_not_promoted_over_what_the_primary_acknowledged_meanwhile(
    cluster: Cluster,
) -> None:
    p2, newest = cut_off_while_the_primary_goes_on(cluster)
    refused = p2.result(p2.barrier(promote=True))
    assert isinstance(refused, Refused), refused
    assert "Start p1" in refused.detail
    p1 = cluster.start("p1")
    assert p2.promoted().revision == newest + 1
    assert p2.value("a") == "acknowledged"
    assert p1.reach(newest + 1).primary == "p2"


def test_where_the_log_was_followed_all_the_time_a_dead_primary_is_succeeded_at_once(cluster: Cluster) -> None:
    p1, p2, _ = all_started(cluster)
    last = p1.answer(p1.put("a")).revision
    hears_the_primary(p2)
    cluster.stop("p1")
    began_s = time.monotonic()
    assert p2.promoted().revision == last + 1
    assert time.monotonic() - began_s < CLAIM_PATIENCE_S


def test_a_standby_that_was_started_anew_meanwhile_needs_one_that_was_not(cluster: Cluster) -> None:
    p1, _, p3 = all_started(cluster)
    last = p1.answer(p1.put("a")).revision
    hears_the_primary(p3)
    cluster.stop("p1")
    cluster.stop("p2")
    p2 = cluster.start("p2")
    assert cluster.recoveries["p2"].foreseen().verdict is Verdict.GO
    assert p2.promoted().revision == last + 1


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


# ── nodes that share a database ──────────────────────────────────────────────────────────────────────────────────────


def all_on_one(cluster: Cluster) -> list[Host]:
    return [cluster.start(name, seed=founded() if name == "p1" else None, database="one") for name in NAMES]


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
    ticket = p2.engine.ticket()
    p2.engine.barrier(ticket, wait_s=PATIENCE_S, promote=True, force=True)
    assert isinstance(p2.result(ticket), Progress)
    newest = p2.answer(p2.put("b")).revision
    assert p3.reach(newest).digest == p2.engine.state.digest
    assert p2.value("a") == p3.value("a") == "acknowledged"


def change(host: Host, *statements: str) -> None:
    """What somebody with a client could do to the database behind our back."""
    with sqlite3.connect(host.url.removeprefix("sqlite:///"), timeout=PATIENCE_S) as connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


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
    change(p1, *statements)
    last = p1.answer(p1.put("a", 2)).revision
    assert p2.reach(last).digest == p3.reach(last).digest == p1.store.load()[0].digest
    change(p1, *statements)
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


# ── a history that is damaged ────────────────────────────────────────────────────────────────────────────────────────

FLIPPED = "UPDATE history SET record = replace(record, '\"good\"', '\"bad!\"')"


def test_a_damaged_record_is_not_shown_and_is_taken_from_another_member(cluster: Cluster) -> None:
    p1, p2, p3 = all_started(cluster)
    revision = p1.answer(p1.put("a", "good")).revision
    for host in (p2, p3):
        host.reach(revision)
    rows = p2.store.history(0, 10)
    change(p2, FLIPPED)
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
    change(p1, FLIPPED)
    p1 = cluster.start("p1")
    p1.until(lambda: p1.engine.health.connected and p1.engine.reading.compares is None, what="it compares for ever")
    last = p1.engine.state.revision
    for name in ("p2", "p3"):
        host = cluster.start(name)
        assert host.reach(last).digest == p1.engine.state.digest
    assert not any(b"bad!" in record for record in cluster.stream.records)
    assert p1.answer(p1.put("c", "on")).revision == last + 1


# ── a log that was begun by force ──


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


# ── which member's state ─────────────────────────────────────────────────────────────────────────────────────────────


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


# ── a snapshot that breaks off ───────────────────────────────────────────────────────────────────────────────────────


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


# ── a store that is torn ─────────────────────────────────────────────────────────────────────────────────────────────


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
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM documents WHERE id LIKE 'user.%'")
    connection.close()


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


def test_a_running_node_notes_who_the_members_are(cluster: Cluster) -> None:
    p1, *_ = all_started(cluster)
    p1.answer(p1.put("a"))
    p1.until(lambda: known_members(cluster.data_dir("p1")) is not None, what="it notes nothing")
    known = known_members(cluster.data_dir("p1"))
    assert known is not None
    assert set(known.urls) == set(NAMES)
    assert known.cluster == "a cluster"
