"""A log that is not the one that was read, beside a node's own history."""

from collections.abc import Iterable
from itertools import count

import pytest

from provider.core.comparing import AT_ONCE, PUT_BACK_MAX, Comparison, Kept
from provider.core.entries import Barrier, Claim, Entry, LogRecord
from provider.core.state import Accepted, State
from tests.support.history import GENERATION, accept_claim, accept_entry, accept_values, commit_of, drop, genesis, put


class Past:
    """All that was accepted, from `oldest` on."""

    def __init__(self, accepted: Iterable[Accepted], oldest: int = 0) -> None:
        self.kept = {a.state.revision: Kept(a.record, a.state.epoch) for a in accepted if a.state.revision >= oldest}

    def oldest(self) -> int | None:
        return min(self.kept, default=None)

    def at(self, revision: int) -> Kept | None:
        return self.kept.get(revision)

    def claim(self, ends: int) -> int | None:
        found = (r for r, k in self.kept.items() if isinstance(k.record, Claim) and k.record.ends == ends)
        return next(found, None)


def story(values: int = 5, *, then: str | None = None, more: int = 0) -> list[Accepted]:
    """Entries, perhaps another node's claim, and more entries."""
    accepted = accept_values(genesis(), range(values))
    if then is not None:
        accepted.append(accept_claim(accepted[-1].state, then))
    return accepted + accept_values(accepted[-1].state, range(more))


def compared(accepted: list[Accepted], log: Iterable[LogRecord], *, oldest: int = 0) -> Comparison:
    """Has read this log, and then its own barrier behind it."""
    ids = count()
    found = Comparison("p1", accepted[-1].state, Past(accepted, oldest), lambda: f"b{next(ids)}")
    waiting: list[LogRecord] = found.up(0)
    for record in log:
        if not found.in_line and found.lost is None:
            found.read(record, 0)
    while waiting and not found.in_line and found.lost is None:
        waiting += found.read(waiting.pop(0), 0)
    return found


def records(accepted: Iterable[Accepted]) -> list[LogRecord]:
    return [one.record for one in accepted]


def foreign(state: State, seq: int, epoch: int | None = None) -> Entry:
    found = accept_entry(state, commit_of(put("user.x", "foreign"))).record
    assert isinstance(found, Entry)
    return found.model_copy(update={"seq": seq, "epoch": epoch or state.epoch, "id": f"foreign {seq}"})


@pytest.mark.parametrize("kept", range(6))
def test_what_is_missing_at_the_end_is_put_back_in_order(kept: int) -> None:
    accepted = story()
    found = compared(accepted, records(accepted[:kept]))
    assert found.in_line
    assert found.put_back == 5 - kept


def test_it_is_in_line_as_soon_as_its_last_record_comes() -> None:
    accepted = story(then="p2", more=3)
    assert compared(accepted, records(accepted)).put_back == 0


def test_repetitions_late_records_and_barriers_change_nothing() -> None:
    accepted = story(then="p2", more=2)
    log = records(accepted)
    barrier = Barrier(id="b", generation=GENERATION, node="p3", at=0)
    late = foreign(accepted[4].state, 7)  # of the epoch that had ended
    stranger = Claim(id="s", generation=GENERATION, ends=1, node="p9", at=0)
    mixed = [*log[:3], barrier, *log[1:4], stranger, *log[:6], late, log[2], *log[6:]]
    found = compared(accepted, mixed)
    assert (found.in_line, found.put_back, found.lost) == (True, 0, None)


def test_another_record_in_the_place_of_ours_is_the_end() -> None:
    accepted = story()
    found = compared(accepted, [*records(accepted[:3]), foreign(accepted[2].state, 5)])
    assert found.missing_from == 5
    assert found.lost is not None
    assert "revision 5" in found.lost


def test_so_is_a_claim_that_comes_before_what_we_have() -> None:
    accepted = story()
    claim = accept_claim(accepted[2].state, "p2").record
    assert compared(accepted, [*records(accepted[:3]), claim]).missing_from == 5


def test_a_claim_of_a_node_that_had_been_removed_is_none() -> None:
    accepted = story(2)
    removed = accept_entry(accepted[-1].state, commit_of(drop("p3", kind="node")))
    accepted += [removed, *accept_values(removed.state, range(2))]
    late = Claim(id="c", generation=GENERATION, ends=1, node="p3", at=0)
    assert compared(accepted, [*records(accepted[:3]), late]).in_line
    assert compared(accepted, [*records(accepted[:2]), late]).missing_from == 4


def test_a_log_whose_beginning_was_removed_is_known_again_by_what_is_left() -> None:
    accepted = story(then="p2", more=4)
    found = compared(accepted, records(accepted[6:8]))
    assert (found.in_line, found.put_back) == (True, 2)
    found = compared(accepted, records(accepted[5:6]))
    assert (found.in_line, found.put_back) == (True, 4)


def test_a_log_that_begins_after_us_is_truncated() -> None:
    accepted = story(8)
    found = compared(accepted[:4], records(accepted[6:]))
    assert found.lost is not None
    assert found.lost.startswith("truncated")
    claimed = story(4, then="p2")
    assert "truncated" in str(compared(claimed[:4], records(claimed[4:])).lost)


def test_where_it_cannot_be_told_it_is_not_guessed() -> None:
    """The record of ours that is left comes behind one that others may have accepted in place of ours."""
    accepted = story()
    found = compared(accepted, [foreign(accepted[1].state, 6), *records(accepted[3:])])
    assert found.lost is not None
    found = compared(accepted, [foreign(accepted[1].state, 4)])
    assert found.lost is not None


def test_an_empty_log_begins_with_what_we_have_kept() -> None:
    accepted = story(6)
    found = compared(accepted, [], oldest=5)
    assert (found.in_line, found.put_back) == (True, 3)
    assert compared(accepted, [], oldest=99).in_line


def test_of_very_much_only_the_newest_is_put_back() -> None:
    accepted = story(PUT_BACK_MAX + 3)
    found = compared(accepted, [])
    assert found.in_line
    assert found.put_back == PUT_BACK_MAX


def test_much_is_put_back_in_portions_and_again_where_some_was_lost() -> None:
    accepted = story(AT_ONCE + 10)
    ids = count()
    found = Comparison("p1", accepted[-1].state, Past(accepted), lambda: f"b{next(ids)}")
    (barrier,) = found.up(0)
    first = found.read(barrier, 0)
    assert len(first) == AT_ONCE + 1
    for record in first[:3] + first[10:-1]:  # some were lost on the way
        found.read(record, 0)
    again = found.read(first[-1], 0)
    assert again[0] == first[3]
    for record in again:
        more = found.read(record, 0)
    for record in more:
        found.read(record, 0)
    assert found.in_line


def test_who_has_accepted_nothing_has_nothing_to_compare() -> None:
    assert Comparison("p1", genesis(), Past([]), str).in_line


def test_a_barrier_that_fails_is_sent_again_and_over_a_new_connection_the_end_is_found_anew() -> None:
    accepted = story()
    ids = count()
    found = Comparison("p1", accepted[-1].state, Past(accepted), lambda: f"b{next(ids)}")
    (first,) = found.up(0)
    (second,) = found.failed(first, 0)
    assert found.read(first, 0) == []
    found.down()
    assert found.failed(second, 0) == []
    assert found.read(second, 0) == []
    (third,) = found.up(0)
    assert len(found.read(third, 0)) == 6
