"""Invariant: the time of a recovery is told only where it is known whose it is."""

from pathlib import Path

from tests.faults.history import Attempt, Fault, History
from tests.faults.recovery import recovery_s
from tests.faults.report import Done, Recovered, keep, kept, summary


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


def test_where_the_system_must_go_on_by_itself_it_is_counted_from_the_begin() -> None:
    standby = Fault("kill", "p2", 3.5, 9, role="standby")
    assert recovery_s(history(standby), standby) == 4.5
    promoted = Fault("promote", "p2", 5.5, 9, role="standby")
    assert recovery_s(history(promoted), promoted) == 2.5


def test_it_is_not_told_where_an_earlier_fault_was_not_over_yet() -> None:
    assert recovery_s(history(KILL, Fault("stop", "p2", 0, 0.5)), KILL) is None
    assert recovery_s(history(KILL, Fault("stop", "p2", -1, -0.5)), KILL) == 3


def test_what_was_kept_of_runs_is_read_back(tmp_path: Path) -> None:
    faults = (Recovered("kill", "primary", 0.5, None), Recovered("blackout", "-", 4.0, 9.0))
    run = Done(17, 8.0, 100, 40, 3.0, faults, ("lost: it",))
    keep(tmp_path / "runs", run)
    keep(tmp_path / "runs", run)
    assert kept([tmp_path / "runs"]) == [run, run]
    assert "2 runs, 4 faults, 80 acknowledged writes, 2 with violations" in summary([run, run])


def test_it_is_not_told_where_nothing_succeeded_since() -> None:
    late = Fault("kill", "p1", 2, 20)
    assert recovery_s(history(late), late) is None
