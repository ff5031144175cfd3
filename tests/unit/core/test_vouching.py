"""Who may write something new, and who waits for whom."""

from dataclasses import replace

import pytest

from provider.core.entries import Change
from provider.core.state import State
from provider.core.vouching import (
    CLAIM_PATIENCE_S,
    LOSS_PATIENCE_S,
    START_PATIENCE_S,
    Question,
    Verdict,
    Word,
    counts_alone,
    judge,
)

OWN = Word("g", epoch=3, revision=50, marks=("b7", "b8"))
WITNESS = Word("g", epoch=3, revision=49, whole=True, marks=("b6", "b7"))
WRITES = Question(OWN, promotion=False, loss_seen=False)
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
    found = judge(WRITES, {"p2": Word("h", epoch=9, revision=10)}, 0.0)
    assert found.verdict is Verdict.REFUSE
    assert judge(WRITES, {"p2": Word("h", epoch=2, revision=10)}, 0.0).verdict is Verdict.GO


def test_force_goes_on_without_what_others_have_but_not_in_a_log_that_was_given_up() -> None:
    forced = replace(CLAIMS, force=True)
    assert judge(forced, {"p2": replace(OWN, revision=99), "p3": None}, 0.0).verdict is Verdict.GO
    found = judge(forced, {"p2": Word("h", epoch=9, revision=10), "p3": None}, 0.0)
    assert (found.verdict, found.absolute) == (Verdict.REFUSE, True)


@pytest.mark.parametrize(
    ("question", "patience_s"),
    [(WRITES, START_PATIENCE_S), (replace(WRITES, loss_seen=True), LOSS_PATIENCE_S)],
)
def test_a_primary_waits_for_the_silent_where_there_is_no_witness_but_not_for_ever(
    question: Question, patience_s: float
) -> None:
    words = {"p2": None, "p3": OWN}
    assert judge(question, words, patience_s - 0.1).verdict is Verdict.WAIT
    found = judge(question, words, patience_s)
    assert (found.verdict, found.silent) == (Verdict.GO, ("p2",))


@pytest.mark.parametrize("loss_seen", [False, True])
def test_a_promotion_without_a_witness_is_refused_and_says_who_is_to_be_started(loss_seen: bool) -> None:
    question = replace(CLAIMS, loss_seen=loss_seen)
    words = {"p1": None, "p3": OWN}
    assert judge(question, words, CLAIM_PATIENCE_S - 0.1).verdict is Verdict.WAIT
    found = judge(question, words, CLAIM_PATIENCE_S)
    assert found.verdict is Verdict.REFUSE
    assert "Start p1" in found.why
    assert "--force" in found.why
    assert ("have lost the end" in found.why) == loss_seen


@pytest.mark.parametrize("question", [WRITES, CLAIMS, replace(CLAIMS, loss_seen=True)])
@pytest.mark.parametrize("itself", [True, False])
def test_with_a_witness_nobody_waits(question: Question, itself: bool) -> None:
    if itself:
        question = replace(question, own=replace(OWN, whole=True))
    found = judge(question, {"p2": None, "p3": OWN if itself else WITNESS}, 0.0)
    assert (found.verdict, found.silent) == (Verdict.GO, ())


@pytest.mark.parametrize("no", [{"marks": ("b5", "b6")}, {"marks": ()}, {"lost": True}, {"whole": False}])
def test_who_has_not_read_on_to_where_this_node_reads_is_no_witness(no: dict[str, object]) -> None:
    words = {"p2": None, "p3": replace(WITNESS, **no)}  # type: ignore[arg-type]
    assert judge(CLAIMS, words, 0.0).verdict is Verdict.WAIT


def test_who_was_gone_before_is_not_waited_for() -> None:
    question = replace(CLAIMS, away=frozenset({"p2"}))
    assert judge(question, {"p2": None, "p3": OWN}, 0.0).verdict is Verdict.GO
    assert judge(question, {"p2": None, "p3": None}, 0.0).verdict is Verdict.WAIT
    ahead = judge(question, {"p2": replace(OWN, revision=51), "p3": OWN}, 0.0)
    assert ahead.verdict is Verdict.WAIT, "it is back, and has more"


def test_of_three_brokers_or_more_nobody_tells_alone_what_the_others_have_lost() -> None:
    """They may have had what its own had not yet, and have lost it, while this node read on through its own."""
    question = replace(CLAIMS, own=replace(OWN, whole=True), alone=False)
    for words in ({"p2": None, "p3": None}, {"p2": None, "p3": replace(OWN, lost=True)}):
        assert judge(question, words, CLAIM_PATIENCE_S - 0.1).verdict is Verdict.WAIT
    found = judge(question, {"p2": None, "p3": None}, CLAIM_PATIENCE_S)
    assert found.verdict is Verdict.REFUSE
    assert "Start p2 or p3;" in found.why
    assert judge(question, {"p2": None, "p3": OWN}, 0.0).verdict is Verdict.GO
    assert judge(replace(question, alone=True), {"p2": None, "p3": None}, 0.0).verdict is Verdict.GO
    writes = replace(question, promotion=False)
    assert judge(writes, {"p2": None, "p3": None}, START_PATIENCE_S).verdict is Verdict.GO


@pytest.mark.parametrize(("with_broker", "alone"), [(0, True), (1, True), (2, True), (3, False), (4, False)])
def test_what_silent_members_say_of_brokers_depends_on_where_these_are(with_broker: int, *, alone: bool) -> None:
    nodes = (
        Change(kind="node", id=f"p{n}", spec={"broker": {"node": f"rabbit@p{n}"} if n < with_broker else None})
        for n in range(4)
    )
    assert counts_alone(State.genesis(generation="g", primary="p0", now=0, changes=tuple(nodes))) is alone
