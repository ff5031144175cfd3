"""Who may begin a log of its own, and what is said of what that costs."""

from dataclasses import replace

import pytest

from provider.cli.agree import before
from provider.core.vouching import Word
from provider.recovery.survey import Answer, Asked, Heard, Plan, survey
from provider.states import Condition

AT_MS = 1_790_000_000_000
LONELY = Asked(
    node="p3",
    here=Condition("critical", "log: not connected", "log"),
    own=Word("old", epoch=4, revision=812),
    primary="p1",
    blocked=None,
    own_broker="rabbit@p3",
    broker_problem=None,
    waits=False,
    heard=[Heard("p1", 815, AT_MS), Heard("p2", 810, AT_MS)],
    heard_agents=None,
    answers={"p1": None, "p2": None},
)


def planned(asked: Asked) -> Plan:
    found = survey(asked)
    assert isinstance(found, Plan), found
    return found


def refused(asked: Asked) -> str:
    found = survey(asked)
    assert isinstance(found, str), found
    return found


def there(revision: int, *, log: str = "old", epoch: int = 4, primary: bool = False, reads: bool = False) -> Answer:
    return Answer(Word(log, epoch, revision), primary, reads)


def with_answer(**answers: Answer | None) -> Asked:
    return replace(LONELY, answers={**LONELY.answers, **answers})


def test_what_it_holds_and_what_others_were_heard_to_have_is_said_with_its_time() -> None:
    plan = planned(LONELY)
    assert (plan.lost, plan.kept, plan.newest) == (("p1", "p2"), (), 815)
    said = "\n".join(plan.told)
    assert "p3 holds everything up to revision 812 (epoch 4). The primary was p1." in said
    assert "p1 does not answer; last heard of 2026-09-21 14:13:20 UTC, at revision 815." in said
    assert "LOST: revisions 813 to 815, and whatever came behind them and is with p1 and p2 alone." in said


def test_what_an_agent_was_told_of_counts_as_well() -> None:
    plan = planned(replace(LONELY, heard_agents=Heard("db1", 820, AT_MS)))
    assert plan.newest == 820
    assert any("agent db1 was told of revision 820" in line for line in plan.told)


def test_who_was_heard_of_nothing_says_so_and_promises_nothing() -> None:
    said = "\n".join(planned(replace(LONELY, heard=[])).told)
    assert "p1 does not answer, and was not heard of since p3 was started." in said
    assert "LOST: whatever was acknowledged behind revision 812" in said


def test_a_primary_that_is_left_says_that_it_has_all_that_it_acknowledged() -> None:
    said = "\n".join(planned(replace(LONELY, node="p3", primary="p3", heard=[])).told)
    assert "all that it acknowledged is there" in said
    assert "LOST" not in said


def test_a_standby_that_answers_and_holds_no_more_goes_on_with_it() -> None:
    plan = planned(with_answer(p2=there(812)))
    assert (plan.lost, plan.kept) == (("p1",), ("p2",))
    assert any("p2 answers, holds no more, and goes on with p3 by itself" in line for line in plan.told)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (with_answer(p2=there(813)), "run this on p2"),
        (with_answer(p1=there(812, primary=True)), "Run this on p1"),
        (with_answer(p2=there(700, reads=True)), "Promote there, without --force"),
        (with_answer(p2=there(9, log="new", epoch=5)), "takes its state by itself"),
        (with_answer(p2=there(9, log="older", epoch=3)), "wait some seconds"),
        (replace(LONELY, here=Condition("out_of_sync", "truncated")), "take another node"),
        (replace(LONELY, here=Condition("removed", "p3 was removed")), "take another node"),
        (replace(LONELY, here=Condition("critical", "store: full", "store")), "take another node"),
        (replace(LONELY, blocked="the broker takes no writes (low on disk)"), "not lost"),
        (replace(LONELY, broker_problem="root's part has not run"), "root's part"),
        (replace(LONELY, waits=True), "begun by force already"),
        (replace(LONELY, stored=815), "the database of p3 has revision 815 by now, p3 only 812"),
    ],
)
def test_where_something_else_is_left_it_is_refused_and_says_what(asked: Asked, words: str) -> None:
    assert words in refused(asked)


def test_who_holds_more_than_the_primary_is_where_to_run_it_and_is_not_sent_back_to_it() -> None:
    standby = replace(LONELY, answers={"p1": there(811, primary=True), "p2": None})
    assert planned(standby).kept == ("p1",)
    primary = replace(LONELY, node="p1", own=Word("old", 4, 811), primary="p1", answers={"p3": there(812), "p2": None})
    assert "run this on p3" in refused(primary)


def test_who_has_lost_the_log_itself_and_holds_more_stands_in_nobodys_way() -> None:
    lost = replace(there(900), word=Word("old", 4, 900, lost=True))
    assert planned(with_answer(p2=lost)).kept == ("p2",)


def test_what_is_agreed_to_is_what_was_shown() -> None:
    shown = planned(LONELY)
    assert planned(LONELY).accept == shown.accept
    others = [with_answer(p2=there(812)), replace(LONELY, heard=[]), replace(LONELY, own=Word("old", 4, 813))]
    assert shown.accept not in {planned(other).accept for other in others}


def test_the_question_says_what_becomes_of_broker_members_and_data() -> None:
    text = "\n".join(before("p3", planned(LONELY).shown()))
    assert "(rabbit@p3) starts again, empty. What it holds now is kept" in text
    assert "p1 and p2 are removed for ever" in text
    assert "If p1 or p2 can be brought back with its disk, answer no" in text
    assert "not Bellwether's" in "\n".join(before("p3", planned(replace(LONELY, own_broker=None)).shown()))
