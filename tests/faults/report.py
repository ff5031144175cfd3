"""What bad days came to, in words and figures."""

from collections import defaultdict
from collections.abc import Sequence
from statistics import median

from tests.faults.day import Outcome
from tests.faults.history import Attempt, Fault, History


def line(outcome: Outcome) -> str:
    history = outcome.history
    done = [fault.kind for fault in history.faults if fault.why_not is None]
    written = {one.op for one in history.attempts if one.action == "put" and one.done}
    failed = sum(1 for one in history.attempts if not one.done and one.status != 404)
    verdict = "ok" if not outcome.violations else f"{len(outcome.violations)} VIOLATIONS"
    return (
        f"seed {outcome.plan.seed}: {verdict}; {', '.join(done) or 'nothing'}; {len(history.attempts)} requests "
        f"({failed} failed), {len(written)} writes, {len(history.obeyed)} obeyed; whole after {outcome.healed_s:.1f} s"
    )


def story(outcome: Outcome) -> str:
    """What was done when, in seconds from the first request."""
    history = outcome.history
    zero_s = min((one.asked_s for one in history.attempts), default=0.0)
    lines = []
    for fault in history.faults:
        when = f"{fault.began_s - zero_s:6.2f} to {fault.ended_s - zero_s:6.2f} s"
        why_not = f": not done: {fault.why_not}" if fault.why_not is not None else ""
        lines.append(f"{when}  {fault.kind} {fault.target}{why_not}")
    return "\n".join([*lines, *outcome.notes])


def summary(outcomes: Sequence[Outcome]) -> str:
    """How often each fault was done, and how soon a write succeeded after it."""
    counts: dict[str, int] = defaultdict(int)
    times: dict[str, list[float]] = defaultdict(list)
    for outcome in outcomes:
        for fault in outcome.history.faults:
            if fault.why_not is None:
                counts[fault.kind] += 1
                recovered = recovery_s(outcome.history, fault)
                if recovered is not None:
                    times[fault.kind].append(recovered)
    rows = ["", f"{'fault':<16} {'times':>5}  until a write that was asked for after it succeeded: median, worst"]
    for kind in sorted(counts):
        found = times[kind]
        figures = f"{median(found):6.2f} s {max(found):6.2f} s  (of {len(found)})" if found else "     -"
        rows.append(f"{kind:<16} {counts[kind]:>5}  {figures}")
    bad = sum(1 for outcome in outcomes if outcome.violations)
    return "\n".join([*rows, f"{len(outcomes)} runs, {bad} with violations"])


def recovery_s(history: History, fault: Fault) -> float | None:
    """From the end of the fault until the first success of a write that was asked for since; None where another fault
    was there as well, so that nobody knows whose the time is."""
    answered = [one.answered_s for one in _written(history) if one.asked_s >= fault.ended_s]
    if not answered:
        return None
    end_s = min(answered)
    others = [one for one in history.faults if one is not fault and one.why_not is None]
    if any(one.began_s < end_s and one.ended_s > fault.began_s for one in others):
        return None
    return end_s - fault.ended_s


def _written(history: History) -> list[Attempt]:
    return [one for one in history.attempts if one.action == "put" and one.done]
