"""How all nodes are, as this one knows them: its own engine, and what it last heard of the others. Any thread."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from provider.broker.endpoints import elsewhere
from provider.condition import maintenance_of, newest_of, without_maintenance
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
    writes: bool
    """Whether the cluster's primary works, as far as is known."""

    @property
    def remedy(self) -> str | None:
        return remedy(self.condition, self.name, primary=self.primary, writes=self.writes)


def standings(engine: Engine, hub: Hub, node: str, state: State) -> Iterator[Standing]:
    """Of every member, `node` being this one."""
    return (standing(engine, hub, node, state, document) for document in state.of("node"))


def of_this(engine: Engine, hub: Hub, node: str, newest: int) -> Condition:
    """How this node is, maintenance left aside; and if it is well, whether its own host's broker is."""
    found = without_maintenance(engine, node, newest)
    if found.state != "active":
        return found
    connected = [one for one in (hub.endpoint, *engine.reading.endpoints) if one is not None]
    return Condition("active", elsewhere(engine.state, node, connected))


def away(hub: Hub, node: str, state: State) -> frozenset[str]:
    """Members of which `node`, this one, hears nothing: lost, or it cannot tell."""
    now_s, seen = time.monotonic(), hub.view.nodes
    heard = {name for name, one in seen.items() if now_s - one.mono_s <= LOST_AFTER_S}
    return frozenset(one.id for one in state.of("node")) - heard - {node}


def standing(engine: Engine, hub: Hub, node: str, state: State, document: Document) -> Standing:
    """Of one member."""
    name, primary, newest = document.id, state.primary == document.id, newest_of(state.revision, hub.view)
    condition = shown(_known(engine, hub, node, name, newest), maintenance_of(document))
    writes = _known(engine, hub, node, state.primary, newest).state == "active"
    if name == node:
        now_ms = time.time_ns() // 1_000_000
        lag = newest - state.revision
        return Standing(name, primary, condition, VERSION, state.revision, lag, state.digest, now_ms, writes)
    seen = hub.view.nodes.get(name)
    if seen is None:
        return Standing(name, primary, condition, document.spec["version"], None, None, None, None, writes)
    pulse, lag = seen.pulse, newest - seen.pulse.revision
    return Standing(name, primary, condition, pulse.version, pulse.revision, lag, pulse.digest, seen.at_ms, writes)


def _known(engine: Engine, hub: Hub, node: str, name: str, newest: int) -> Condition:
    """How the member `name` is, maintenance left aside."""
    if name == node:
        return of_this(engine, hub, node, newest)
    seen = hub.view.nodes.get(name)
    said = Said(seen.pulse.state, seen.pulse.reason, time.monotonic() - seen.mono_s) if seen is not None else None
    return another(said, here=node, listening_s=hub.listening_s, no_room=engine.reading.blocked is not None)
