"""The engine, on a log that is not the one that it read: what was lost is put back, or the node stays out."""

import threading
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import pytest

from provider.core.commands import DeleteSetting
from provider.core.entries import Claim, encode
from provider.core.replica import Ask, Progress
from provider.core.state import Accepted
from provider.store import Store
from shared.errors import Behind, LogUnavailable
from tests.support.engines import PATIENCE_S, Host, StartHost, entries
from tests.support.memory_log import MemoryLogStream


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
    assert isinstance(p2.result(waits), Behind | Progress)
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


def test_what_is_answered_about_an_earlier_connection_does_not_count_for_who_took_another_state(
    start: StartHost, stream: MemoryLogStream
) -> None:
    asked: list[Ask] = []
    p1 = start("p1", on_ask=asked.append)
    p1.until(lambda: bool(asked), what="it asks nobody")
    p1.engine.replace(*p1.engine.snapshot()).result(PATIENCE_S)
    p1.until(lambda: len(asked) == 2, what="it does not ask again")
    ticket = p1.put("a")
    p1.engine.vouched(asked[0].about, asked[0].connection)
    assert p1.engine.health.asking is not None
    p1.engine.vouched(asked[1].about, asked[1].connection)
    assert p1.answer(ticket).revision == 2
    assert asked[1].connection > asked[0].connection


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


class Held(Store):
    """Its first commit of anything waits until it may go on."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.waits, self.goes_on = threading.Event(), threading.Event()

    def commit(self, accepted: Sequence[Accepted], *arguments: Any, **named: Any) -> None:
        if accepted and not self.goes_on.is_set():
            self.waits.set()
            assert self.goes_on.wait(PATIENCE_S)
        super().commit(accepted, *arguments, **named)


def test_what_was_read_before_the_brokers_lost_it_is_durable_before_it_is_answered(
    start: StartHost, stream: MemoryLogStream
) -> None:
    """The store takes its time; meanwhile the next entry is read back, and the brokers lose both and are back."""
    p1 = start("p1").caught_up()
    with closing(Held(p1.url)) as store:
        p1.engine._durable.store = store
        kept = len(stream.records)
        tickets = [p1.put("a", 1), p1.put("a", 2)]
        assert store.waits.wait(PATIENCE_S)
        p1.until(lambda: p1.log.read_up_to == len(stream.records) > kept + 1, what="the second is not read")
        stream.forget(kept)
        stream.cut()
        p1.until(lambda: not p1.log.reads, what="it does not see the loss")
        store.goes_on.set()
        answers = [p1.answer(ticket) for ticket in tickets]
        assert [answer.revision for answer in answers] == [2, 3]
        assert all(p1.durable[ticket] >= answer.revision for ticket, answer in zip(tickets, answers, strict=True))
        assert p1.answer(p1.put("b")).revision == 4
        assert store.load()[0].digest == p1.engine.state.digest
        assert [revision for _, revision in told(stream)] == [2, 3, 4]
        p1.stop()


def test_what_was_decided_before_a_connection_was_made_anew_is_not_written_before_others_are_asked(
    start: StartHost, stream: MemoryLogStream
) -> None:
    """The store takes its time; meanwhile something is asked for, and the brokers are gone and back."""
    asked: list[Ask] = []
    p1 = start("p1", on_ask=asked.append)
    p1.until(lambda: len(asked) == 1, what="it asks nobody")
    p1.engine.vouched(asked[0].about, asked[0].connection)
    p1.caught_up()
    with closing(Held(p1.url)) as store:
        p1.engine._durable.store = store
        p1.put("a", 1)
        assert store.waits.wait(PATIENCE_S)
        ticket, back = p1.put("a", 2), threading.Event()
        stream.cut()
        p1.log.later(back.set)
        assert back.wait(PATIENCE_S)
        store.goes_on.set()
        p1.until(lambda: len(asked) == 2, what="it does not ask again")
        assert [revision for _, revision in told(stream)] == [2]
        p1.engine.vouched(asked[1].about, asked[1].connection)
        assert p1.answer(ticket).revision == 3
        p1.stop()
