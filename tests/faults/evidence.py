"""What the nodes and agents of a plant have to say after a bad day."""

import json
from collections.abc import Collection
from contextlib import suppress
from typing import Any

from localcluster.process import ProcessFailed, wait_until

from tests.faults.history import Entry, Obeyed, Witness
from tests.faults.plant import Plant
from tests.support.api import Client, client
from tests.support.nodes import events
from tests.support.sql import databases

PATIENCE_S = 30.0


def witnesses(plant: Plant, after: int, prefix: str) -> tuple[Witness, ...]:
    """All nodes, at one revision. Raises `ProcessFailed` where they do not come to one."""
    found: list[Witness] = []

    def together() -> bool:
        sworn = [_witness(name, client(plant, name), after, prefix) for name in plant.providers]
        found[:] = [one for one in sworn if one is not None]
        return len(found) == len(sworn) and len({one.revision for one in found}) == 1

    wait_until(together, timeout_s=PATIENCE_S, what="the nodes do not come to the same revision")
    return tuple(found)


def _witness(name: str, node: Client, after: int, prefix: str) -> Witness | None:
    """None where something was accepted while it was asked: a late write of a client that has long given up, say."""
    listed = node.read(f"/settings?prefix={prefix}&limit=1000")
    seen = [_entry(event, prefix) for event in events(node, after)]
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
    )


def _entry(event: dict[str, Any], prefix: str) -> Entry:
    puts = tuple(
        (change["id"], change["spec"]["value"])
        for change in event["changes"]
        if change["kind"] == "setting" and change["op"] == "put" and change["id"].startswith(prefix)
    )
    return Entry(event["revision"], event["epoch"], event["type"], event["node"], puts)


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
