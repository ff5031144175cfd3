"""The engine, with its real store and a log in memory that breaks at the asking."""

import random
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from provider.core.commands import DeleteSetting
from provider.core.entries import Claim, Entry, decode, encode
from provider.core.replica import Ask, NotPrimary, Progress
from provider.core.state import Answer
from provider.store import Store
from provider.store.errors import StoreUnavailable
from shared.errors import BellwetherError, DiskFull, LogUnavailable, NotFound, OutcomeUnknown, Refused, Unavailable
from tests.support.disks import fill, small_disk
from tests.support.engines import PATIENCE_S, Host, genesis
from tests.support.memory_log import MemoryLogStream

StartHost = Callable[..., Host]


@pytest.fixture
def stream() -> MemoryLogStream:
    return MemoryLogStream()


@pytest.fixture
def start(stream: MemoryLogStream, tmp_path: Path) -> Iterator[StartHost]:
    """`start("p1")` on a fresh store, in a cluster of three; `start("p1", fresh=False)` on what is there."""
    hosts: list[Host] = []

    def begin(name: str, *, fresh: bool = True, directory: Path = tmp_path, **options: Any) -> Host:
        seed = genesis("p1", "p2", "p3") if fresh else None
        hosts.append(Host(name, stream, directory, seed=seed, **options))
        return hosts[-1].start()

    yield begin
    for host in hosts:
        host.log.open()
        host.stop()


