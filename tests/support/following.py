"""A promotion as a fleet sees it: who follows, how soon, and whether anybody misses a wish that it is owed."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared.errors import BellwetherError
from tests.support.api import Client
from tests.support.swarm import Swarm, SwarmAgent
from tests.testbed.cluster import Cluster
from tests.testbed.host import Host

WRITERS = 4


@dataclass
class Wishes:
    """Databases that are asked for of every agent in turn, for as long as a block lasts."""

    agents: list[str]
    asked: dict[str, set[str]] = field(default_factory=dict)
    """By agent: the databases for which a node has answered that it is done."""
    failed: list[str] = field(default_factory=list)

    @contextmanager
    def going_on(self, nodes: list[Client]) -> Iterator[None]:
        stop = threading.Event()
        writers = [
            threading.Thread(target=self._write, args=(nodes[number % len(nodes)], number, stop))
            for number in range(WRITERS)
        ]
        for writer in writers:
            writer.start()
        try:
            yield
        finally:
            stop.set()
            for writer in writers:
                writer.join()

    def _write(self, node: Client, number: int, stop: threading.Event) -> None:
        turn = 0
        while not stop.is_set():
            for agent in self.agents[number::WRITERS]:
                if stop.is_set():
                    return
                self.ask(node, agent, f"w{turn}")
            turn += 1

    def ask(self, node: Client, agent: str, name: str) -> None:
        try:
            answer = node.request("PUT", f"/instances/{agent}/databases/{name}", {})
        except (OSError, BellwetherError) as error:
            self.failed.append(repr(error))
            return
        if answer.status in (200, 201):
            self.asked.setdefault(agent, set()).add(name)
        else:
            self.failed.append(f"{answer.status} {answer.body[:200]!r}")

    def held_by(self, agent: SwarmAgent) -> bool:
        """Whether it was told of all of them."""
        held = agent.told.desired.get(agent.id)
        return self.asked.get(agent.id, set()) <= {one.name for one in held.databases} if held else False


def started(cluster: Cluster, directory: Path, agents: int, *, return_s: float = 10.0) -> Swarm:
    """A swarm of so many of the cluster's agents, on its client host, all of them heard of. To be closed."""
    swarm = Swarm(directory, return_s=return_s)
    swarm.enrol(cluster.api(cluster.primary()), [f"a{number}" for number in range(agents)])
    with cluster.bed.space.network_of("client"):
        swarm.start()
    swarm.until(lambda agent: agent.told.revision, "agents are told what is desired")
    cluster.agents |= dict.fromkeys(swarm.agents, cluster.bed.client())
    return swarm


@dataclass(frozen=True)
class Followed:
    """`advise_s`: from the claim until the new primary has heard that all follow. `command_s` is all that the operator
    waits for. `moved_s`: from the command's start until all sit at the new primary's broker."""

    epoch: int
    advise_s: float
    command_s: float
    moved_s: float
    summary: dict[str, Any]


def promote(cluster: Cluster, swarm: Swarm, standby: Host) -> Followed:
    """`failover --operation promote` on that host, through its sshd, until the whole swarm sits at its broker."""
    began_s = time.monotonic()
    said = standby.ssh("failover --operation promote --json", check=True)
    command_s = time.monotonic() - began_s
    lines = [json.loads(line) for line in said.out.splitlines() if line.startswith("{")]
    end = lines[-1]
    advise_s = next(line["ms"] for line in lines if line.get("step") == "advise") / 1000
    endpoint = endpoint_of(standby)
    swarm.until(lambda agent: agent.session.endpoint == endpoint, f"agents move to {endpoint}")
    return Followed(end["epoch"], advise_s, command_s, time.monotonic() - began_s, end["agents"])


def endpoint_of(host: Host) -> str:
    return f"amqps://{host.address}:5671"
