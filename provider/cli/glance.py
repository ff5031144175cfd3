"""The cluster at one glance: who is primary, what is wrong, what to do. Pure: from `GET /cluster` to lines."""

from collections.abc import Mapping, Sequence
from typing import Any

from provider.states import without_room

Node = Mapping[str, Any]
_WIDTH = 8


def glance(cluster: Mapping[str, Any], node: str) -> list[str]:
    """Lines for people; each begins with one of PRIMARY, STALE, WRONG, DO, OK. `node` is the one that was asked."""
    nodes: Sequence[Node] = cluster["nodes"]
    here = next((n for n in nodes if n["name"] == node), None)
    first = next((n for n in nodes if n["name"] == cluster["primary"]), None)
    lines = _of_here(here, node)
    todo: list[str] = []
    if here is None or here["state"] != "removed":
        lines.append(_of_primary(first, cluster, sure=not lines))
        todo += _about_primary(first, nodes, node)
    for n in nodes:
        away = n["state"] == "active" and n["reason"]  # the broker of its host
        if away or (n["state"] not in ("active", "syncing", "maintenance") and n is not first):
            lines.append(_line("WRONG", f"{n['name']} is {_how(n)}"))
            todo += [f"{n['name']}: {n['remedy']}"] if n.get("remedy") else []
    silent = cluster["agents"]["total"] - cluster["agents"]["online"]
    if silent:
        lines.append(_line("WRONG", f"{silent} of {cluster['agents']['total']} agents are not online"))
    if all(line.startswith("PRIMARY") for line in lines) and not todo:
        standing = len(cluster.get("warnings", ()))
        more = f"; {standing} standing warning{'s' if standing > 1 else ''}, at the end" if standing else ""
        return [*lines, _line("OK", f"nothing is wrong{more}")]
    return lines + [_line("DO", what) for what in todo]


def candidates(nodes: Sequence[Node]) -> list[Node]:
    """Standbys that can be promoted, the one that is least behind first."""
    fit = [n for n in nodes if n["role"] == "standby" and n["state"] in ("active", "syncing")]
    return sorted(fit, key=lambda n: (n["state"] != "active", n["lag"] or 0))


def _of_here(here: Node | None, node: str) -> list[str]:
    if here is None:
        return [_line("WRONG", f"{node} is no member of this cluster")]
    if here["state"] in ("out_of_sync", "removed") or (here.get("part") == "log" and not without_room(here["reason"])):
        return [_line("STALE", f"{node} cannot read the log: what it tells may be out of date. Ask another node")]
    return []


def _of_primary(first: Node | None, cluster: Mapping[str, Any], *, sure: bool) -> str:
    if first is None:
        return _line("WRONG", f"{cluster['primary']} is named as primary and is no member")
    working = first["state"] == "active" or (first["state"] == "maintenance" and first.get("part") is None)
    at = f"epoch {cluster['epoch']}, revision {cluster['revision']}"
    if working and sure:
        return _line("PRIMARY", f"{first['name']} is primary, {at}; it is {first['state']}: writes are accepted")
    if working:
        return _line("PRIMARY", f"{first['name']} was primary when last heard of, {at}")
    return _line("WRONG", f"{first['name']} is primary, {at}, and is {_how(first)}: writes may fail, reads go on")


def _about_primary(first: Node | None, nodes: Sequence[Node], node: str) -> list[str]:
    """What to do where the primary does not work."""
    if first is None or first["state"] in ("active", "syncing", "maintenance"):
        return []
    out = [] if first["state"] == "lost" or not first.get("remedy") else [f"{first['name']}: {first['remedy']}"]
    if first["state"] == "unknown" or without_room(first["reason"]):
        return out
    fit = candidates(nodes)
    if not fit:
        here = next((n for n in nodes if n["name"] == node), None)
        forced = f"only if they are gone for good, run on {node}: failover --operation promote --force (it asks first)"
        last = [forced] if here is not None and here.get("part") == "log" else []
        return [*out, "no standby can be promoted now: bring one back, or the primary", *last]
    best = next((n for n in fit if n["name"] == node and n["state"] == "active"), fit[0])
    where = "here" if best["name"] == node else f"on {best['name']}"
    others = ", ".join(n["name"] for n in fit if n is not best)
    also = f" (or on {others})" if others else ""
    return [*out, f"if {first['name']} does not come back, run {where}: failover --operation promote{also}"]


def _how(n: Node) -> str:
    return f"{n['state']} ({n['reason']})" if n["reason"] else str(n["state"])


def _line(word: str, text: str) -> str:
    return f"{word:<{_WIDTH}} {text}"
