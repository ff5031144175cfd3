"""What a soak came to, in words and figures."""

from collections.abc import Mapping
from statistics import median
from typing import Any

from tests.faults.soaking.samples import FLAT, Change, Sample, Steady


def progress(one: Sample, violations: int, refused: Mapping[str, int]) -> str:
    held = ", ".join(f"{name} {has.rss_mb:.0f}" for name, has in one.held.items() if not name.startswith("mariadb"))
    lag = ", ".join(f"{name} {most:.0f}" for name, (_, most) in sorted(one.lag_ms.items()))
    keys = min(one.keys.values(), default=0)
    return (
        f"{one.at_s / 60:6.1f} min: {one.written} writes, p50 {one.p50_ms} ms, p99 {one.p99_ms} ms; MB: {held}; "
        f"highest lag in ms: {lag}; {keys} keys; {violations} violations; asked again: {sum(refused.values())}"
    )


def table(result: Mapping[str, Any], found: Steady) -> str:
    lines = [
        "",
        f"{result['minutes']} minutes, {result['acknowledged']} writes acknowledged ({result['rate_reached']}/s of "
        f"{result['rate_asked']:g}/s asked for), {result['violations']} violations; nodes equal at the end: "
        f"{'yes' if result['equal'] else 'NO'}",
        f"{result['promotions']} promotions{_times(result['promoted_ms'])}, {len(result['promotions_refused'])} "
        f"refused; asked again: {result['refused'] or 'nothing'}",
        *result["broken"][:10],
    ]
    if found.window_s is None:
        return "\n".join(
            [*lines, "Too short to say whether memory is flat: the nodes' idempotency keys were still filling up."]
        )
    lines += [
        f"Steady since minute {(found.since_s or 0) / 60:.0f}; medians of the first and the last "
        f"{found.window_s / 60:.1f} minutes:",
        f"{'':<16} {'resident, MB':<42} {'without files':<18} {'open files':<12} threads",
    ]
    for name, memory in found.memory.items():
        rest = f"{_plain(found.heap[name]):<18} {_plain(found.files[name]):<12} {_plain(found.threads[name])}"
        lines.append(f"{name:<16} {_change(memory):<42} {rest}")
    lines += [f"lag of {name:<9} {_change(lag, 'ms')}" for name, lag in found.lag_ms.items()]
    if found.p50_ms is not None:
        lines.append(f"a write, p50     {_change(found.p50_ms, 'ms')}")
    return "\n".join(lines)


def _times(times_ms: list[float]) -> str:
    return f" (median {median(times_ms):.0f} ms, worst {max(times_ms):.0f} ms)" if times_ms else ""


def _change(one: Change, unit: str = "") -> str:
    verdict = "" if unit else (" flat" if one.flat else f" NOT within {FLAT:.0%}")
    figures = f"{one.first:.1f} → {one.last:.1f} {unit}".strip()
    return f"{figures} ({one.by:+.1%}, {one.least:.1f} to {one.most:.1f}){verdict}"


def _plain(one: Change) -> str:
    return f"{one.first:g} → {one.last:g}"
