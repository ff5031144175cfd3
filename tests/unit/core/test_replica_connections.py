"""A replica's conduct when connections break and processes start anew."""

from provider.core.commands import Precondition, PutSetting
from provider.core.entries import Barrier, Claim, Entry, LogRecord
from provider.core.replica import DEAF_S, SILENCE_S, Append, Replica, Reread
from provider.core.state import Answer, Why
from shared.errors import StaleRevision
from tests.support.replicas import START_MS, Cluster, value


def test_a_write_whose_connection_was_cut_is_sent_again_and_done_once() -> None:
    """The append arrived, but p1 was cut off before it read that. Back again it reads to the end, finds its entry, and
    answers."""
    c = Cluster("p1")
    ticket = c.submit("p1", PutSetting("user.a", 1))
    c.cut("p1")
    c.arrive()
    c.connect("p1")
    c.settle()
    assert c.result(ticket).revision == 2
    assert c.nodes["p1"].state.revision == 2


def test_a_write_that_was_lost_with_its_connection_is_sent_again() -> None:
    c = Cluster("p1")
    ticket = c.submit("p1", PutSetting("user.a", 1))
    c.cut("p1")
    c.wire.clear()
    c.connect("p1")
    c.settle()
    assert c.result(ticket).revision == 2


def test_an_entry_from_before_a_restart_arrives_after_the_barrier_of_the_new_process() -> None:
    """p1 sent an entry, died, came back, read to the end, and sent another for the same place. Now the old one arrives
    first. It counts; the new one does not, and what was in it is decided anew."""
    c = Cluster("p1")
    c.submit("p1", PutSetting("user.a", "old"))
    old, c.wire = c.wire, []
    c.restart("p1", c.genesis, 0)
    c.settle()
    ticket = c.submit("p1", PutSetting("user.a", "new", Precondition(revision=1)))
    c.wire = old + c.wire
    c.settle()
    assert isinstance(c.result(ticket), StaleRevision)
    assert value(c.nodes["p1"]) == "old"


def test_an_append_that_failed_or_not_is_repeated_and_counts_once() -> None:
    """The broker could not say what became of it. p1 sends the same record again; both copies arrive."""
    c = Cluster("p1")
    ticket = c.submit("p1", PutSetting("user.a", 1))
    (record,) = c.wire
    c.carry_out("p1", c.nodes["p1"].failed(record, c.now))
    assert c.wire == [record, record]
    c.settle()
    assert c.result(ticket).revision == 2
    assert c.nodes["p1"].skipped[Why.REPEATED] == 1


def test_a_report_about_an_append_of_long_ago_is_ignored() -> None:
    c = Cluster("p1")
    c.submit("p1", PutSetting("user.a", 1))
    (record,) = c.wire
    c.settle()
    assert c.nodes["p1"].failed(record, c.now) == []
    c.cut("p1")
    assert c.nodes["p1"].failed(record, c.now) == []


def silent_standby() -> tuple[Cluster, Replica, LogRecord]:
    """p2 has read nothing for a while, and asks the log with a barrier: that one."""
    c = Cluster("p1", "p2")
    p2 = c.nodes["p2"]
    c.mono_s += SILENCE_S
    (asked,) = p2.tick(c.now)
    assert isinstance(asked, Append)
    return c, p2, asked.record


def test_a_standby_to_whom_nothing_comes_although_the_log_has_more_reads_anew() -> None:
    """Nobody else may write for hours: what is there and does not come is a record of its own."""
    c, p2, barrier = silent_standby()
    p2.kept(barrier, c.now)
    c.mono_s += DEAF_S - 0.1
    assert p2.tick(c.now) == []
    c.mono_s += 0.1
    assert p2.tick(c.now) == [Reread()]
    assert p2.tick(c.now) == [], "once"
    p2.log_down()
    (again,) = p2.log_up(c.now)
    assert isinstance(again, Append)
    p2.read(again.record, c.now)
    assert p2.caught_up


def test_a_log_that_takes_nothing_and_one_that_is_slow_are_waited_for() -> None:
    c, p2, barrier = silent_standby()
    c.mono_s += 10 * DEAF_S
    assert p2.tick(c.now) == [], "nobody said that the log has it: there may be no majority"
    p2.kept(barrier, c.now)
    for _ in range(5):
        c.mono_s += DEAF_S / 2
        p2.read(Barrier(id="another", generation="g", node="p1", at=START_MS), c.now)
        assert p2.tick(c.now) == [], "it has much to read"
    p2.read(barrier, c.now)
    c.mono_s += DEAF_S
    assert p2.tick(c.now) == []


def test_a_new_connection_over_which_nothing_comes_is_no_sign_of_life() -> None:
    c = Cluster("p1")
    p1, read_s = c.nodes["p1"], c.mono_s
    assert p1.read_s == read_s
    c.mono_s += 7.0
    c.cut("p1")
    c.connect("p1")
    assert (p1.read_s, p1.caught_up) == (read_s, False)
    c.settle()
    assert (p1.read_s, p1.caught_up) == (c.mono_s, True)


def test_one_that_goes_on_counting_connections_has_not_been_without_the_log_for_ever() -> None:
    c = Cluster("p1")
    p1 = Replica("p1", c.nodes["p1"].state, c.nodes["p1"].new_id, connection=7)
    p1.log_up(c.now)
    assert p1.read_s == c.mono_s


def test_writes_wait_until_the_log_has_been_read_to_its_end() -> None:
    c = Cluster("p1")
    c.cut("p1")
    ticket = c.submit("p1", PutSetting("user.a", 1))
    c.connect("p1")
    assert not any(isinstance(record, Entry) for record in c.wire)
    c.settle()
    assert isinstance(c.result(ticket), Answer)


def test_a_claim_that_was_lost_with_its_connection_is_sent_again() -> None:
    c = Cluster("p1", "p2")
    ticket = c.promote("p2")
    c.arrive()
    c.read("p2")
    assert isinstance(c.wire[-1], Claim)
    c.cut("p2")
    c.wire.clear()
    c.connect("p2")
    c.settle()
    assert c.results[ticket][-1].state.primary == "p2"
