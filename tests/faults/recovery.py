"""How soon writes went on after a fault. Pure."""

from collections.abc import Iterator

from tests.faults.agreed import Violation
from tests.faults.history import Attempt, Fault, History
from tests.faults.plan import KINDS

WITHOUT_ONE_S = 30.0
"""Writes go on without one of several brokers, at the latest after so long: an election, and a connection to another
broker. On an idle machine it takes a second."""


def without_one(history: History) -> Iterator[Violation]:
    """Writes do not wait for the broker that is away, where the others are a majority. The nemesis leaves it away until
    one has succeeded, or for that long."""
    for fault in history.faults:
        if fault.role == "one" and fault.why_not is None and fault.kind != "broker alarm":
            took_s = recovery_s(history, fault)
            if took_s is not None and took_s > WITHOUT_ONE_S:
                text = f"no write succeeded for {took_s:.1f} s while {fault.target} was away ({fault.kind})"
                yield Violation("minority", text)


def recovery_s(history: History, fault: Fault) -> float | None:
    """Until the first success of a write that was asked for since: since the end of the fault, or, where the system has
    to go on without that (one of several brokers, say), since its begin. None where another fault was there as well, or
    was not over yet, so that nobody knows whose the time is."""
    since_s = fault.began_s if KINDS[fault.kind].alone or fault.role in ("standby", "one") else fault.ended_s
    end_s = _success_after(history, since_s)
    if end_s is None:
        return None
    for one in history.faults:
        if one is fault or one.why_not is not None or one.began_s >= end_s:
            continue
        over_s = _success_after(history, one.ended_s)
        if one.ended_s > fault.began_s or over_s is None or over_s > fault.began_s:
            return None
    return end_s - since_s


def _success_after(history: History, since_s: float) -> float | None:
    """When the first write that was asked for since then was answered with success."""
    return min((one.answered_s for one in written(history) if one.asked_s >= since_s), default=None)


def written(history: History) -> list[Attempt]:
    """What was acknowledged."""
    return [one for one in history.attempts if one.action == "put" and one.done]
