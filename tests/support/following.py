"""A promotion as a fleet sees it: who follows, how soon, and whether anybody misses a wish that it is owed."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from localcluster.process import wait_until

from shared.errors import BellwetherError
from tests.support.api import Client, client
from tests.support.clustered import BrokersCluster
from tests.support.swarm import Swarm, SwarmAgent

WRITERS = 4
MOVED_S = 300.0
"""In which all agents of a swarm of a thousand have moved: two minutes, on two processors that three brokers share."""


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


def started(cluster: BrokersCluster, directory: Path, agents: int, *, return_s: float = 10.0) -> Swarm:
    """A swarm of so many new agents of the cluster, all of them heard of. To be closed."""
    swarm = Swarm(directory, return_s=return_s)
    swarm.enrol(client(cluster, cluster.first.name), [f"a{number}" for number in range(agents)])
    swarm.start()
    swarm.until(lambda agent: agent.told.revision, "agents are told what is desired")
    client(cluster, cluster.first.name).wait_for("/cluster", lambda c: c["agents"]["online"] == agents, timeout_s=60)
    return swarm


@dataclass(frozen=True)
class Followed:
    """`advise_s`: from the claim until the new primary has heard that all follow. `command_s` is all that the operator
    waits for. `moved_s`: from the command's start until all sit at the new primary's broker."""

    advise_s: float
    command_s: float
    moved_s: float
    summary: dict[str, Any]


def promote(cluster: BrokersCluster, swarm: Swarm, standby: str) -> Followed:
    """`failover --operation promote` on that node, until the whole swarm sits at its broker."""
    began_s = time.monotonic()
    out = cluster.providers[standby].command("--operation", "promote", "--json", program="failover")
    command_s = time.monotonic() - began_s
    end = json.loads(out)
    advise_s = next(step["ms"] for step in end["steps"] if step["step"] == "advise") / 1000
    endpoint = cluster.endpoint(standby)
    swarm.until(lambda agent: agent.session.endpoint == endpoint, f"agents move to {endpoint}: {swarm.where}", MOVED_S)
    return Followed(advise_s, command_s, time.monotonic() - began_s, end["agents"])


def patient(cluster: BrokersCluster) -> None:
    """From now on the command waits for agents for half a minute, so that it tells when the last one followed. Starts
    the providers anew."""
    for name, provider in cluster.providers.items():
        config = provider.files.config
        config.write_text("advise_wait_s = 30.0\n" + config.read_text())
        cluster.stop(name)
    for name in cluster.providers:
        cluster.start(name)
    wait_until(cluster.primary, timeout_s=60, what="a primary")
