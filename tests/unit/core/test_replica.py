"""A replica's conduct, told as short stories. What must hold in all stories is proven in tests/model."""

from itertools import count
from typing import Any

import pytest

from provider.core.commands import Command, DeleteSetting, Precondition, PutSetting
from provider.core.entries import Barrier, Change, Claim, Entry, LogRecord
from provider.core.replica import (
    BEAT_S,
    DEAF_S,
    SILENCE_S,
    Append,
    Apply,
    Done,
    Instruction,
    NotPrimary,
    Now,
    Progress,
    Replica,
    Request,
    Reread,
)
from provider.core.state import Answer, State, Why
from shared.errors import Invalid, LogUnavailable, NotFound, OutcomeUnknown, StaleRevision

START_MS = 1_700_000_000_000


class Cluster:
    """Some replicas and one log. What they append waits on `wire` until it is let through."""

    def __init__(self, *names: str) -> None:
        ids, self.log, self.wire, self.mono_s = count(1), list[LogRecord](), list[LogRecord](), 0.0
        members = [Change(kind="node", id=name, spec={"url": f"https://{name}:1"}) for name in names]
        start = (Change(kind="setting", id="user.a", spec={"value": 0}), *members)
        self.genesis = State.genesis(generation="g", primary="p1", now=START_MS, changes=start)
        self._new_id, self._tickets = lambda: f"r{next(ids)}", count(1)
        self.nodes = {name: Replica(name, self.genesis, self._new_id) for name in names}
        self.position = dict.fromkeys(names, 0)
        self.results: dict[int, list[Any]] = {}
        self.done: list[tuple[str, Instruction]] = []
        for name in names:
            self.connect(name)
        self.settle()

    @property
    def now(self) -> Now:
        return Now(START_MS + int(self.mono_s * 1000), self.mono_s)

    def carry_out(self, name: str, instructions: list[Instruction]) -> None:
        for instruction in instructions:
            self.done.append((name, instruction))
            if isinstance(instruction, Append):
                self.wire.append(instruction.record)
            elif isinstance(instruction, Done):
                self.results.setdefault(instruction.ticket, []).append(instruction.result)

    def connect(self, name: str) -> None:
        self.carry_out(name, self.nodes[name].log_up(self.now))

    def cut(self, name: str) -> None:
        self.carry_out(name, self.nodes[name].log_down())

    def restart(self, name: str, state: State, position: int) -> None:
        self.nodes[name], self.position[name] = Replica(name, state, self._new_id), position
        self.connect(name)

    def submit(self, name: str, command: Command, *, wait_s: float = 5.0, **other: Any) -> int:
        ticket = next(self._tickets)
        self.results[ticket] = []
        request = Request(ticket, command, "ann", "a test", self.mono_s + wait_s, **other)
        self.carry_out(name, self.nodes[name].submit(request, self.now))
        return ticket

    def promote(self, name: str, *, promote: bool = True) -> int:
        ticket = next(self._tickets)
        self.results[ticket] = []
        self.carry_out(name, self.nodes[name].barrier(ticket, self.mono_s + 5, self.now, promote=promote))
        return ticket

    def arrive(self) -> None:
        """All that is on the wire reaches the log."""
        self.log += self.wire
        self.wire = []

    def read(self, name: str) -> None:
        """The node reads to the end."""
        while self.position[name] < len(self.log):
            self.position[name] += 1
            self.carry_out(name, self.nodes[name].read(self.log[self.position[name] - 1], self.now))

    def settle(self) -> None:
        """Everything arrives, and all that are connected read to the end."""
        connected = [name for name, node in self.nodes.items() if node.connected]
        while self.wire or any(self.position[name] < len(self.log) for name in connected):
            self.arrive()
            for name in connected:
                self.read(name)

    def tick(self, name: str, seconds: float) -> None:
        self.mono_s += seconds
        self.carry_out(name, self.nodes[name].tick(self.now))

    def result(self, ticket: int) -> Any:
        (result,) = self.results[ticket]
        return result


def value(node: Replica, key: str = "user.a") -> Any:
    document = node.state.get("setting", key)
    return None if document is None else document.spec["value"]


# ── commits ──────────────────────────────────────────────────────────────────────────────────────────────────────────


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


# ── deposed ──────────────────────────────────────────────────────────────────────────────────────────────────────────


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


# ── connections and restarts ─────────────────────────────────────────────────────────────────────────────────────────


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


# ── time ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


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
