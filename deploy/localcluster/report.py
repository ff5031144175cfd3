"""What runs where, and what to try: the texts that people read."""

import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path

from localcluster.cluster import Cluster
from localcluster.provider import program_path


def table(cluster: Cluster) -> str:
    """A line for each member: what it is, how it is, where it listens, its pid and log."""
    rows = [("NAME", "WHAT", "STATE", "WHERE", "PID", "LOG"), *_rows(cluster)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _rows(cluster: Cluster) -> Iterator[tuple[str, ...]]:
    primary = cluster.primary()
    agents = {item["id"]: item["status"]["state"] for item in (cluster.ask("/agents") or {"items": []})["items"]}
    for name, member in cluster.members.items():
        process = member.process
        state, where = "runs", ""
        if name == "broker":
            what, where = "RabbitMQ", cluster.broker.endpoint
        elif name in cluster.providers:
            what, where = "provider", cluster.providers[name].url
            state = "primary" if name == primary else "standby"
        elif name in cluster.agents:
            what, where = "agent", f"looks after mariadb-{name}"
            state = agents.get(name, "runs")
        else:
            what, where = "MariaDB", f"127.0.0.1:{cluster.ports[name]}"
        if process is None or not process.alive:
            state = "down"
        elif process.suspended:
            state = "suspended"
        pid = "" if process is None or not process.alive else str(process.pid)
        yield name, what, state, where, pid, _short(member.log)


def missing(cluster: Cluster, command: str) -> str:
    """For each member that is down, the command that brings it back; empty where all run."""
    lines = [f"  {name} is down. To start it:  {command} start {name}" for name in cluster.dead()]
    return "\n".join(lines)


def what_to_try(cluster: Cluster) -> str:
    """Three commands that can be copied as they are. The token is in a file: it shows in no list of processes."""
    primary = cluster.primary() or cluster.first.name
    standbys = [provider for name, provider in cluster.providers.items() if name != primary] or [cluster.first]
    one, other = standbys[0], standbys[-1]
    instance = next(iter(cluster.agents), "db1")
    curl = ["curl", "-sS", "--cacert", _short(cluster.layout.ca), "-H", f"@{_short(cluster.layout.curl_header)}"]
    path = f"/api/v1/instances/{instance}/databases/shop"
    body = ["-X", "PUT", "-H", "Content-Type: application/json", "-d", '{"charset": "utf8mb4"}']
    promote = [_short(program_path("failover")), "--operation", "promote", "--config", _short(one.files.config)]
    return "\n".join(
        [
            f"Create a database on {instance}'s server through {one.name}, a standby:",
            f"  {_quote([*curl, *body, one.url + path])}",
            f"See on {other.name} what became of it: status.phase goes from pending to ready when the server has it:",
            f"  {_quote([*curl, other.url + path])}",
            f"Make {one.name} the primary; each agent is told (planned as now, or after kill -9 of {primary}):",
            f"  {_quote(promote)}",
        ]
    )


def _short(path: Path) -> str:
    """Relative to where the reader is, if that is above it."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def _quote(words: Iterable[str]) -> str:
    return " ".join(shlex.quote(word) for word in words)
