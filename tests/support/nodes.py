"""What cluster tests look at in a whole cluster: who leads, whether all nodes are equal, what a command said."""

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from localcluster.cluster import Cluster
from localcluster.process import environment, wait_until
from localcluster.provider import program_path

from tests.support.api import Client, client

COMMAND_S = 60.0


@dataclass(frozen=True, slots=True)
class Said:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str


def command(cluster: Cluster, node: str, program: str, *arguments: str, timeout_s: float = COMMAND_S) -> Said:
    """Runs `provider`, `failover` or `agent` with the configuration of that member, to its end."""
    member = cluster.providers.get(node) or cluster.agents[node]
    return run(program, *arguments, "--config", str(member.files.config), timeout_s=timeout_s)


def run(program: str, *arguments: str, timeout_s: float = COMMAND_S, **variables: str) -> Said:
    """Runs one of our programs to its end. `variables` are added to a small environment."""
    done = subprocess.run(
        [program_path(program), *arguments],
        env=environment(**variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout_s,
    )
    return Said(done.returncode, done.stdout, done.stderr)


def promote(cluster: Cluster, node: str) -> Said:
    """Makes `node` primary; that must succeed."""
    said = command(cluster, node, "failover", "--operation", "promote")
    assert said.code == 0, said
    return said


def living(cluster: Cluster) -> list[str]:
    return [name for name in cluster.providers if cluster.alive(name)]


def primary_of(cluster: Cluster) -> str:
    """The node that all living ones name as primary, once they agree."""
    named: set[str] = set()

    def agreed() -> bool:
        named.clear()
        named.update(str(client(cluster, name).read("/cluster")["primary"]) for name in living(cluster))
        return len(named) == 1

    wait_until(agreed, timeout_s=30.0, what="the nodes do not agree on who is primary")
    return named.pop()


def standbys_of(cluster: Cluster) -> list[str]:
    leader = primary_of(cluster)
    return [name for name in living(cluster) if name != leader]


def wait_equal(cluster: Cluster, names: Sequence[str] | None = None, *, timeout_s: float = 30.0) -> dict[str, Any]:
    """Waits until the nodes are at the same revision, and checks that they are equal then: the same digest, epoch and
    primary. The `/cluster` of one of them."""
    found: dict[str, dict[str, Any]] = {}

    def same_revision() -> bool:
        for name in names if names is not None else living(cluster):
            found[name] = client(cluster, name).read("/cluster")
        return len({one["revision"] for one in found.values()}) == 1

    wait_until(same_revision, timeout_s=timeout_s, what="the nodes do not come to the same revision")
    identities = {(one["digest"], one["epoch"], one["primary"], one["generation"]) for one in found.values()}
    assert len(identities) == 1, f"nodes at the same revision differ: {found}"
    return next(iter(found.values()))


def wait_well(cluster: Cluster) -> None:
    """Every node knows every other one to be active, and so of the log that nothing is missing in it. Whoever is
    promoted before that, while the primary is silent, is refused."""

    def all_active(told: dict[str, Any]) -> bool:
        return all(node["state"] == "active" for node in told["nodes"])

    for name in cluster.providers:
        client(cluster, name).wait_for("/cluster", all_active, timeout_s=30)


def caught_up(cluster: Cluster) -> None:
    """Every node has what any has: else a refusal could only mean that the news has not come yet."""
    newest = max(client(cluster, name).read("/cluster")["revision"] for name in cluster.providers)
    for name in cluster.providers:
        client(cluster, name).read("/cluster", Bellwether_Min_Revision=str(newest))


def events(node: Client, after: int) -> list[dict[str, Any]]:
    """Every accepted change after `after`, in order, as that node tells them."""
    found = kept_events(node, after)
    assert found is not None, "it does not have them"
    return found


def kept_events(node: Client, after: int) -> list[dict[str, Any]] | None:
    """The same; None where it does not have all of them yet: after a snapshot the history comes by and by."""
    answer = node.get(f"/events?after={after}&follow=false", Accept="application/x-ndjson")
    if answer.status == 410:
        return None
    assert answer.status == 200, answer
    return [json.loads(line) for line in answer.body.splitlines() if line.strip()]


@contextmanager
def suspended(cluster: Cluster, name: str) -> Iterator[None]:
    """That member hangs (SIGSTOP) within this block."""
    process = cluster.members[name].process
    assert process is not None
    process.suspend()
    try:
        yield
    finally:
        process.resume()


def restart(cluster: Cluster, *names: str) -> None:
    """Starts members that are dead, in this order without waiting for any; then waits until each is ready."""
    for name in names:
        cluster.members[name].launch()
    for name in names:
        cluster.members[name].wait_ready()
