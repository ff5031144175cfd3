"""Invariant: the time of a recovery is told only where it is known whose it is."""

from tests.faults.history import Attempt, Fault, History
from tests.faults.report import recovery_s


def wrote(asked_s: float, answered_s: float, status: int = 200) -> Attempt:
    return Attempt("c", f"{asked_s}", "put", "p1", asked_s, answered_s, status)


def history(*faults: Fault) -> History:
    attempts = (wrote(0, 1), wrote(4, 9), wrote(5, 6, 503), wrote(6, 8), wrote(7, 10))
    return History(1, 1, 1, "p1", attempts, (), faults=faults)


KILL = Fault("kill", "p1", 2, 5)


def test_it_ends_with_the_first_success_that_was_asked_for_since() -> None:
    assert recovery_s(history(KILL), KILL) == 3


def test_it_is_not_told_where_another_fault_was_there_as_well() -> None:
    assert recovery_s(history(KILL, Fault("stop", "p2", 6, 7)), KILL) is None
    assert recovery_s(history(KILL, Fault("stop", "p2", 1, 3)), KILL) is None
    assert recovery_s(history(KILL, Fault("stop", "p2", 9, 10)), KILL) == 3
    assert recovery_s(history(KILL, Fault("stop", "p2", 6, 7, why_not="dead")), KILL) == 3


def test_it_is_not_told_where_nothing_succeeded_since() -> None:
    late = Fault("kill", "p1", 2, 20)
    assert recovery_s(history(late), late) is None