@contextmanager
def locked(host: Host) -> Iterator[None]:
    """Somebody else holds the store's lock: it can be read, not written."""
    other = sqlite3.connect(host.url.removeprefix("sqlite:///"), isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")
    finally:
        other.close()


def entries(stream: MemoryLogStream) -> list[Entry]:
    records = [decode(data) for data in stream.records]
    return [record for record in records if isinstance(record, Entry)]


def accepted_keys(host: Host) -> list[str]:
    """The settings that were changed, in order, one for each change in an accepted entry."""
    return [
        change.id
        for accepted in host.applied
        if isinstance(accepted.record, Entry)
        for commit in accepted.record.commits
        for change in commit.changes
    ]


# ── commits ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_whoever_is_answered_reads_the_write_and_so_does_who_opens_the_store(start: StartHost) -> None:
    p1 = start("p1")
    ticket = p1.put("a", "x")
    answer = p1.answer(ticket)
    assert (answer.status, answer.revision) == (201, 2)
    assert p1.durable[ticket] >= 2
    assert p1.value("a") == "x"
    other = Store(p1.url)
    assert other.load()[0].digest == p1.engine.state.digest
    other.close()


def test_a_refusal_is_told_and_changes_nothing(start: StartHost) -> None:
    p1 = start("p1")
    assert isinstance(p1.result(p1.submit(DeleteSetting("user.absent"))), NotFound)
    assert p1.engine.state.revision == 1


def test_what_comes_together_shares_an_entry(start: StartHost, stream: MemoryLogStream) -> None:
    p1 = start("p1").caught_up()
    p1.log.shut()
    first = p1.put("first")
    p1.until(lambda: p1.log.appended >= 3, what="the first entry does not leave")
    tickets = [p1.put(f"k{number}") for number in range(100)]
    p1.log.open()
    assert p1.answer(first).revision == 2
    assert {p1.answer(ticket).revision for ticket in tickets} == {3}
    assert [len(entry.commits) for entry in entries(stream)] == [1, 100]


def test_a_key_gets_its_first_answer_again_also_after_a_restart(start: StartHost) -> None:
    p1 = start("p1")
    first = p1.answer(p1.put("a", 1, again="key"))
    p1.answer(p1.put("a", 2))
    assert p1.answer(p1.put("a", 1, again="key")) == first
    p1.stop()
    p1 = start("p1", fresh=False)
    assert p1.answer(p1.put("a", 1, again="key")) == first
    assert p1.value("a") == 2


def test_a_standby_says_where_to_go(start: StartHost) -> None:
    p2 = start("p2")
    assert p2.result(p2.put("a")) == NotPrimary("p1")


# ── a log that breaks ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("fault", ["lose", "lose_confirms", "duplicate"])
def test_an_append_that_ends_badly_is_done_once(start: StartHost, stream: MemoryLogStream, fault: str) -> None:
    p1 = start("p1").caught_up()
    getattr(stream, fault)(1)
    assert p1.answer(p1.put("a")).revision == 2
    assert p1.answer(p1.put("b")).revision == 3
    assert accepted_keys(p1) == ["user.a", "user.b"]


def test_nothing_is_lost_and_nothing_done_twice_while_the_log_breaks_all_the_time(
    start: StartHost, stream: MemoryLogStream
) -> None:
    """Invariant: what was answered with success stands in the history once, at the revision that was answered; and so
    it does on a standby, and for whoever starts anew."""
    p1, p2 = start("p1"), start("p2")
    chance = random.Random(4711)
    over = threading.Event()

    def trouble() -> None:
        while not over.wait(chance.uniform(0.0, 0.01)):
            match chance.randrange(4):
                case 0:
                    stream.cut()
                case 1:
                    stream.lose(2)
                case 2:
                    stream.lose_confirms(2)
                case _:
                    stream.duplicate(2)

    troublemaker = threading.Thread(target=trouble)
    troublemaker.start()
    answers: dict[str, Answer] = {}
    for number in range(60):
        tickets = {f"{number}.{writer}": p1.put(f"{number}.{writer}", number) for writer in range(8)}
        answers |= {key: p1.answer(ticket) for key, ticket in tickets.items()}
    over.set()
    troublemaker.join()
    p1.caught_up()
    last = p1.engine.state
    assert sorted(accepted_keys(p1)) == sorted(f"user.{key}" for key in answers)
    for key, answer in answers.items():
        document = last.get("setting", f"user.{key}")
        assert document is not None
        assert document.revision == answer.revision
    assert p2.reach(last.revision).digest == last.digest
    p1.stop()
    assert start("p1", fresh=False).caught_up().engine.state.digest == last.digest


def test_stopped_and_started_at_any_point_it_goes_on(start: StartHost, stream: MemoryLogStream) -> None:
    """Invariant: what was answered is there after each restart; what was not is there once or not at all."""
    p1, p2 = start("p1"), start("p2")
    chance = random.Random(42)
    answered: set[str] = set()
    for round_ in range(12):
        tickets = {f"{round_}.{n}": p1.put(f"{round_}.{n}", n) for n in range(20)}
        p1.until_told(chance.randrange(21), list(tickets.values()))
        p1.stop()
        answered |= {key for key, ticket in tickets.items() if p1.told(ticket)}
        p1 = start("p1", fresh=False).caught_up()
        held = p1.engine.state.documents.get("setting")
        kept = set() if held is None else {key.removeprefix("user.") for key in held}
        assert answered <= kept
    p1.answer(p1.put("last"))
    assert p2.reach(p1.engine.state.revision).digest == p1.engine.state.digest
    changed = accepted_keys(p2)
    assert len(changed) == len(set(changed))


def test_what_was_never_sent_is_said_not_to_have_been_done(start: StartHost, stream: MemoryLogStream) -> None:
    p1 = start("p1").caught_up()
    stream.stop()
    p1.until(lambda: not p1.engine.health.connected)
    result = p1.result(p1.put("a", wait_s=0.1))
    assert isinstance(result, LogUnavailable)
    assert "nothing was done" in result.detail
    stream.start()
    assert p1.answer(p1.put("b")).revision == 2
    assert p1.value("a") is None


def test_what_was_sent_and_is_not_confirmed_may_have_been_done(start: StartHost) -> None:
    p1 = start("p1").caught_up()
    p1.log.shut()
    sent, behind = p1.put("a", wait_s=0.2), p1.put("b", wait_s=0.2)
    assert isinstance(p1.result(sent), OutcomeUnknown)
    assert isinstance(p1.result(behind), LogUnavailable)
    p1.log.open()
    assert p1.reach(2).get("setting", "user.a") is not None  # and this time it was
    assert [type(result) for result in p1.results[sent]] == [OutcomeUnknown]
    assert p1.answer(p1.put("c")).revision == 3
    assert p1.value("b") is None


def test_a_log_without_an_end_in_sight_is_said(start: StartHost) -> None:
    p1, p2 = start("p1").caught_up(), start("p2").caught_up()
    p1.log.shut()
    p2.log.shut()
    assert isinstance(p1.result(p1.barrier(wait_s=0.2)), LogUnavailable)
    assert isinstance(p2.result(p2.barrier(wait_s=0.2, promote=True)), LogUnavailable)


def test_a_claim_that_is_not_confirmed_may_yet_win(start: StartHost) -> None:
    start("p1")
    p2 = start("p2").caught_up()
    p2.log.shut()
    before = p2.log.appended
    ticket = p2.barrier(promote=True, wait_s=0.7)
    p2.until(lambda: p2.log.appended > before)
    p2.log.open()
    p2.log.shut()  # the barrier is through, the claim is not
    result = p2.result(ticket)
    assert isinstance(result, OutcomeUnknown)
    assert [type(step) for step in p2.results[ticket]] == [Progress, OutcomeUnknown]
    p2.log.open()
    assert p2.reach(2).primary == "p2"


def test_a_blocked_broker_is_a_full_disk_until_there_is_room(start: StartHost) -> None:
    p1 = start("p1").caught_up()
    p1.log.why_blocked = "low on disk"
    result = p1.result(p1.put("a"))
    assert isinstance(result, DiskFull)
    assert "low on disk" in result.detail
    assert "low on disk" in (p1.engine.health.log_problem or "")
    p1.log.why_blocked = None
    assert p1.answer(p1.put("a")).revision == 2
    assert p1.engine.health.log_problem is None


def test_a_standby_that_its_broker_has_forgotten_reads_anew_by_itself(start: StartHost) -> None:
    p1, p2 = start("p1").caught_up(), start("p2").caught_up()
    p2.log.deaf = True
    revision = p1.answer(p1.put("a")).revision
    assert p2.reach(revision).revision == revision


def test_records_that_are_none_are_counted_and_skipped(start: StartHost, stream: MemoryLogStream) -> None:
    p1, p2 = start("p1").caught_up(), start("p2").caught_up()
    for data in (b"", b"not json", b'{"type": "entry"}', b"\xff\x00", b"[" * 10_000, b'{"type":"barrier","v":9}'):
        stream.append(data)
    assert p1.answer(p1.put("a")).revision == 2
    p1.caught_up()
    p2.caught_up()
    assert p1.engine.health.unreadable == p2.engine.health.unreadable == 6
    assert p2.reach(2).digest == p1.engine.state.digest


# ── a log that is not the one that was read ──────────────────────────────────────────────────────────────────────────


def lose(stream: MemoryLogStream, keep: int, *hosts: Host) -> None:
    """All brokers lose their power: of the log only the first `keep` records are left."""
    stream.stop()
    for host in hosts:
        host.until(lambda host=host: not host.engine.health.connected)  # type: ignore[misc]
    stream.forget(keep)
    stream.start()


def told(stream: MemoryLogStream) -> list[tuple[str, int]]:
    """Id and revision of each entry of the log, each once: what somebody reads who begins now."""
    seen: dict[str, int] = {}
    for entry in entries(stream):
        seen.setdefault(entry.id, entry.seq)
    return list(seen.items())


@pytest.mark.parametrize("keep", [0, 2, 7])
def test_what_the_log_lost_is_put_back_unaltered(start: StartHost, stream: MemoryLogStream, keep: int) -> None:
    p1, p2 = start("p1").caught_up(), start("p2").caught_up()
    answers = [p1.answer(p1.put("a", number)) for number in range(5)]
    p2.reach(answers[-1].revision)
    before = told(stream)
    lose(stream, keep, p1, p2)
    assert p1.answer(p1.put("b")).revision == answers[-1].revision + 1
    assert told(stream)[:5] == before
    assert p2.reach(p1.engine.state.revision).digest == p1.engine.state.digest
    p1.stop()
    again = start("p1", fresh=False)
    stream.append(b"something new")
    assert again.caught_up().engine.state.digest == p2.engine.state.digest
    assert again.engine.health.put_back == 0, "it has noted where it stands in the new log"


def test_a_standby_puts_back_what_it_alone_has(start: StartHost, stream: MemoryLogStream) -> None:
    """The primary, which answered nobody, had not read the record when the brokers lost it."""
    p1, p2 = start("p1").caught_up(), start("p2").caught_up()
    p1.answer(p1.put("a", 1))
    p2.reach(2)
    p1.stop()
    written = Claim(id="c", generation=p2.engine.state.generation, ends=1, node="p2", at=p2.engine.state.now)
    stream.append(encode(written))
    p2.reach(3)
    lose(stream, 2, p2)
    p2.until(lambda: p2.engine.health.put_back > 0)
    p1 = start("p1", fresh=False)
    assert p1.reach(3).primary == "p2"
    assert p2.answer(p2.put("a", 2)).revision == 4
    assert p1.reach(4).digest == p2.engine.state.digest


def test_a_log_lost_as_a_whole_begins_anew_with_what_is_left(start: StartHost, stream: MemoryLogStream) -> None:
    p1 = start("p1").caught_up()
    for number in range(5):
        p1.answer(p1.put("a", number))
    stream.stop()
    p1.until(lambda: not p1.engine.health.connected)
    stream.append(b"later")
    stream.truncate(stream.next)
    stream.start()
    assert p1.answer(p1.put("a", 9)).revision == 7
    assert p1.value("a") == 9


def test_who_is_further_behind_than_the_log_goes_stays_out(start: StartHost, stream: MemoryLogStream) -> None:
    p1, p2 = start("p1").caught_up(), start("p2").caught_up()
    p1.answer(p1.put("a", 0))
    p2.reach(2)
    p2.stop()
    for number in range(5):
        p1.answer(p1.put("a", number))
    stream.truncate(stream.next - 1)
    before = len(stream.records)
    p2 = start("p2", fresh=False)
    p2.until(lambda: p2.engine.health.diverged is not None, what="it does not see it")
    assert "truncated" in (p2.engine.health.diverged or "")
    assert len(stream.records) <= before + 1, "no more than a barrier"
    result = p2.result(p2.put("a", 9))
    assert isinstance(result, LogUnavailable)
    assert p2.value("a") == 0


def test_who_has_something_else_than_the_others_went_on_with_stays_out(
    start: StartHost, stream: MemoryLogStream
) -> None:
    p1, p2 = start("p1").caught_up(), start("p2").caught_up()
    p1.answer(p1.put("a", 0))
    p2.reach(2)
    p2.stop()
    kept = len(stream.records)
    p1.answer(p1.put("a", "lost"))
    p1.stop()
    stream.forget(kept)
    p2 = start("p2", fresh=False)
    p2.promoted()
    p2.answer(p2.put("a", "new"))
    p1 = start("p1", fresh=False)
    p1.until(lambda: p1.engine.health.diverged is not None, what="it does not see it")
    assert "in place of revision 3" in (p1.engine.health.diverged or "")
    assert p1.engine.reading.missing_from == 3


def test_the_state_of_another_member_is_taken_over(start: StartHost, stream: MemoryLogStream) -> None:
    p1, p2 = start("p1").caught_up(), start("p2").caught_up()
    p1.answer(p1.put("gone"))
    p2.reach(2)
    p2.stop()
    p1.answer(p1.submit(DeleteSetting("user.gone")))
    for number in range(5):
        p1.answer(p1.put("a", number))
    stream.truncate(stream.next - 1)
    p2 = start("p2", fresh=False)
    p2.until(lambda: p2.engine.health.diverged is not None, what="it does not see it")
    waits = p2.barrier(promote=True)
    p2.engine.replace(*p1.engine.snapshot()).result(PATIENCE_S)
    assert isinstance(p2.result(waits), LogUnavailable | Progress)
    p2.caught_up()
    assert p2.engine.health.diverged is None
    assert p2.engine.state.digest == p1.engine.state.digest
    assert p2.value("gone") is None
    leapt = next(one for one in p2.applied if one.record.id == "leap")
    assert {d.id for d in leapt.delta.put} == {"user.a"}
    assert leapt.delta.deleted == (("setting", "user.gone"),)
    p1.answer(p1.put("a", "on"))
    assert p2.reach(p1.engine.state.revision).digest == p1.engine.state.digest
    p2.stop()
    assert start("p2", fresh=False).caught_up().value("a") == "on"


def test_who_may_not_write_yet_holds_what_it_is_asked(start: StartHost, stream: MemoryLogStream) -> None:
    asked: list[Ask] = []
    p1 = start("p1", on_ask=asked.append)
    ticket = p1.put("a")
    p1.until(lambda: bool(asked), what="it asks nobody")
    assert p1.engine.health.asking is not None
    assert not p1.told(ticket)
    p1.engine.vouched(asked[0].about, asked[0].connection)
    assert p1.answer(ticket).revision == 2
    assert p1.engine.health.asking is None


def test_a_promotion_that_the_others_speak_against_is_refused(start: StartHost, stream: MemoryLogStream) -> None:
    asked: list[Ask] = []
    start("p1").caught_up()
    p2 = start("p2", on_ask=asked.append).caught_up()
    ticket = p2.barrier(promote=True)
    p2.until(lambda: bool(asked), what="it asks nobody")
    p2.engine.vouched(asked[0].about, asked[0].connection, Refused("p1 knows more"))
    assert isinstance(p2.result(ticket), Refused)
    assert p2.engine.state.primary == "p1"


# ── promotion ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_promoted_it_commits_and_the_other_sends_clients_there(start: StartHost) -> None:
    p1, p2 = start("p1"), start("p2")
    p1.answer(p1.put("a"))
    state = p2.promoted()
    assert (state.epoch, state.revision) == (2, 3)
    p1.reach(3)
    assert p1.result(p1.put("b")) == NotPrimary("p2")
    answer = p2.answer(p2.put("b"))
    assert p1.reach(answer.revision).digest == p2.engine.state.digest


def test_a_deposed_primary_hands_on_all_that_it_held_and_its_late_entry_does_nothing(
    start: StartHost, stream: MemoryLogStream
) -> None:
    """p1's broker hangs: one entry is on its way, ten writes wait. p2 is promoted. Each of them is answered NotPrimary;
    done again at p2, each is there once, although p1's entry reaches the log in the end."""
    p1, p2 = start("p1").caught_up(), start("p2").caught_up()
    p1.log.shut()
    sent = p1.log.appended
    tickets = {"0": p1.put("0", "p1", again="0")}
    p1.until(lambda: p1.log.appended > sent)
    tickets |= {str(n): p1.put(str(n), "p1", again=str(n)) for n in range(1, 11)}
    p2.promoted()
    assert {type(p1.result(ticket)) for ticket in tickets.values()} == {NotPrimary}
    for key in tickets:
        p2.answer(p2.put(key, "p2", again=key))
    p1.log.open()
    p1.caught_up()
    p2.caught_up()
    assert [type(decode(data)) for data in stream.records].count(Claim) == 1
    assert any(entry.node == "p1" for entry in entries(stream))
    assert p1.engine.state.digest == p2.engine.state.digest
    assert {p1.value(key) for key in tickets} == {"p2"}
    assert p1.engine.health.skipped.get("other_epoch", 0) >= 1


def test_of_two_that_are_promoted_together_one_wins_and_the_other_knows_who(start: StartHost) -> None:
    hosts = {name: start(name).caught_up() for name in ("p1", "p2", "p3")}
    primary, epoch = "p1", 1
    for _ in range(20):
        rivals = [host for name, host in hosts.items() if name != primary]
        tickets = [host.barrier(promote=True) for host in rivals]
        results = [host.result(ticket) for host, ticket in zip(rivals, tickets, strict=True)]
        states = [result.state for result in results if isinstance(result, Progress)]
        assert len(states) == 2
        last = max(states, key=lambda state: state.revision)
        assert {host.reach(last.revision).primary for host in hosts.values()} == {last.primary}
        # Both at once: one wins. One after the other: the second had read of the first, and takes over from it.
        assert last.epoch in (epoch + 1, epoch + 2)
        assert last.epoch == epoch + 2 or {state.primary for state in states} == {last.primary}
        primary, epoch = last.primary, last.epoch


def test_writes_go_on_through_planned_promotions_and_none_is_lost_or_done_twice(start: StartHost) -> None:
    """Writers at both nodes, each going where it is sent, under the same key; promotions to and fro meanwhile."""
    hosts = {name: start(name).caught_up() for name in ("p1", "p2")}
    over = threading.Event()
    done: dict[str, int] = {}
    failures: list[BellwetherError] = []

    def write(writer: int) -> None:
        number, name = 0, "p1"
        while not over.is_set():
            key = f"{writer}.{number}"
            result = hosts[name].result(hosts[name].put(key, number, again=key, wait_s=PATIENCE_S))
            if isinstance(result, NotPrimary):
                name = result.primary
            elif isinstance(result, Answer):
                done[key] = result.revision
                number += 1
            elif isinstance(result, BellwetherError):
                failures.append(result)
                return

    writers = [threading.Thread(target=write, args=(number,)) for number in range(6)]
    for writer in writers:
        writer.start()
    for round_ in range(8):
        already = len(done)
        hosts["p1"].until(lambda many=already: len(done) > many + 20, what="no progress")  # type: ignore[misc]
        hosts[("p2", "p1")[round_ % 2]].promoted()
    over.set()
    for writer in writers:
        writer.join(PATIENCE_S)
    assert failures == []
    last = max(host.engine.state.revision for host in hosts.values())
    digests = {host.reach(last).digest for host in hosts.values()}
    assert len(digests) == 1
    for host in hosts.values():
        changed = accepted_keys(host)
        assert len(changed) == len(set(changed))
        assert {f"user.{key}" for key in done} <= set(changed)


# ── a store that fails ───────────────────────────────────────────────────────────────────────────────────────────────


def test_while_the_store_fails_no_success_is_told_and_afterwards_all_goes_on(start: StartHost) -> None:
    p1 = start("p1").caught_up()
    with locked(p1):
        held = p1.put("a", wait_s=60.0)
        p1.until(lambda: p1.engine.health.store_problem is not None, what="it does not see that the store fails")
        refused = p1.result(p1.put("b"))
        assert isinstance(refused, StoreUnavailable)
        assert not p1.told(held)
        assert p1.engine.state.revision == 1
    assert p1.answer(held).revision == 2
    p1.until(lambda: p1.engine.health.store_problem is None)
    assert p1.answer(p1.put("b")).revision == 3
    assert p1.store.load()[0].digest == p1.engine.state.digest


def test_a_standby_whose_store_fails_for_a_while_reads_on_in_order(start: StartHost) -> None:
    """Invariant: what it read meanwhile is applied before what it reads afterwards, however busy the primary is."""
    p1, p2 = start("p1").caught_up(), start("p2").caught_up()
    for round_ in range(5):
        with locked(p2):
            for number in range(40):
                p1.answer(p1.put(f"{round_}.{number}"))
            p2.until(lambda: p2.engine.health.store_problem is not None)
        while p2.engine.health.store_problem is not None:  # what comes just then is what matters
            p1.answer(p1.put(f"{round_}.now"))
        for number in range(40):
            p1.answer(p1.put(f"{round_}.later.{number}"))
    last = p1.engine.state
    assert p2.reach(last.revision).digest == last.digest
    assert p2.engine.health.skipped.get("gap", 0) == 0
    assert p2.store.load()[0].digest == last.digest


def test_more_than_the_log_hands_out_at_once_can_come_while_the_store_fails(start: StartHost) -> None:
    p1, p2 = start("p1").caught_up(), start("p2").caught_up()
    with locked(p2):
        for number in range(700):  # the log hands out 500
            p1.answer(p1.put("a", number))
    last = p1.engine.state
    assert p2.reach(last.revision).digest == last.digest


def test_a_primary_that_is_deposed_while_its_store_fails_says_where_to_go(start: StartHost) -> None:
    p1, p2 = start("p1").caught_up(), start("p2").caught_up()
    p1.log.shut()
    held = p1.put("a", wait_s=60.0)
    with locked(p1):
        p2.promoted()
        assert p1.result(held) == NotPrimary("p2")
        assert isinstance(p1.result(p1.put("b")), Unavailable)
    assert p1.reach(2).primary == "p2"


@pytest.mark.parametrize("has_it", [True, False])
def test_what_another_state_replaces_before_it_was_durable_is_done_only_where_that_state_has_it(
    start: StartHost, has_it: bool
) -> None:
    p1, p2 = start("p1").caught_up(), start("p2").caught_up()
    state, position = p2.engine.snapshot()
    with locked(p1):
        held = p1.put("a", wait_s=60.0)
        p1.until(lambda: p1.engine.health.store_problem is not None, what="it does not see that the store fails")
        if has_it:
            p2.reach(2)
            state, position = p2.engine.snapshot()
        p1.engine.replace(replace(state, revision=9), position, stored=True).result(PATIENCE_S)
        result = p1.result(held)
    assert isinstance(result, Answer if has_it else OutcomeUnknown), result


def test_a_full_disk_is_said_and_it_goes_on_once_there_is_room(start: StartHost, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "8m") as disk:
        p1 = start("p1", directory=disk).caught_up()
        p1.answer(p1.put("a", "x" * 20_000))
        fill(disk / "ballast")
        held = p1.put("b", "x" * 60_000, wait_s=60.0)
        p1.until(lambda: p1.engine.health.store_problem is not None)
        refused = p1.result(p1.put("c"))
        assert isinstance(refused, DiskFull)
        assert not p1.told(held)
        (disk / "ballast").unlink()
        assert p1.answer(held).revision == 3
        p1.until(lambda: p1.engine.health.store_problem is None)
        assert p1.answer(p1.put("c")).revision == 4
        p1.stop()
        p1 = start("p1", fresh=False, directory=disk).caught_up()
        assert p1.engine.state.revision == 4
        p1.stop()


def test_a_store_that_somebody_else_wrote_to_ends_the_thread_and_nothing_is_told(
    start: StartHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon ends with its threads; see test_daemon."""
    p1 = start("p1").caught_up()
    failed: list[threading.ExceptHookArgs] = []
    gone = threading.Event()

    def hook(args: threading.ExceptHookArgs) -> None:
        failed.append(args)
        gone.set()

    monkeypatch.setattr(threading, "excepthook", hook)
    other = sqlite3.connect(p1.url.removeprefix("sqlite:///"), isolation_level=None)
    other.execute("UPDATE meta SET generation = 'another', revision = 7, digest = 'x'")
    other.close()
    ticket = p1.put("a")
    assert gone.wait(PATIENCE_S)
    assert failed[0].exc_type.__name__ == "StoreCorrupt"
    assert not p1.told(ticket)


# ── the end ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_stop_saves_how_far_the_log_was_read(start: StartHost, stream: MemoryLogStream) -> None:
    p1 = start("p1")
    p1.answer(p1.put("a"))
    for _ in range(10):
        p1.caught_up()  # barriers, which are saved now and then only
    p1.stop()
    position = Store(p1.url).load()[1]
    assert position is not None
    assert position.offset == stream.next - 1
    p1 = start("p1", fresh=False).caught_up()
    assert p1.applied == []


def test_a_stop_while_the_store_fails_loses_nothing(start: StartHost) -> None:
    p1 = start("p1").caught_up()
    with locked(p1):
        held = p1.put("a", wait_s=60.0)
        p1.until(lambda: p1.engine.health.store_problem is not None)
        p1.stop()
        assert not p1.told(held)
    p1 = start("p1", fresh=False).caught_up()
    assert p1.value("a") == 1
