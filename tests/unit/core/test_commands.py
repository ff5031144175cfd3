"""What commands have in common: their conditions, and what is noted when somebody is refused."""

from typing import Any

import pytest

from provider.core.commands import (
    LATE_MAX_MS,
    REFUSALS_MAX,
    DeleteSetting,
    DeleteWish,
    Precondition,
    PutSetting,
    PutWish,
    RecordRefusals,
)
from provider.core.documents import DatabaseSpec
from provider.core.entries import Attempt
from shared.errors import Invalid, StaleRevision
from tests.support.commands import NOW, do, fleet, refusal, status_of

BAD = [Precondition(revision=7), Precondition(absent=True), Precondition(revision=1, absent=True)]


@pytest.mark.parametrize("when", BAD, ids=str)
@pytest.mark.parametrize("make", [lambda w: PutSetting("user.a", 2, w), lambda w: DeleteSetting("user.a", w)])
def test_a_condition_that_does_not_hold(make: Any, when: Precondition) -> None:
    refusal(fleet(), make(when), StaleRevision)


def test_conditions_of_a_document_that_is_not_there() -> None:
    refusal(fleet(), PutSetting("user.b", 2, Precondition(revision=1)), StaleRevision, "does not exist")
    assert status_of(fleet(), PutSetting("user.b", 2, Precondition(absent=True))) == 201


def test_a_condition_that_asks_only_that_it_is_there() -> None:
    refusal(fleet(), PutSetting("user.b", 2, Precondition(present=True)), StaleRevision, "does not exist")
    assert status_of(fleet(), PutSetting("user.a", 2, Precondition(present=True))) == 200


def test_conditions_of_wishes() -> None:
    wish = PutWish("database", "db1", "shop", DatabaseSpec())
    state = do(fleet(), wish)
    old = Precondition(revision=1)
    refusal(state, PutWish("database", "db1", "shop", DatabaseSpec(charset="utf8mb4"), old), StaleRevision)
    refusal(state, DeleteWish("database", "db1", "shop", when=old), StaleRevision)
    refusal(state, DeleteWish("database", "db1", "shop", drop=True, when=old), StaleRevision)
    assert status_of(state, DeleteWish("database", "db1", "shop", when=Precondition(revision=2))) == 204


# ── refusals ──


def attempt(at: int) -> Attempt:
    return Attempt(at=at, node="p2", principal="?", action="GET /x", code="unauthenticated", status=401)


def test_noting_refusals_changes_no_document_and_counts_as_a_revision() -> None:
    before = fleet()
    after = do(before, RecordRefusals((attempt(NOW),)))
    assert (after.revision, after.documents, after.checksum) == (
        before.revision + 1,
        before.documents,
        before.checksum,
    )


def test_an_attempt_is_not_later_than_its_record_nor_a_day_earlier() -> None:
    """A node's clock may be wrong, and the log may have been away for long: who looks for a time finds it."""
    plan = RecordRefusals(tuple(map(attempt, (0, NOW - 5, NOW + 10**9)))).plan(fleet(), NOW)
    assert [a.at for a in plan.refused] == [NOW - LATE_MAX_MS, NOW - 5, NOW]
    late = RecordRefusals((attempt(NOW - 5),)).plan(fleet(), NOW - 10**6)  # the primary's own clock is behind
    assert [a.at for a in late.refused] == [NOW - 5]


def test_a_node_notes_a_limited_number_at_once() -> None:
    refusal(fleet(), RecordRefusals(tuple([attempt(NOW)] * (REFUSALS_MAX + 1))), Invalid)
