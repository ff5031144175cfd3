"""A replica's conduct when time runs out: what it gives up, and what may happen all the same."""

import pytest

from provider.core.commands import DeleteSetting, PutSetting
from provider.core.entries import Claim
from provider.core.replica import BEAT_S, Progress
from shared.errors import LogUnavailable, OutcomeUnknown
from tests.support.replicas import Cluster, value


def test_what_was_never_sent_is_given_up_as_not_done() -> None:
    c = Cluster("p1")
    c.cut("p1")
    ticket = c.submit("p1", PutSetting("user.a", 1), wait_s=1)
    c.tick("p1", 0.9)
    assert c.results[ticket] == []
    c.tick("p1", 0.2)
    assert isinstance(c.result(ticket), LogUnavailable)
    c.connect("p1")
    c.settle()
    assert value(c.nodes["p1"]) == 0


def test_what_was_sent_is_given_up_as_unknown_and_may_yet_happen() -> None:
    """The log has no majority. The client gives up; later the entry gets through. Asked again with the same key, p1
    says what it did."""
    c = Cluster("p1")
    ticket = c.submit("p1", PutSetting("user.a", 1), wait_s=1, key="k")
    c.tick("p1", 1)
    assert isinstance(c.result(ticket), OutcomeUnknown)
    c.settle()
    again = c.submit("p1", PutSetting("user.a", 1), key="k")
    assert c.result(again).revision == 2


def test_a_refusal_that_could_not_be_made_sure_is_no_refusal() -> None:
    c = Cluster("p1")
    ticket = c.submit("p1", DeleteSetting("user.none"), wait_s=1)
    c.tick("p1", 1)
    assert isinstance(c.result(ticket), LogUnavailable)
    c.settle()
    assert len(c.results[ticket]) == 1


@pytest.mark.parametrize("promote", [False, True])
def test_a_barrier_that_does_not_come_back_in_time(promote: bool) -> None:
    c = Cluster("p1", "p2")
    ticket = c.promote("p2", promote=promote)
    c.tick("p2", 6)
    assert isinstance(c.result(ticket), LogUnavailable)


def test_a_claim_that_does_not_come_back_in_time_may_yet_win() -> None:
    c = Cluster("p1", "p2")
    ticket = c.promote("p2")
    c.arrive()
    c.read("p2")
    c.tick("p2", 6)
    assert isinstance(c.results[ticket][-1], OutcomeUnknown)
    c.settle()
    assert c.nodes["p2"].is_primary


def test_an_idle_primary_reads_the_log_back() -> None:
    c = Cluster("p1", "p2")
    c.tick("p1", BEAT_S)
    c.tick("p2", 0)
    assert [record.node for record in c.wire] == ["p1"]
    c.tick("p1", BEAT_S)
    assert len(c.wire) == 1, "one at a time"
    c.settle()
    assert c.nodes["p1"].read_back_s == BEAT_S, "what it has read is as of when it asked, not of when it was told"


def test_a_primary_that_slept_does_not_take_its_old_beat_for_news() -> None:
    """p1 sends a beat and is stopped for an hour. Awake it reads that: it knows the log as of an hour ago, no more."""
    c = Cluster("p1")
    c.tick("p1", BEAT_S)
    c.mono_s += 3600
    c.settle()
    assert c.nodes["p1"].read_back_s == BEAT_S


def test_progress_holds_the_state_as_it_was_at_that_step() -> None:
    c = Cluster("p1", "p2")
    ticket = c.promote("p2", promote=False)
    c.settle()
    end = c.result(ticket)
    assert isinstance(end, Progress)
    assert end.state is c.nodes["p2"].state


def test_a_promotion_that_is_given_up_before_its_barrier_came_back_claims_nothing() -> None:
    c = Cluster("p1", "p2")
    ticket = c.promote("p2")
    c.carry_out("p2", c.nodes["p2"].give_up(ticket))
    c.settle()
    assert [type(result) for result in c.results[ticket]] == [LogUnavailable]
    assert not any(isinstance(record, Claim) for record in c.log)
    c.carry_out("p2", c.nodes["p2"].give_up(ticket))
    assert len(c.results[ticket]) == 1, "answered once"


def test_a_claim_that_is_on_its_way_may_win_though_nobody_waits_any_more() -> None:
    c = Cluster("p1", "p2")
    ticket = c.promote("p2")
    c.arrive()
    c.read("p2")
    c.carry_out("p2", c.nodes["p2"].give_up(ticket))
    c.settle()
    assert [type(result) for result in c.results[ticket]] == [Progress, OutcomeUnknown]
    assert c.nodes["p1"].state.primary == "p2"
