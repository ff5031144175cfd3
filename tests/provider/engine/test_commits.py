"""What the engine does when all is well, with its real store and a log in memory; and how it ends."""

from provider.core.commands import DeleteSetting
from provider.core.replica import NotPrimary
from provider.store import Store
from shared.errors import NotFound
from tests.support.engines import StartHost, entries, locked
from tests.support.memory_log import MemoryLogStream


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


# ── the end ──


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
