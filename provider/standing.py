"""How all nodes are, as this one knows them: its own engine, and what it last heard of the others. Any thread."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from provider.condition import condition, maintenance_of, newest_of
from provider.core.documents import Document
from provider.core.state import State
from provider.engine import Engine
from provider.fleet.hub import Hub
from provider.states import LOST_AFTER_S, Condition, Said, another, remedy, shown
from shared.version import VERSION


@dataclass(frozen=True, slots=True)
class Standing:
    name: str
    primary: bool
    condition: Condition
    version: str
    revision: int | None
    """None: not heard of."""
    lag: int | None
    """Revisions that it was behind when last heard of."""
    digest: str | None
    seen_ms: int | None
    """Unix milliseconds."""

    @property
    def remedy(self) -> str | None:
        return remedy(self.condition, self.name, primary=self.primary)


def standings(engine: Engine, hub: Hub, node: str, state: State) -> Iterator[Standing]:
    """Of every member, `node` being this one."""
    return (standing(engine, hub, node, state, document) for document in state.of("node"))


def away(hub: Hub, node: str, state: State) -> frozenset[str]:
    """Members of which `node`, this one, hears nothing: lost, or it cannot tell."""
    now_s, seen = time.monotonic(), hub.view.nodes
    heard = {name for name, one in seen.items() if now_s - one.mono_s <= LOST_AFTER_S}
    return frozenset(one.id for one in state.of("node")) - heard - {node}


def standing(engine: Engine, hub: Hub, node: str, state: State, document: Document) -> Standing:
    """Of one member."""
    name, primary, newest = document.id, state.primary == document.id, newest_of(state.revision, hub.view)
    if name == node:
        here = condition(engine, node, newest)
        now_ms = time.time_ns() // 1_000_000
        lag = newest - state.revision
        return Standing(name, primary, here, VERSION, state.revision, lag, state.digest, now_ms)
    seen = hub.view.nodes.get(name)
    said = Said(seen.pulse.state, seen.pulse.reason, time.monotonic() - seen.mono_s) if seen is not None else None
    there = shown(another(said, here=node, listening_s=hub.listening_s), maintenance_of(document))
    if seen is None:
        return Standing(name, primary, there, document.spec["version"], None, None, None, None)
    pulse = seen.pulse
    return Standing(
        name, primary, there, pulse.version, pulse.revision, newest - pulse.revision, pulse.digest, seen.at_ms
    )
