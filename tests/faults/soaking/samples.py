"""What a process holds, and whether that stays what it was. All but `held_by` is pure."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

FLAT = 0.05
"""By so much the last window may differ from the first steady one."""
WINDOWS = 6
"""The first steady window and the last are each this part of the steady time, or `WINDOW_MAX_S`, if that is less."""
WINDOW_MAX_S = 900.0
WINDOW_SAMPLES_MIN = 6
MB = 1024.0


@dataclass(frozen=True, slots=True)
class Held:
    """Memory in MB: resident; the same with shared pages divided among those who have them, which others on the machine
    change; what is of no file, as heaps are. Open files, threads."""

    rss_mb: float
    pss_mb: float
    heap_mb: float
    files: int
    threads: int


def held_by(pid: int) -> Held:
    """Raises `OSError` where that process is gone."""
    process = Path(f"/proc/{pid}")
    rollup = dict(re.findall(r"^(\w+):\s+(\d+) kB", (process / "smaps_rollup").read_text(), re.MULTILINE))
    threads = re.search(r"^Threads:\s+(\d+)", (process / "status").read_text(), re.MULTILINE)
    return Held(
        rss_mb=round(int(rollup["Rss"]) / MB, 2),
        pss_mb=round(int(rollup["Pss"]) / MB, 2),
        heap_mb=round(int(rollup["Anonymous"]) / MB, 2),
        files=len(list((process / "fd").iterdir())),
        threads=int(threads[1]) if threads is not None else 0,
    )


@dataclass(frozen=True, slots=True)
class Sample:
    """One moment, `at_s` after the begin. Everything by member; lags are (median, highest) since the sample before."""

    at_s: float
    held: Mapping[str, Held]
    lag_ms: Mapping[str, tuple[float, float]]
    behind: Mapping[str, int]
    """Revisions that a node's stream is behind the newest."""
    keys: Mapping[str, int]
    """Idempotency keys that the node remembers."""
    disk_mb: Mapping[str, float]
    written: int
    """Acknowledged since the begin."""
    p50_ms: float | None = None
    p99_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """A figure's median in the first steady window, and in the last; the least and the most between them."""

    first: float
    last: float
    least: float
    most: float

    @property
    def by(self) -> float:
        """As a part of the first."""
        return (self.last - self.first) / self.first if self.first else 0.0

    @property
    def flat(self) -> bool:
        return abs(self.by) <= FLAT


@dataclass(frozen=True, slots=True)
class Steady:
    """The part of a soak in which nothing bounded is still filling up. `window_s`: the length of its first and last
    window; None where it was too short for two."""

    since_s: float | None
    window_s: float | None = None
    memory: dict[str, Change] = field(default_factory=dict)
    """Resident, in MB."""
    heap: dict[str, Change] = field(default_factory=dict)
    files: dict[str, Change] = field(default_factory=dict)
    threads: dict[str, Change] = field(default_factory=dict)
    lag_ms: dict[str, Change] = field(default_factory=dict)
    p50_ms: Change | None = None


def full_since(samples: Sequence[Sample], *, keys_max: int, settle_s: float) -> float | None:
    """When all nodes remembered as many idempotency keys as they ever will, and `settle_s` more had gone by; None: not
    yet."""
    full = (one.at_s for one in samples if one.keys and all(count >= keys_max for count in one.keys.values()))
    since_s = next(full, None)
    if since_s is None or not samples or samples[-1].at_s < since_s + settle_s:
        return None
    return since_s + settle_s


def steady(samples: Sequence[Sample], since_s: float | None) -> Steady:
    """How each figure has changed since then."""
    if since_s is None:
        return Steady(None)
    those = [one for one in samples if one.at_s >= since_s]
    window_s = min(WINDOW_MAX_S, (those[-1].at_s - since_s) / WINDOWS) if those else 0.0
    first = [one for one in those if one.at_s <= since_s + window_s]
    last = [one for one in those if one.at_s >= those[-1].at_s - window_s]
    if min(len(first), len(last)) < WINDOW_SAMPLES_MIN:
        return Steady(since_s)

    def change(of: Callable[[Sample], float | None]) -> Change:
        figures = [[found for one in part if (found := of(one)) is not None] for part in (first, last, those)]
        return Change(median(figures[0]), median(figures[1]), min(figures[2]), max(figures[2]))

    members = sorted(set.intersection(*(set(one.held) for one in those)))
    nodes = sorted(set.union(*(set(one.lag_ms) for one in those)))
    return Steady(
        since_s,
        round(window_s, 1),
        memory={name: change(lambda one, name=name: one.held[name].rss_mb) for name in members},
        heap={name: change(lambda one, name=name: one.held[name].heap_mb) for name in members},
        files={name: change(lambda one, name=name: one.held[name].files) for name in members},
        threads={name: change(lambda one, name=name: one.held[name].threads) for name in members},
        lag_ms={name: change(lambda one, name=name: one.lag_ms.get(name, (None, 0.0))[0]) for name in nodes},
        p50_ms=change(lambda one: one.p50_ms),
    )
