"""Invariant: where a log was begun by force, what the command said to be lost may be missing, and nothing else."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults.begun import Begun
from tests.faults.checker import check
from tests.faults.history import Attempt, Beginning, Entry, Followed, History, Witness

OLD = (Entry(11, 1, "entry", "p1", (("a", "one"),)), Entry(12, 2, "claim", "p2"))
GONE = Entry(13, 2, "entry", "p2", (("a", "two"),))
NEW = (Entry(1000, 500, "entry", "p3"), Entry(1001, 500, "entry", "p3", (("b", "three"),)))


def wrote(op: str, asked: float, at: int, node: str, epoch: int, setting: str = "a") -> Attempt:
    said = {"status": 200, "node": node, "role": "primary", "epoch": epoch, "revision": at, "document": at}
    return Attempt("c1", op, "put", node, asked, asked + 1, setting=setting, **said)  # type: ignore[arg-type]


def read(asked: float, at: int, node: str, epoch: int, found: tuple[int, str]) -> Attempt:
    said = {"status": 200, "node": node, "role": "standby", "epoch": epoch, "revision": at}
    return Attempt("c2", "r", "read", node, asked, asked + 0.5, setting="a", document=found[0], found=found[1], **said)  # type: ignore[arg-type]


BEGUN = Beginning("p3", ("p1", "p2"), 8.0, 20.0, 12, 500, 1000, costs=True, entries=OLD)
ATTEMPTS = (
    wrote("one", 0, 11, "p1", 1),
    wrote("two", 5, 13, "p2", 2),
    read(7, 13, "p2", 2, (13, "two")),
    read(7, 12, "p3", 2, (11, "one")),
    wrote("three", 21, 1001, "p3", 500, "b"),
    read(23, 1001, "p3", 500, (11, "one")),
)
HELD = {"a": (11, "one"), "b": (1001, "three")}
SWORN = tuple(Witness(name, "h", 500, "p3", 1001, "d", NEW, HELD) for name in ("p3", "p4"))
TOLD = (Followed("p2", 10, (*(replace(one, puts=()) for one in OLD), replace(GONE, puts=()))),)
GOOD = History(7, 10, 1, "p1", ATTEMPTS, SWORN, followed=TOLD, begun=BEGUN)


def begun(**changes: object) -> History:
    return replace(GOOD, begun=replace(BEGUN, **changes))  # type: ignore[arg-type]


def also(*attempts: Attempt) -> History:
    return replace(GOOD, attempts=GOOD.attempts + attempts)


def sworn_to(*entries: Entry) -> History:
    return replace(GOOD, witnesses=tuple(replace(one, entries=entries) for one in SWORN))


BROKEN: dict[str, tuple[str, Callable[[], History]]] = {
    "a loss that nobody was told of": ("lost", lambda: begun(costs=False)),
    "a state that is gone, shown by who is left": ("lost", lambda: also(read(7.4, 13, "p3", 2, (13, "two")))),
    "less than was said to be held": ("one log", lambda: begun(entries=OLD[:1])),
    "more than was said to be held": ("one log", lambda: begun(entries=(*OLD, GONE))),
    "a write to the new log that is gone": ("lost", lambda: also(wrote("four", 22, 1002, "p3", 500))),
    "what was held, and is not there any more": (
        "contents",
        lambda: replace(GOOD, witnesses=tuple(replace(one, settings={"b": (1001, "three")}) for one in SWORN)),
    ),
    "what was lost, and is there": (
        "contents",
        lambda: replace(GOOD, witnesses=tuple(replace(one, settings={**HELD, "a": (13, "two")}) for one in SWORN)),
    ),
    "a record of somebody else in the new log": (
        "epochs",
        lambda: sworn_to(NEW[0], replace(NEW[1], node="p1")),
    ),
    "a new log with a gap": ("one log", lambda: sworn_to(NEW[0], replace(NEW[1], revision=1002))),
}


def test_what_was_said_to_be_lost_may_be_missing() -> None:
    assert check(GOOD) == []


def test_what_nobody_was_told_to_be_done_may_be_gone_with_those_who_showed_it() -> None:
    unanswered = replace(ATTEMPTS[1], status=0, node=None, role=None, epoch=None, revision=None, document=None)
    shown = replace(begun(costs=False), attempts=(ATTEMPTS[0], unanswered, *ATTEMPTS[2:]))
    assert check(shown) == []


@pytest.mark.parametrize("what", BROKEN)
def test_finds(what: str) -> None:
    rule, make = BROKEN[what]
    found = check(make())
    assert rule in {one.rule for one in found}, found


def test_it_is_the_same_after_it_was_written(tmp_path: Path) -> None:
    GOOD.write(tmp_path / "history.json")
    assert History.read(tmp_path / "history.json") == GOOD


def test_the_command_says_where_the_log_begins_and_whether_that_costs_anything() -> None:
    steps = [{"detail": "p3 goes on"}, {"detail": "log 5f0c1ab2 begins at epoch 500, revision 1000"}]
    said = {"steps": steps, "anew": {"told": ["p3 holds all", "LOST: revisions 13 to 14"]}}
    told = Begun("p3", ("p1",), 0, 1, said, ())
    assert told.first == (500, 1000)
    assert told.costs
    primary = {"steps": steps, "anew": {"told": ["p3 holds all", "Nothing is known to be missing, …"]}}
    assert not replace(told, said=primary).costs
