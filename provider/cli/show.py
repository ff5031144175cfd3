"""How a cluster is shown to people."""

from typing import Any

from provider.cli.backup import told
from provider.cli.console import plain, table
from provider.cli.glance import glance


def show_status(node: str, cluster: dict[str, Any]) -> None:
    """One node and its cluster, for people: first what is wrong and what to do, then all the rest."""
    here = next((n for n in cluster["nodes"] if n["name"] == node), None)
    plain(f"{node}: {here['role']}, {here['state']}{_reason(here)}" if here is not None else f"{node}: not a member")
    for line in glance(cluster, node):
        plain(line)
    plain()
    show_cluster(cluster)


def show_cluster(cluster: dict[str, Any]) -> None:
    """The cluster, for people."""
    epoch = cluster["epoch"]
    plain(f"cluster {cluster['id']}: epoch {epoch}, primary {cluster['primary']}, revision {cluster['revision']}")
    plain("nodes:")
    rows = [["NAME", "ROLE", "STATE", "REVISION", "LAG", "VERSION", "URL"]]
    for n in cluster["nodes"]:
        rows.append([n["name"], n["role"], n["state"], _or(n["revision"]), _or(n["lag"]), n["version"], n["url"]])
    table(rows)
    for n in cluster["nodes"]:
        if n["reason"]:
            plain(f"  {n['name']}: {n['reason']}")
        if n.get("remedy"):
            plain(f"  {' ' * len(n['name'])}  {n['remedy']}")
    more = [_about(n) for n in cluster["nodes"]]
    for line in more:
        plain(f"  {line}")
    certificates = [f"{n['name']} {_days(n['certificate'])}" for n in cluster["nodes"] if n["certificate"]]
    plain(f"certificates, days left: {', '.join(certificates) or '-'}")
    for one in cluster["authorities"]:
        plain(f"  authority {one['id']}: {_days(one)} days left{'' if one['signs'] else ', does not sign'}")
    agents = cluster["agents"]
    plain(f"agents: {agents['total']} known, {agents['online']} online, {agents['advised']} follow epoch {epoch}")
    for at in cluster.get("agents_at", ()):
        preferred = " (preferred: the primary's broker)" if at["preferred"] else ""
        plain(f"  {at['agents']} at {at['endpoint']}{preferred}")
    if agents["missing"]:
        plain(f"  not advised yet: {', '.join(agents['missing'])}")
    for line in [*told(cluster["backup"]), *(f"warning: {warning}" for warning in cluster["warnings"])]:
        plain(line)


def _about(n: dict[str, Any]) -> str:
    skew_s, labels = n.get("clock_skew_s"), n.get("labels") or {}
    parts = [f"clock {skew_s:+.1f} s" if skew_s is not None else "clock unknown"]
    parts.append(f"configuration {_or(n.get('configuration'))}")
    parts += [f"{label} {value}" for label, value in sorted(labels.items())]
    return f"{n['name']}: {', '.join(parts)}"


def _days(what: dict[str, Any]) -> str:
    return f"{what['days_left']:.0f}"


def _reason(node: dict[str, Any]) -> str:
    return f" ({node['reason']})" if node["reason"] else ""


def _or(value: Any) -> str:
    return "-" if value is None else str(value)
