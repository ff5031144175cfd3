"""Whether a history keeps every promise. Pure: a history in, violations out.

The log is the witness: every node testifies what it accepted, in order. From there each answer can be judged by itself,
without a search for an order that would explain them all.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace

from tests.faults.agreed import CATCH_UP_S, NOT_DONE, REFUSED, Log, Violation, forgotten
from tests.faults.asked import databases, deletions
from tests.faults.begun import excused
from tests.faults.history import Action, Attempt, Entry, History, Witness
from tests.faults.recovery import without_one

_BUSY = frozenset({408, 429})
MAY_BE: dict[Action, frozenset[int]] = {
    "put": _BUSY | {409},
    "wish": _BUSY | {409},
    "delete": _BUSY | {404, 409},
    "read": _BUSY | {404},
    "list": _BUSY,
    "look": _BUSY,
}
"""Refusals that an administrator who asks for what there is can rightly get."""


def check(history: History) -> list[Violation]:
    """Every broken promise that can be seen."""
    if not history.witnesses:
        return [Violation("equal", "no node testifies")]
    history = excused(history)
    found = [*_equal(history.witnesses), *_one_log(history)]
    longest = max(history.witnesses, key=lambda one: (one.revision, len(one.entries)))
    log = Log(history, longest.entries)
    writes, reads = (_once, _refused, _real_time, _matches), (_reads_back, _contents, _headers, _looks)
    for rule in (_sequence, _final, _backups, *writes, *reads):
        found += rule(history, log)
    for rule in (_streams, databases, deletions):
        found += rule(history, log)
    return [*found, *_obedience(history), *_earlier(history), *_answered(history), *without_one(history)]


def check_again(history: History, witnesses: tuple[Witness, ...]) -> list[Violation]:
    """The same day judged by what the nodes testify after all of them were started anew: from their disks."""
    if not history.witnesses or not witnesses:
        return [Violation("equal", "no node testifies")]
    first = history.witnesses[0]
    found = []
    for one in witnesses:
        there = {entry.revision: entry for entry in one.entries}
        for entry in first.entries:
            if there.get(entry.revision) != entry:
                text = f"at {entry.revision} there was {entry}, {one.node} has {there.get(entry.revision)} since"
                found.append(Violation("lost", f"{text} it was started anew"))
        if one.revision == first.revision and one.digest != first.digest:
            found.append(
                Violation("equal", f"{one.node} at {one.revision} has another digest since it was started anew")
            )
    return [*found, *check(replace(history, witnesses=witnesses))]


# ── the nodes' own witnesses ───────────────────────────────────────────────────────────────────────────────────────


def _equal(witnesses: tuple[Witness, ...]) -> Iterator[Violation]:
    first = witnesses[0]
    for one in witnesses[1:]:
        for name in ("generation", "epoch", "primary", "revision", "digest"):
            if getattr(one, name) != getattr(first, name):
                yield Violation(
                    "equal", f"{name} is {getattr(first, name)} on {first.node}, {getattr(one, name)} on {one.node}"
                )


def _one_log(history: History) -> Iterator[Violation]:
    """No two nodes accepted different records at the same revision; none has a gap."""
    seen: dict[int, tuple[str, Entry]] = {}
    for one in history.witnesses:
        for before, entry in zip((None, *one.entries), one.entries, strict=False):
            if before is not None and entry.revision != before.revision + 1:
                yield Violation("one log", f"{one.node}: revision {entry.revision} follows {before.revision}")
            node, other = seen.setdefault(entry.revision, (one.node, entry))
            if other != entry:
                yield Violation("one log", f"at {entry.revision} {node} has {other}, {one.node} has {entry}")
        last = one.entries[-1].revision if one.entries else one.revision
        if last != one.revision:
            yield Violation("one log", f"{one.node} is at {one.revision}, its history ends at {last}")


def _sequence(history: History, log: Log) -> Iterator[Violation]:
    """Epochs follow each other, each with one primary, who alone commits in it."""
    epoch, primary, revision = history.epoch, history.primary, history.after
    begun = history.begun
    for entry in log.entries:
        if begun is not None and entry.revision == begun.first and revision == begun.revision:
            epoch, primary, revision = begun.epoch, begun.node, begun.first - 1
        if entry.revision != revision + 1:
            yield Violation("one log", f"revision {entry.revision} follows {revision}")
        revision = entry.revision
        if entry.type == "claim":
            if entry.epoch != epoch + 1:
                yield Violation("epochs", f"at {revision} a claim of {entry.node} begins {entry.epoch} after {epoch}")
            epoch, primary = entry.epoch, entry.node
        elif entry.epoch != epoch:
            yield Violation("epochs", f"at {revision} {entry.node} commits in epoch {entry.epoch}; {epoch} had begun")
        elif entry.node != primary:
            yield Violation("epochs", f"at {revision} {entry.node} commits in epoch {epoch}, which is {primary}'s")


def _final(history: History, log: Log) -> Iterator[Violation]:
    for one in history.witnesses:
        should = log.settings_at(one.revision)
        if one.settings != should:
            differ = {name for name in should | one.settings if should.get(name) != one.settings.get(name)}
            name = min(differ)
            yield Violation(
                "contents", f"{one.node} holds {one.settings.get(name)} as {name}, its log says {should.get(name)}"
            )


def _backups(history: History, log: Log) -> Iterator[Violation]:
    """A backup has what the log says at its revision."""
    for one in history.backups:
        should = log.settings_at(one.revision)
        if log.lacks(one.revision):
            yield Violation("lost", f"the backup {one.name} is of {one.revision}; the log ends at {log.last}")
        elif one.settings != should:
            yield Violation("contents", f"the backup {one.name} at {one.revision} {_difference(one.settings, should)}")


def _earlier(history: History) -> Iterator[Violation]:
    """What nodes held at the end of an earlier run they hold still. A write of then that nobody waited for any more may
    have come later; whose it is, is told by what the names of settings and ops have in common."""
    for one in history.witnesses:
        for setting, held in history.earlier.items():
            now = one.earlier.get(setting)
            mark = setting.split(".")[2] if setting.count(".") >= 2 else setting
            if now != held and not (now is not None and now[0] > held[0] and now[1].startswith(f"{mark}.")):
                yield Violation("lost", f"{one.node} has {now} as {setting}, which was {held} on an earlier day")


# ── writes ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _writes(history: History) -> Iterator[tuple[str, list[Attempt]]]:
    """Ops with their attempts, in the order in which they were asked."""
    ops: dict[str, list[Attempt]] = defaultdict(list)
    for attempt in sorted(history.attempts, key=lambda one: one.asked_s):
        if attempt.action == "put":
            ops[attempt.op].append(attempt)
    yield from ops.items()


def _once(history: History, log: Log) -> Iterator[Violation]:
    """What was acknowledged is there, once, where it was said to be; nothing is there that nobody asked for."""
    asked = set()
    for op, attempts in _writes(history):
        asked.add(op)
        puts = log.of_value.get(op, [])
        told = {attempt.document for attempt in attempts if attempt.done}
        if len(puts) > 1 and forgotten(history, attempts):
            if not told <= {put.revision for put in puts}:
                yield Violation("once", f"{op} was acknowledged at {told}, and is at {[put.revision for put in puts]}")
            continue
        if len(puts) > 1:
            yield Violation("once", f"{op} was done {len(puts)} times: {[put.revision for put in puts]}")
        if told and not puts:
            yield Violation("lost", f"{op} was acknowledged at {told}, and is in no log")
        elif told and told != {puts[0].revision}:
            yield Violation("once", f"{op} was acknowledged at {told}, and is at {puts[0].revision}")
        if puts and puts[0].setting != attempts[0].setting:
            yield Violation("once", f"{op} was asked for {attempts[0].setting}, and is in {puts[0].setting}")
    for op in log.of_value.keys() - asked:
        yield Violation("once", f"{op} is in the log, and nobody has asked for it")


def _refused(history: History, log: Log) -> Iterator[Violation]:
    """What was said not to be done was not done."""
    for op, attempts in _writes(history):
        if op not in log.of_value:
            continue
        at = log.of_value[op][0].revision
        final = [one for one in attempts if one.code in REFUSED]
        if final and forgotten(history, attempts):
            continue  # done, forgotten, asked for again, and refused: it had replaced what it was to replace
        if final:
            yield Violation("refused", f"{op} was refused with {final[0].code} by {final[0].node}, and is at {at}")
        elif all(one.code in NOT_DONE for one in attempts):
            codes = [f"{one.code} by {one.node}" for one in attempts]
            yield Violation("refused", f"{op} was never done, as was said ({', '.join(codes)}), and is at {at}")


def _real_time(history: History, log: Log) -> Iterator[Violation]:
    """What was asked for after something was acknowledged comes after it."""
    ended: list[tuple[float, int, str]] = []
    begun: list[tuple[float, int, str]] = []
    for op, attempts in _writes(history):
        if op in log.of_value:
            revision, told = log.of_value[op][0].revision, [one.answered_s for one in attempts if one.done]
            begun.append((attempts[0].asked_s, revision, op))
            if told:
                ended.append((min(told), revision, op))
    for (revision, op), (before, other) in _overtaken(begun, ended):
        yield Violation("real time", f"{op} at {revision} was asked for when {other} at {before} had been answered")


def _overtaken(
    begun: list[tuple[float, int, str]], ended: list[tuple[float, int, str]]
) -> Iterator[tuple[tuple[int, str], tuple[int, str]]]:
    """Those of `begun` (time, revision, name) that are not above the highest of what had `ended` before."""
    ended.sort()
    number, highest = 0, (0, "")
    for asked_s, revision, name in sorted(begun):
        while number < len(ended) and ended[number][0] < asked_s:
            highest = max(highest, ended[number][1:])
            number += 1
        if revision <= highest[0]:
            yield (revision, name), highest


def _matches(history: History, log: Log) -> Iterator[Violation]:
    """`If-Match`: what was written replaced what its writer had seen; what was refused had been replaced."""
    for op, attempts in _writes(history):
        match, setting = attempts[0].match, attempts[0].setting
        if match is None or setting is None:
            continue
        puts = log.of_setting.get(setting, [])
        for number, put in enumerate(puts):
            replaced = puts[number - 1].revision if number else 0
            if put.value == op and replaced != match:
                yield Violation("If-Match", f"{op} at {put.revision} was to replace {match}, and replaced {replaced}")
        stale = any(one.code == "stale_revision" for one in attempts)
        if stale and (puts[-1].revision if puts and puts[-1].value is not None else 0) == match:
            yield Violation("If-Match", f"{op} was refused, although {match} was the newest of {setting}")


def _answered(history: History) -> Iterator[Violation]:
    """Nobody was refused what he may ask for, and was asked for rightly."""
    removed = {one.target for one in history.faults if one.kind == "remove"}  # knows its clients no more
    for one in history.attempts:
        rightly = MAY_BE[one.action] | ({412} if one.match is not None else frozenset())
        if one.node is not None and one.node not in removed and 400 <= one.status < 500 and one.status not in rightly:
            yield Violation("answers", f"{one.node} answered {one.action} of {one.op} with {one.status} {one.code}")


# ── reads ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _answers(history: History) -> dict[str, list[Attempt]]:
    """By node: everything that it answered, in the order in which it was asked."""
    found: dict[str, list[Attempt]] = defaultdict(list)
    for attempt in sorted(history.attempts, key=lambda one: one.asked_s):
        if attempt.node is not None and attempt.revision is not None:
            found[attempt.node].append(attempt)
    return found


def _floors(answers: list[Attempt]) -> Iterator[tuple[Attempt, int]]:
    """Each answer of a node with the highest revision that it had shown before it was asked."""
    ended = sorted((one.answered_s, one.revision or 0) for one in answers)
    number = floor = 0
    for one in answers:
        while number < len(ended) and ended[number][0] < one.asked_s:
            floor = max(floor, ended[number][1])
            number += 1
        yield one, floor


def _reads_back(history: History, _log: Log) -> Iterator[Violation]:
    """A node never shows an older state than it has shown, nor one that is older than it was asked for."""
    for node, answers in _answers(history).items():
        for one, floor in _floors(answers):
            revision = one.revision or 0
            if revision < floor:
                yield Violation("reads", f"{node} answered from {revision} after it had from {floor} ({one.action})")
            if one.done and one.minimum is not None and revision < one.minimum:
                yield Violation("reads", f"{node} answered from {revision}, asked for {one.minimum} at least")
            own = one.document if one.action == "put" and one.done else None
            if own is not None and revision < own and one.answered_s - one.asked_s < CATCH_UP_S:
                yield Violation("reads", f"{node} answered a write at {own} from {revision}, too soon")


def _contents(history: History, log: Log) -> Iterator[Violation]:
    """What was read is what the log says."""
    for node, answers in _answers(history).items():
        for one, floor in _floors(answers):
            if one.action == "list" and one.done and one.document is not None:
                should = log.settings_at(one.document)
                if one.items != should:
                    yield Violation("contents", f"{node} listed at {one.document} {_difference(one.items, should)}")
            elif one.action == "read" and one.setting is not None and one.status in (200, 404):
                yield from _read(log, one, floor)


def _read(log: Log, one: Attempt, floor: int) -> Iterator[Violation]:
    """The state that was read is no older than the node's last answer, and no newer than this one."""
    setting, revision = one.setting or "", one.revision or 0
    possible = [
        log.held(setting, floor),
        *(p for p in log.of_setting.get(setting, ()) if floor < p.revision <= revision),
    ]
    said = (one.document, one.found) if one.done else None
    if said not in [None if put is None or put.value is None else (put.revision, put.value) for put in possible]:
        yield Violation("contents", f"{one.node} read {said} in {setting} between {floor} and {revision}: {possible}")


