"""Rules about what is asked for besides values of settings: databases, and that settings go. Pure."""

from collections import defaultdict
from collections.abc import Iterator

from tests.faults.agreed import CATCH_UP_S, NOT_DONE, REFUSED, Log, Violation, forgotten
from tests.faults.history import Action, Attempt, History


def _of(history: History, action: Action) -> dict[str, list[Attempt]]:
    """Op → its attempts, in the order in which they were asked."""
    ops: dict[str, list[Attempt]] = defaultdict(list)
    for one in sorted(history.attempts, key=lambda one: one.asked_s):
        if one.action == action:
            ops[one.op].append(one)
    return ops


def databases(history: History, log: Log) -> Iterator[Violation]:
    """Each database that a node promised to have made is in the log, where that was said, and there; what was refused
    is not. The log has it from the agents as well, later: what counts is where it stands first."""
    for attempts in _of(history, "wish").values():
        setting = attempts[0].setting or ""
        told, at = {one.document for one in attempts if one.done}, log.wished.get(setting)
        if told and setting not in history.databases:
            yield Violation("agents", f"{setting} was asked for and acknowledged at {told}; nobody made it")
        if told and at is None:
            yield Violation("lost", f"{setting} was acknowledged at {told}, and is in no log")
        elif told and told != {at} and not forgotten(history, attempts):
            yield Violation("once", f"{setting} was acknowledged at {told}, and is at {at}")
        final = [one for one in attempts if one.code in REFUSED]
        if at is not None and final and not forgotten(history, attempts):
            yield Violation("refused", f"{setting} was refused with {final[0].code}, and is at {at}")
        elif at is not None and all(one.code in NOT_DONE for one in attempts):
            yield Violation("refused", f"{setting} was never done, as was said, and is at {at}")


def deletions(history: History, log: Log) -> Iterator[Violation]:
    """A setting is deleted once for each op that was acknowledged: after what had been acknowledged before that was
    asked for, no later than the answer; and not more often than it may have been. Deletions have no value to know them
    by."""
    acknowledged: dict[str, int] = defaultdict(int)
    possible: dict[str, int] = defaultdict(int)
    unsure = set()
    for op, attempts in _of(history, "delete").items():
        setting = attempts[0].setting or ""
        deleted = [put.revision for put in log.of_setting.get(setting, ()) if put.value is None]
        done = [one for one in attempts if one.done]
        acknowledged[setting] += bool(done)
        possible[setting] += any(one.code not in REFUSED | NOT_DONE for one in attempts)
        if forgotten(history, attempts):
            unsure.add(setting)
        floor = _acknowledged_before(history, setting, attempts[0].asked_s)
        for one in done:
            in_time = one.answered_s - one.asked_s < CATCH_UP_S and one.revision is not None
            end = one.revision if in_time and one.revision is not None else log.last
            if not any(floor < at <= end for at in deleted):
                text = f"{op} deleted {setting} between {floor} and {end}, as {one.node} said"
                yield Violation("lost", f"{text}; it was deleted at {deleted}")
    for setting in {put.setting for put in log.puts if put.value is None} | acknowledged.keys():
        count = sum(put.value is None for put in log.of_setting.get(setting, ()))
        if count < acknowledged[setting]:
            yield Violation("lost", f"{setting} was deleted {count} times; {acknowledged[setting]} were acknowledged")
        if count > possible[setting] and setting not in unsure:
            yield Violation("once", f"{setting} was deleted {count} times; {possible[setting]} may have been")


def _acknowledged_before(history: History, setting: str, asked_s: float) -> int:
    """The highest revision of a write to `setting` that had been answered by then."""
    told = (
        one.document or 0
        for one in history.attempts
        if one.action == "put" and one.setting == setting and one.done and one.answered_s < asked_s
    )
    return max(told, default=history.after)
