"""What the nodes and agents of a plant have to say after a bad day."""

import json
from collections.abc import Collection, Iterator
from contextlib import suppress
from typing import Any

from localcluster.process import ProcessFailed, wait_until

from provider.backup import container
from provider.backup.content import read_content
from provider.backup.recovery import Passphrase
from tests.faults.history import Beginning, Entry, Obeyed, Saved, Witness
from tests.faults.plant import Plant
from tests.support.api import Client, client
from tests.support.nodes import kept_events
from tests.support.sql import databases

PATIENCE_S = 30.0
RUNS = "user.f"
"""What the names of all runs' settings begin with."""


def witnesses(plant: Plant, after: int, prefix: str) -> tuple[Witness, ...]:
    """All nodes, at one revision. `after`: the revision with which the run began; `prefix`: of its settings. Raises
    `ProcessFailed` where they do not come to one."""
    found: list[Witness] = []

    def together() -> bool:
        sworn = [_witness(name, client(plant, name), after, prefix) for name in plant.providers]
        found[:] = [one for one in sworn if one is not None]
        return len(found) == len(sworn) and len({one.revision for one in found}) == 1

    wait_until(together, timeout_s=PATIENCE_S, what="the nodes do not come to the same revision")
    return tuple(found)


def _witness(name: str, node: Client, after: int, prefix: str) -> Witness | None:
    """None where something was accepted while it was asked: a late write of a client that has long given up, say; and
    where its history is on its way still."""
    listed = node.read(f"/settings?prefix={prefix}&limit=1000")
    earlier = {name: held for name, held in _settings(node, RUNS) if not name.startswith(prefix)}
    told = kept_events(node, after)
    if told is None:
        return None
    seen = [_entry(event, prefix) for event in told]
    state = node.read("/cluster")
    ends = [listed["revision"], *(entry.revision for entry in seen[-1:])]
    if any(end != state["revision"] for end in ends):
        return None
    return Witness(
        node=name,
        generation=state["generation"],
        epoch=state["epoch"],
        primary=state["primary"],
        revision=state["revision"],
        digest=state["digest"],
        entries=tuple(seen),
        settings={item["id"]: (item["revision"], item["spec"]["value"]) for item in listed["items"]},
        earlier=earlier,
    )


def _settings(node: Client, prefix: str) -> Iterator[tuple[str, tuple[int, str]]]:
    """All that begin so, however many: name, revision, value."""
    path = f"/settings?prefix={prefix}&limit=1000"
    page = node.read(path)
    while True:
        for item in page["items"]:
            yield item["id"], (item["revision"], item["spec"]["value"])
        if page.get("next") is None:
            return
        page = node.read(f"{path}&after={page['next']}")


def saved(plant: Plant, prefix: str) -> tuple[Saved, ...]:
    """The backups that were made since this was last asked, opened. Raises `Invalid` where one does not open."""
    found = []
    while plant.backups:
        file, passphrase = plant.backups.pop()
        with file.open("rb") as source:
            state = read_content(container.read(source, Passphrase(passphrase))).state
        settings = {
            one.id: (one.revision, one.spec["value"]) for one in state.of("setting") if one.id.startswith(prefix)
        }
        found.append(Saved(file.name, state.revision, settings))
    return tuple(found)


def _entry(event: dict[str, Any], prefix: str) -> Entry:
    puts = tuple(
        (change["id"], change["spec"]["value"] if change["op"] == "put" else None)
        for change in event["changes"]
        if change["kind"] == "setting" and change["id"].startswith(prefix)
    )
    wishes = tuple(one["id"] for one in event["changes"] if one["kind"] == "database" and one["op"] == "put")
    return Entry(event["revision"], event["epoch"], event["type"], event["node"], puts, wishes)


def beginning(plant: Plant, prefix: str) -> Beginning | None:
    """The log that was begun by force on this day."""
    begun = plant.begun
    if begun is None:
        return None
    epoch, first = begun.first
    entries = tuple(_entry(event, prefix) for event in begun.events)
    held = int(begun.said["anew"]["revision"])
    return Beginning(begun.node, begun.lost, begun.began_s, begun.ended_s, held, epoch, first, begun.costs, entries)


def obedience(plant: Plant) -> tuple[Obeyed, ...]:
    """What agents did on a primary's word, since the plant was made."""
    found = []
    for name in plant.agents:
        file = plant.agent(name).obeyed
        lines = file.read_text().splitlines() if file.exists() else []
        found += [Obeyed(agent=name, **json.loads(line)) for line in lines]
    return tuple(found)


def made(plant: Plant, wished: Collection[str]) -> tuple[str, ...]:
    """The databases on all servers, once those that are `wished` are among them, or after half a minute."""
    found: set[str] = set()

    def all_there() -> bool:
        found.update(f"{name}/{one}" for name, server in plant.servers.items() for one in databases(server))
        return set(wished) <= found

    with suppress(ProcessFailed):
        wait_until(all_there, timeout_s=PATIENCE_S, what="databases are missing")
    return tuple(sorted(found))
