"""A replica's conduct, told as short stories: writes, and who is primary.

What must hold in all stories is proven in tests/model.
"""

from provider.core.commands import DeleteSetting, Precondition, PutSetting
from provider.core.entries import Barrier, Claim, Entry
from provider.core.replica import Apply, Done, NotPrimary
from provider.core.state import Why
from shared.errors import Invalid, NotFound, StaleRevision
from tests.support.replicas import Cluster, value


def test_a_write_is_answered_when_it_has_been_read_back_and_after_it_was_applied() -> None:
    """p1 appends. The log has it: no answer yet. p1 reads it: apply first, then the answer."""
    c = Cluster("p1", "p2")
    ticket = c.submit("p1", PutSetting("user.a", 1))
    c.arrive()
    assert c.results[ticket] == []
    c.done.clear()
    c.read("p1")
    assert [type(one) for _, one in c.done] == [Apply, Done]
    assert c.result(ticket).status == 200
    c.settle()
    assert value(c.nodes["p2"]) == 1


def test_what_arrives_meanwhile_shares_the_next_entry() -> None:
    """One write is on its way; ten more come: they are one entry, and one append."""
    c = Cluster("p1")
    c.submit("p1", PutSetting("user.a", 1))
    tickets = [c.submit("p1", PutSetting(f"user.{i}", i)) for i in range(10)]
    assert len(c.wire) == 1
    c.arrive()
    c.read("p1")
    (record,) = c.wire
    assert isinstance(record, Entry)
    assert len(record.commits) == 10
    c.settle()
    assert {c.result(ticket).revision for ticket in tickets} == {3}


def test_two_writers_with_one_if_match() -> None:
    """Both read revision 1. The first wins; the second is refused, although both were under way at once."""
    c = Cluster("p1")
    first = c.submit("p1", PutSetting("user.a", 1, Precondition(revision=1)))
    second = c.submit("p1", PutSetting("user.a", 2, Precondition(revision=1)))
    c.settle()
    assert c.result(first).revision == 2
    assert isinstance(c.result(second), StaleRevision)
    assert value(c.nodes["p1"]) == 1


def test_the_same_key_again_gets_the_same_answer_at_once() -> None:
    """The client did not hear the answer and asks again: nothing is written."""
    c = Cluster("p1")
    first = c.submit("p1", PutSetting("user.b", 1), key="k", fingerprint="f")
    c.settle()
    c.submit("p1", PutSetting("user.b", 2))
    c.settle()
    length = len(c.log)
    again = c.submit("p1", PutSetting("user.b", 1), key="k", fingerprint="f")
    assert c.result(again) == c.result(first)
    assert len(c.log) + len(c.wire) == length


def test_the_same_key_for_another_request_is_refused() -> None:
    c = Cluster("p1")
    c.submit("p1", PutSetting("user.b", 1), key="k", fingerprint="f")
    other = c.submit("p1", PutSetting("user.b", 2), key="k", fingerprint="g")
    c.settle()
    assert isinstance(c.result(other), Invalid)
    assert value(c.nodes["p1"], "user.b") == 1


def test_a_refusal_waits_for_a_record_of_ours_to_come_back() -> None:
    """Nothing to write, so a barrier is sent: only when it is back is it sure that p1 knew everything."""
    c = Cluster("p1")
    ticket = c.submit("p1", DeleteSetting("user.none"))
    assert c.results[ticket] == []
    assert isinstance(c.wire[0], Barrier)
    c.settle()
    assert isinstance(c.result(ticket), NotFound)


# ── deposed ──


def test_a_standby_names_the_primary() -> None:
    c = Cluster("p1", "p2")
    assert c.result(c.submit("p2", PutSetting("user.a", 1))) == NotPrimary("p1")


def test_a_primary_that_was_deposed_unknowingly_refuses_nothing_from_its_old_state() -> None:
    """p2 took over and made user.b. p1 has not read that yet, and is asked to delete user.b. It must not say "no such
    setting": it hands the request on when it reads of its end."""
    c = Cluster("p1", "p2")
    c.promote("p2")
    c.arrive()
    c.read("p2")
    c.arrive()
    c.read("p2")
    c.submit("p2", PutSetting("user.b", 1))
    c.arrive()
    ticket = c.submit("p1", DeleteSetting("user.b"))
    c.settle()
    assert c.result(ticket) == NotPrimary("p2")


def test_what_a_deposed_primary_held_is_handed_on_and_never_done_by_itself() -> None:
    """p1 has one write on its way and one waiting when p2's claim gets in before. Both go to p2; when p1's entry comes
    at last, all skip it."""
    c = Cluster("p1", "p2")
    c.promote("p2")
    c.arrive()
    c.read("p2")
    held = [c.submit("p1", PutSetting("user.a", 1)), c.submit("p1", PutSetting("user.a", 2))]
    late = [record for record in c.wire if isinstance(record, Entry)]
    c.wire = [record for record in c.wire if isinstance(record, Claim)]
    c.settle()
    assert [c.result(ticket) for ticket in held] == [NotPrimary("p2")] * 2
    c.wire += late
    c.settle()
    assert value(c.nodes["p1"]) == value(c.nodes["p2"]) == 0
    assert c.nodes["p1"].skipped[Why.OTHER_EPOCH] == 1


def test_two_standbys_promoted_in_the_same_instant() -> None:
    """Both pass their barriers, both claim. The first claim in the log wins; the other node learns who did."""
    c = Cluster("p1", "p2", "p3")
    tickets = {name: c.promote(name) for name in ("p2", "p3")}
    c.settle()
    assert {node.state.primary for node in c.nodes.values()} == {"p2"}
    ends = {name: c.results[ticket][-1] for name, ticket in tickets.items()}
    assert all(end.final and end.step == "claimed" for end in ends.values())
    assert (ends["p2"].state.primary, ends["p3"].state.primary) == ("p2", "p2")


def test_a_claim_that_came_before_the_barrier_of_another_promotion_wins() -> None:
    """Both were asked while p1 was primary; whoever asked for p3 did not ask for the end of p2."""
    c = Cluster("p1", "p2", "p3")
    first = c.promote("p2")
    c.arrive()
    c.read("p2")
    second = c.promote("p3")
    c.settle()
    assert c.results[first][-1].step == "claimed"
    assert (c.result(second).step, c.result(second).state.primary) == ("caught up", "p2")
    assert {(node.state.primary, node.state.epoch) for node in c.nodes.values()} == {("p2", 2)}


def test_promoting_the_primary_changes_nothing() -> None:
    c = Cluster("p1", "p2")
    ticket = c.promote("p1")
    c.settle()
    end = c.result(ticket)
    assert (end.step, end.final, end.state.epoch) == ("caught up", True, 1)


def test_a_promotion_reports_its_steps() -> None:
    c = Cluster("p1", "p2")
    ticket = c.promote("p2")
    c.settle()
    assert [(step.step, step.final) for step in c.results[ticket]] == [("caught up", False), ("claimed", True)]
