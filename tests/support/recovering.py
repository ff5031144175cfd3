"""Nodes that ask each other, all in this process: real engines and stores, a log in memory."""

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from immutables import Map

from provider.core.commands import CLUSTER_ID
from provider.core.entries import Change
from provider.core.state import State
from provider.core.vouching import Word
from provider.fleet.view import NodeSeen, View
from provider.log.port import Position
from provider.recovery.members import Standing
from provider.recovery.recovery import Recovery
from shared.messages import NodePulse
from tests.support.engines import Host
from tests.support.history import GENERATION, START_MS
from tests.support.memory_log import MemoryLogStream

NAMES = ("p1", "p2", "p3")


def founded() -> State:
    nodes = [Change(kind="node", id=n, spec={"url": f"https://{n}:1", "version": "1", "endpoints": []}) for n in NAMES]
    cluster = Change(kind="setting", id=CLUSTER_ID, spec={"value": "a cluster"})
    return State.genesis(generation=GENERATION, primary="p1", now=START_MS, changes=(*nodes, cluster))


class Cluster:
    """Implements `Members` for all nodes in this process: those that are up answer."""

    def __init__(self, directory: Path) -> None:
        self.stream, self.directory = MemoryLogStream(), directory
        self.up: dict[str, Host] = {}
        self.recoveries: dict[str, Recovery] = {}
        self.fetched = 0
        self.disowned: list[str] = []
        """What nodes were told that are members no more."""
        self.disowns: dict[str, str] = {}
        """Members that say so, and their words."""
        self.heard: Map[str, NodeSeen] = Map()

    def start(self, name: str, *, seed: State | None = None, database: str | None = None) -> Host:
        host = Host(name, self.stream, self.directory, seed=seed, database=database)
        recovery = Recovery(
            node=name,
            engine=host.engine,
            store=host.store,
            data_dir=self.data_dir(name),
            members=self,
            view=self.view,
            on_disowned=self.disowned.append,
        )
        self.up[name], self.recoveries[name] = host, recovery
        recovery.start()
        return host.start()

    def data_dir(self, name: str) -> Path:
        found = self.directory / name
        found.mkdir(exist_ok=True)
        return found

    def stop(self, name: str) -> None:
        self.recoveries.pop(name).stop()
        self.up.pop(name).stop()

    def standings(self, urls: Mapping[str, str], patience_s: float = 1.0) -> dict[str, Standing | None]:
        return {name: self._standing(name) for name in urls}

    def _standing(self, name: str) -> Standing | None:
        host = self.up.get(name)
        if name in self.disowns:
            return Standing(Word("", 0, 0), "", healthy=False, primary=False, disowns=self.disowns[name])
        if host is None:
            return None
        reading, health = host.engine.reading, host.engine.health
        primary = reading.course.replica.state.primary
        return Standing(reading.word, "a cluster", health.connected and health.caught_up, primary == name)

    def view(self) -> View:
        """What members say each second, up to their end."""
        for name, host in list(self.up.items()):
            state, health = host.engine.state, host.engine.health
            role: Literal["primary", "standby"] = "primary" if state.primary == name else "standby"
            how = "active" if health.connected and health.caught_up and health.asking is None else "syncing"
            pulse = NodePulse(role=role, state=how, version="1", revision=state.revision, digest="", started="")
            self.heard = self.heard.set(name, NodeSeen(0, time.monotonic(), pulse, state.epoch))
        return View(nodes=self.heard)

    def snapshot(self, url: str) -> tuple[State, Position | None]:
        self.fetched += 1
        return self._at(url).engine.snapshot()

    def history(self, url: str, until: int) -> Iterator[str]:
        rows = self._at(url).store.history_back(until + 1, 0, 10_000)
        yield from (json.dumps([row.revision, row.epoch, row.at, row.record]) for row in rows)
        yield json.dumps(["end", len(rows)])

    def _at(self, url: str) -> Host:
        return self.up[url.removeprefix("https://").partition(":")[0]]


def all_started(cluster: Cluster) -> list[Host]:
    return [cluster.start(name, seed=founded()) for name in NAMES]


def all_on_one(cluster: Cluster) -> list[Host]:
    return [cluster.start(name, seed=founded() if name == "p1" else None, database="one") for name in NAMES]


def hears_the_primary(*hosts: Host) -> None:
    """They know that the log, as they read it, leads to what the primary has."""
    for host in hosts:
        host.until(lambda host=host: host.engine.reading.word.whole, what="it does not hear the primary")  # type: ignore[misc]
