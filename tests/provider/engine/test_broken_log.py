"""The engine, on a log that breaks at the asking."""

import random
import threading

import pytest

from provider.core.replica import Progress
from provider.core.state import Answer
from shared.errors import DiskFull, LogUnavailable, OutcomeUnknown
from tests.support.engines import StartHost, accepted_keys
from tests.support.memory_log import MemoryLogStream


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
