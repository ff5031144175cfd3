"""Who may write something new, and who waits for whom."""

from dataclasses import replace

import pytest

from provider.core.vouching import (
    CLAIM_PATIENCE_S,
    LOSS_PATIENCE_S,
    MARGIN_MS,
    START_PATIENCE_S,
    Question,
    Verdict,
    Word,
    judge,
)

NEWEST_MS = 1_000_000
YOUNG = NEWEST_MS + 1
OLD = NEWEST_MS - MARGIN_MS
OWN = Word("g", epoch=3, revision=50, since_ms=YOUNG)
WRITES = Question(OWN, NEWEST_MS, promotion=False, loss_seen=False)
CLAIMS = replace(WRITES, promotion=True)


def test_where_all_answer_and_nobody_has_more_it_goes() -> None:
    words = {"p2": OWN, "p3": replace(OWN, revision=20)}
    assert judge(WRITES, words, 0.0).verdict is Verdict.GO


@pytest.mark.parametrize("more", [{"revision": 51}, {"epoch": 4, "revision": 10}])
@pytest.mark.parametrize("question", [WRITES, CLAIMS])
def test_it_waits_for_what_another_has_however_long_that_takes(question: Question, more: dict[str, int]) -> None:
    found = judge(question, {"p2": replace(OWN, **more), "p3": OWN}, 1e6)
    assert found.verdict is Verdict.WAIT
    assert "p2 has revision" in found.why


def test_who_has_lost_the_log_is_not_waited_for() -> None:
    assert judge(WRITES, {"p2": replace(OWN, revision=99, lost=True)}, 0.0).verdict is Verdict.GO


def test_a_log_that_was_begun_later_is_the_one() -> None:
    found = judge(WRITES, {"p2": Word("h", epoch=9, revision=10, since_ms=OLD)}, 0.0)
    assert found.verdict is Verdict.REFUSE
    assert judge(WRITES, {"p2": Word("h", epoch=2, revision=10, since_ms=OLD)}, 0.0).verdict is Verdict.GO


@pytest.mark.parametrize(
    ("question", "patience_s"),
    [(WRITES, START_PATIENCE_S), (replace(WRITES, loss_seen=True), LOSS_PATIENCE_S), (CLAIMS, CLAIM_PATIENCE_S)],
)
def test_without_a_witness_the_silent_are_waited_for_but_not_for_ever(question: Question, patience_s: float) -> None:
    words = {"p2": None, "p3": OWN}
    assert judge(question, words, patience_s - 0.1).verdict is Verdict.WAIT
    found = judge(question, words, patience_s)
    assert (found.verdict, found.silent) == (Verdict.GO, ("p2",))


@pytest.mark.parametrize("witness", ["another", "itself"])
def test_with_a_witness_nobody_waits(witness: str) -> None:
    question = replace(WRITES, own=replace(OWN, since_ms=OLD)) if witness == "itself" else WRITES
    words = {"p2": None, "p3": replace(OWN, since_ms=OLD) if witness == "another" else OWN}
    found = judge(question, words, 0.0)
    assert (found.verdict, found.silent) == (Verdict.GO, ())


def test_who_was_in_touch_with_the_primary_need_not_wait_to_succeed_it() -> None:
    assert judge(replace(CLAIMS, in_touch=True), {"p1": None}, 0.0).verdict is Verdict.GO
    assert judge(replace(WRITES, in_touch=True), {"p1": None}, 0.0).verdict is Verdict.WAIT


def test_where_the_log_lost_something_no_witness_counts_and_a_promotion_needs_force() -> None:
    question = replace(CLAIMS, loss_seen=True, in_touch=True)
    words = {"p1": None, "p3": replace(OWN, since_ms=OLD)}
    assert judge(question, words, 0.0).verdict is Verdict.WAIT
    found = judge(question, words, CLAIM_PATIENCE_S)
    assert found.verdict is Verdict.REFUSE
    assert "--force" in found.why
