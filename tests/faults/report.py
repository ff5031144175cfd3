"""What bad days came to, in words and figures."""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from tests.faults.day import Outcome
from tests.faults.history import Fault
from tests.faults.recovery import recovery_s, written


@dataclass(frozen=True, slots=True)
class Recovered:
    """One fault that was done. `again_s`: until a write succeeded (see `recovery_s`); `whole_s`: from its end until all
    members were well. None where others were there as well."""

    kind: str
    role: str
    again_s: float | None
    whole_s: float | None

    @property
    def name(self) -> str:
        return self.kind if self.role == "-" else f"{self.kind}, {self.role}"


@dataclass(frozen=True, slots=True)
class Done:
    """One run, as it is kept."""

    seed: int
    seconds: float
    requests: int
    writes: int
    healed_s: float
    faults: tuple[Recovered, ...]
    violations: tuple[str, ...]


def line(outcome: Outcome) -> str:
    history = outcome.history
    done = [fault.kind for fault in history.faults if fault.why_not is None]
    written = {one.op for one in history.attempts if one.action == "put" and one.done}
    failed = sum(1 for one in history.attempts if not one.done and one.status != 404)
    verdict = "ok" if not outcome.violations else f"{len(outcome.violations)} VIOLATIONS"
    return (
        f"seed {outcome.plan.seed}: {verdict}; {', '.join(done) or 'nothing'}; {len(history.attempts)} requests "
        f"({failed} failed), {len(written)} writes, {sum(len(one.entries) for one in history.followed)} events told, "
        f"{len(history.obeyed)} obeyed; whole after {outcome.healed_s:.1f} s"
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


def done(outcome: Outcome) -> Done:
    """What is kept of it."""
    history = outcome.history
    faults = [fault for fault in history.faults if fault.why_not is None]
    return Done(
        seed=outcome.plan.seed,
        seconds=outcome.plan.seconds,
        requests=len(history.attempts),
        writes=len({one.op for one in written(history)}),
        healed_s=round(outcome.healed_s, 2),
        faults=tuple(_recovered(outcome, fault, only=len(faults) == 1) for fault in faults),
        violations=tuple(map(str, outcome.violations)),
    )


def _recovered(outcome: Outcome, fault: Fault, *, only: bool) -> Recovered:
    again_s = recovery_s(outcome.history, fault)
    whole_s = outcome.whole_s - fault.ended_s if only and outcome.whole_s else None
    return Recovered(
        fault.kind,
        fault.role,
        None if again_s is None else round(again_s, 3),
        None if whole_s is None else round(whole_s, 2),
    )


def summary(runs: Sequence[Done]) -> str:
    """How often each fault was done, how soon a write succeeded after it, and how soon all nodes were well."""
    found: dict[str, list[Recovered]] = defaultdict(list)
    for run in runs:
        for one in run.faults:
            found[one.name].append(one)
    rows = [
        "",
        f"{'':<30} {'':>5}  a write succeeds (s)         all are well (s)",
        f"{'fault':<30} {'times':>5}  median   worst   of         median   worst   of",
    ]
    for name in sorted(found):
        again = _figures([one.again_s for one in found[name]])
        rows.append(
            f"{name:<30} {len(found[name]):>5}  {again}        {_figures([one.whole_s for one in found[name]])}"
        )
    count = sum(len(ones) for ones in found.values())
    bad = sum(1 for run in runs if run.violations)
    writes = sum(run.writes for run in runs)
    return "\n".join([*rows, f"{len(runs)} runs, {count} faults, {writes} acknowledged writes, {bad} with violations"])


def _figures(times: Sequence[float | None]) -> str:
    known = [one for one in times if one is not None]
    return f"{median(known):6.2f}  {max(known):6.2f}  {len(known):>3}" if known else f"{'-':>6}  {'-':>6}  {0:>3}"


# ── over many sittings ───────────────────────────────────────────────────────────────────────────────────────────────


def keep(file: Path, run: Done) -> None:
    """Adds it to `file`, as a line."""
    with file.open("a") as lines:
        lines.write(json.dumps(asdict(run)) + "\n")


def kept(files: Iterable[Path]) -> list[Done]:
    """What `keep` wrote."""
    return [_read(json.loads(line)) for file in files for line in file.read_text().splitlines()]


def _read(raw: dict[str, Any]) -> Done:
    faults = tuple(Recovered(**one) for one in raw["faults"])
    return Done(**raw | {"faults": faults, "violations": tuple(raw["violations"])})
