"""What a node that has followed the log can say of it."""

from itertools import count

from provider.core.entries import Barrier, Change, Claim
from provider.core.following import AWAY_S, GAP_S, MARKS, PAUSE_S, Following
from provider.core.replica import OWN_WRITES, Append, Ask, Now, Replica
from provider.core.state import State


def barrier(name: str, node: str = "p1") -> Barrier:
    return Barrier(id=name, generation="g", node=node, at=0)


def following(now_s: float, *, whole: bool = False) -> Following:
    found = Following()
    found.reached("begin", now_s)
    assert found.chain is not None
    found.chain.whole = whole
    return found


def test_a_primary_that_writes_says_that_nothing_is_missing_once_all_that_it_has_is_here() -> None:
    chain = following(10.0).chain
    assert chain is not None
    chain.heard(11.0, revision=8, own_revision=7)
    assert not chain.whole
    chain.heard(9.9, revision=7, own_revision=7)
    assert not chain.whole, "that was before this node read the log over this connection"
    chain.heard(11.0, revision=8, own_revision=8)
    assert chain.whole
    chain.heard(12.0, revision=9, own_revision=8)
    assert chain.whole, "it comes, through this connection"


def test_it_begins_anew_when_the_log_is_lost_and_what_is_said_of_the_old_one_does_not_count_for_it() -> None:
    found = following(10.0, whole=True)
    before = found.chain
    found.broken()
    assert found.chain is None
    found.reached("again", 20.0)
    assert before is not None
    before.whole = True
    assert found.chain is not None
    assert (found.chain.whole, found.chain.marks) == (False, ("again",))


def test_where_only_writing_was_interrupted_it_goes_on() -> None:
    found = following(10.0, whole=True)
    found.read(barrier("b"), 11.0)
    found.reached("again", 20.0)
    assert found.chain is not None
    assert (found.chain.whole, found.chain.marks) == (True, ("begin", "b"))


def test_only_the_last_barriers_are_remembered() -> None:
    found = following(10.0)
    for number in range(3 * MARKS):
        found.read(barrier(f"b{number}"), 11.0)
    assert found.chain is not None
    assert found.chain.marks == tuple(f"b{number}" for number in range(2 * MARKS, 3 * MARKS))


def broken(heard_s: float, *, whole: bool = True, gap_s: float = GAP_S, paused_s: float = 0.0) -> Following:
    """It was without the log from 1000 s on, and read nothing for the last `paused_s` before."""
    found = following(800.0, whole=whole)
    read_s = [(float(at_s), "p2") for at_s in range(800, 1000 - int(paused_s), 5)]
    for at_s, node in sorted([*read_s, (heard_s, "p1"), (1000.0, "p2")]):
        found.read(barrier("b", node), at_s)
    found.broken()
    found.reached("again", 1000.0 + gap_s)
    return found


def test_who_was_gone_long_before_a_short_interruption_is_known_to_be_away() -> None:
    quiet_s = 1000.0 - AWAY_S
    found = broken(quiet_s)
    assert found.away({"p1": quiet_s, "p2": 999.0, "p3": None}) == {"p1", "p3"}
    assert found.away({"p1": quiet_s + 1.0}) == frozenset()
    assert broken(quiet_s + 1.0).away({"p1": None}) == frozenset(), "it wrote to the log"


def test_nobody_is_known_to_be_away_after_a_long_interruption_or_by_who_did_not_know_all_before() -> None:
    assert broken(800.0).away({"p1": None}) == {"p1"}
    assert broken(800.0, gap_s=GAP_S + 1.0).away({"p1": None}) == frozenset()
    assert broken(800.0, whole=False).away({"p1": None}) == frozenset()
    assert following(10.0).away({"p1": None}) == frozenset()


def test_a_node_that_was_stopped_and_reads_what_it_was_sent_before_knows_of_nobody_that_he_was_away() -> None:
    """When it goes on, it seems to it that it was in touch until that moment."""
    assert broken(800.0, paused_s=PAUSE_S - 5.0).away({"p1": None}) == {"p1"}
    assert broken(800.0, paused_s=60.0).away({"p1": None}) == frozenset()


def test_a_primary_that_is_deposed_while_it_waits_for_the_silent_is_no_witness_by_losing_its_patience() -> None:
    members = tuple(Change(kind="node", id=name, spec={}) for name in ("p1", "p2", "p3"))
    numbers, now = count(), Now(0, 0.0)
    state = State.genesis(generation="g", primary="p1", now=0, changes=members)
    replica = Replica("p1", state, lambda: f"r{next(numbers)}", cautious=True)
    (append,) = replica.log_up(now)
    assert isinstance(append, Append)
    assert Ask(OWN_WRITES, replica.connection) in replica.read(append.record, now)
    replica.read(Claim(id="c", generation="g", ends=1, node="p3", at=0), now)  # put back by p2, who had read it
    assert replica.vouched(OWN_WRITES, replica.connection, now) == []
    chain = replica.following.chain
    assert chain is not None
    assert not chain.whole


def test_a_pause_in_which_hosts_may_have_lost_their_power_counts_until_a_primary_writes_again() -> None:
    found = following(10.0, whole=True)
    chain = found.chain
    assert chain is not None
    found.read(barrier("b"), 10.0 + PAUSE_S)
    assert not chain.paused
    found.read(barrier("b"), 11.0 + 2 * PAUSE_S)
    assert (chain.whole, chain.paused) == (True, True)
    chain.heard(10.0 + 2 * PAUSE_S, revision=7, own_revision=7)
    assert chain.paused, "that was before"
    chain.heard(12.0 + 2 * PAUSE_S, revision=8, own_revision=7)
    assert chain.paused, "it has more"
    chain.heard(12.0 + 2 * PAUSE_S, revision=8, own_revision=8)
    assert not chain.paused