def _difference(items: dict[str, tuple[int, str]] | None, should: dict[str, tuple[int, str]]) -> str:
    found = items or {}
    name = min(name for name in found | should if found.get(name) != should.get(name))
    return f"{name} as {found.get(name)}, the log says {should.get(name)}"


def _headers(history: History, log: Log) -> Iterator[Violation]:
    """Revision, epoch and role of each answer are of one state, and of one that was."""
    for node, answers in _answers(history).items():
        for one in answers:
            revision = one.revision or 0
            if log.lacks(revision):
                yield Violation("lost", f"{node} answered from {revision}; the log ends at {log.last}")
            elif revision >= history.after and one.epoch != log.epoch_at(revision):
                yield Violation("epochs", f"{node} at {revision} said epoch {one.epoch}, not {log.epoch_at(revision)}")
            elif one.role == "primary" and one.epoch is not None and log.primaries.get(one.epoch, node) != node:
                yield Violation(
                    "epochs", f"{node} called itself primary of {one.epoch}; {log.primaries[one.epoch]} was"
                )


def _looks(history: History, _log: Log) -> Iterator[Violation]:
    """At the same revision all nodes are equal, at any time."""
    digests = {one.revision: (one.node, one.digest) for one in history.witnesses}
    for one in history.attempts:
        if one.action == "look" and one.done and one.document is not None and one.node is not None:
            node, digest = digests.setdefault(one.document, (one.node, one.found or ""))
            if digest != one.found:
                yield Violation("equal", f"at {one.document} {node} and {one.node} have different digests")


def _streams(history: History, log: Log) -> Iterator[Violation]:
    """Who follows `/events` is told of every record, once, in order, as the log has it."""
    there = {entry.revision: replace(entry, puts=(), wishes=()) for entry in log.entries}
    for one in history.followed:
        before = one.after
        for entry in one.entries:
            if entry.revision != before + 1:
                yield Violation("events", f"{one.node} told of {entry.revision} after {before}")
            before = entry.revision
            if log.lacks(before):
                yield Violation("lost", f"{one.node} told of {before}; the log ends at {log.last}")
            elif there.get(before, entry) != entry:
                yield Violation("events", f"{one.node} told of {entry}, the log has {there[before]}")


# ── agents ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _obedience(history: History) -> Iterable[Violation]:
    """No agent obeyed an older epoch after a newer one."""
    newest: dict[str, int] = {}
    for one in sorted(history.obeyed, key=lambda obeyed: obeyed.at_s):
        if one.epoch < newest.get(one.agent, 0):
            yield Violation("agents", f"{one.agent} obeyed {one.type} of {one.epoch} after {newest[one.agent]}")
        newest[one.agent] = max(one.epoch, newest.get(one.agent, 0))
