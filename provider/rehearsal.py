"""What decides about a rehearsal: whether the cluster is fit for one, and what came of it. Pure.

A rehearsal promotes a standby and then the old primary again, while writers write. Each of their writes is numbered;
what was acknowledged must stand in the history afterwards, once. Times are monotonic seconds.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from provider.core.commands import REHEARSAL_SETTINGS

WRITERS_EVERY_S = 0.02
"""Pause of a writer between two writes. With one writer for each node that is at most 200 writes a second."""
WRITES_BETWEEN = 25
"""Each writer must have been answered so often before the first promotion, and after each."""


@dataclass(frozen=True, slots=True)
class Write:
    """One write and what its writer was told. `revision` None: it was never acknowledged."""

    key: str
    number: int
    revision: int | None
    began_s: float
    ended_s: float
    attempts: int
    error: str | None = None

    @property
    def took_s(self) -> float:
        return self.ended_s - self.began_s


@dataclass(frozen=True, slots=True)
class Leg:
    """One promotion of a rehearsal. `result` is the promotion's last line; agents: names, as known when it ended."""

    before: str
    node: str
    began_s: float
    ended_s: float
    result: Mapping[str, Any]
    steps: Sequence[Mapping[str, Any]] = ()
    online: int = 0
    missing: Sequence[str] = ()

    @property
    def done(self) -> bool:
        return self.result.get("result") == "promoted"


@dataclass(frozen=True, slots=True)
class Told:
    """A write of a rehearsal as a node's history has it."""

    key: str
    number: int
    revision: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """All that is known when a rehearsal ends. `told`: by node, what its history has."""

    node: str
    primary: str
    epoch: int
    writes: Sequence[Write]
    legs: Sequence[Leg]
    told: Mapping[str, Sequence[Told]] = field(default_factory=dict)
    trouble: str | None = None
    """Why it was not brought to its end."""
    left: Sequence[str] = ()
    """What could not be tidied up."""


def unfit(cluster: Mapping[str, Any], node: str, said_by_others: Mapping[str, str]) -> list[str]:
    """Why no rehearsal is begun on `node`; empty where it may be. `cluster`: `GET /cluster` of this node.
    `said_by_others`: by node, whom it takes for the primary and in which epoch, or why it does not answer."""
    nodes = cluster["nodes"]
    standbys = [n["name"] for n in nodes if n["role"] == "standby"]
    if node == cluster["primary"]:
        where = f"run it on a standby: {', '.join(standbys)}" if standbys else "there is no standby to promote"
        return [f"{node} is the primary: {where}"]
    out = []
    if node not in standbys:
        out.append(f"{node} is no member of the cluster")
    for n in nodes:
        if n["state"] != "active":
            reason = f" ({n['reason']})" if n["reason"] else ""
            out.append(f"{n['name']} is {n['state']}{reason}")
    agreed = who(cluster)
    out += [f"{name}: {said}" for name, said in said_by_others.items() if said != agreed]
    return out


def who(cluster: Mapping[str, Any]) -> str:
    """Whom a node takes for the primary."""
    return f"{cluster['primary']} is primary, epoch {cluster['epoch']}"


def told_by(events: Iterable[Mapping[str, Any]], run: str) -> list[Told]:
    """The writes of this run in a node's events."""
    prefix = f"{REHEARSAL_SETTINGS}{run}."
    return [
        Told(change["id"], change["spec"]["value"], event["revision"])
        for event in events
        for change in event["changes"]
        if change["op"] == "put" and change["kind"] == "setting" and change["id"].startswith(prefix)
    ]


def report(outcome: Outcome, took_s: float) -> dict[str, Any]:
    """What came of it, for programs. `result`: clean, not_clean or failed."""
    made = [write for write in outcome.writes if write.revision is not None]
    lost, twice = _lost(made, outcome.told), _twice(outcome.told)
    failed = [write for write in outcome.writes if write.revision is None]
    ended = outcome.trouble is None and len(outcome.legs) == 2 and all(leg.done for leg in outcome.legs)
    clean = ended and not (lost or twice or failed)
    quiet = [w.took_s for w in made if not outcome.legs or w.ended_s < outcome.legs[0].began_s]
    return {
        "result": "clean" if clean else "not_clean" if ended else "failed",
        "node": outcome.node,
        "primary": outcome.primary,
        "epoch": outcome.epoch,
        "writes": {
            "made": len(made),
            "failed": len(failed),
            "lost": len(lost),
            "twice": len(twice),
            "asked_again": sum(write.attempts > 1 for write in made),
            "errors": sorted({write.error for write in failed if write.error is not None})[:5],
            "usual_ms": round(median(quiet) * 1000, 1) if quiet else None,
        },
        "lost": sorted(lost)[:20],
        "directions": [_direction(leg, outcome) for leg in outcome.legs],
        "took_s": round(took_s, 3),
        "detail": outcome.trouble,
        "left": list(outcome.left),
    }


def _lost(made: Sequence[Write], told: Mapping[str, Sequence[Told]]) -> set[str]:
    """Acknowledged writes that some node's history does not have at that revision."""
    out = set()
    for node, found in told.items():
        held = {(one.key, one.number): one.revision for one in found}
        for write in made:
            if held.get((write.key, write.number)) != write.revision:
                out.add(f"{write.key} number {write.number}, revision {write.revision}, on {node}")
    return out


def _twice(told: Mapping[str, Sequence[Told]]) -> set[str]:
    out = set()
    for node, found in told.items():
        seen: set[tuple[str, int]] = set()
        for one in found:
            if (one.key, one.number) in seen:
                out.add(f"{one.key} number {one.number} on {node}")
            seen.add((one.key, one.number))
    return out


def _direction(leg: Leg, outcome: Outcome) -> dict[str, Any]:
    """A stall belongs to the promotion that it overlaps."""
    until_s = next((other.began_s for other in outcome.legs if other.began_s > leg.began_s), float("inf"))
    over = [w for w in outcome.writes if w.ended_s >= leg.began_s and w.began_s < min(until_s, leg.ended_s)]
    return {
        "from": leg.before,
        "to": leg.node,
        "result": leg.result.get("result"),
        "epoch": leg.result.get("epoch"),
        "promotion_ms": round((leg.ended_s - leg.began_s) * 1000, 1),
        "longest_stall_ms": round(max((w.took_s for w in over), default=0.0) * 1000, 1),
        "agents": {"online": leg.online, "follow": leg.online - len(leg.missing), "did_not_follow": list(leg.missing)},
        "steps": list(leg.steps),
        "detail": leg.result.get("detail"),
    }


def whereabouts(outcome: Outcome, before: str) -> str:
    """Who is primary now, in words for somebody who has to act. `before`: who was at the beginning."""
    now = f"{outcome.primary} is primary now, epoch {outcome.epoch}"
    if outcome.primary == before:
        return f"{now}, as before: there is nothing to undo"
    back = f"to have {before} again, run `failover --operation promote` there"
    return f"{now}, and takes writes; {before} was before: {back}"
