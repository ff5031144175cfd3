"""How this node is: gathers the signs that `provider.states` decides on. Any thread."""

import time
from datetime import UTC, datetime

from provider.core.documents import Document
from provider.engine import Engine
from provider.fleet.view import View
from provider.states import FRESH_S, Condition, Maintenance, Signs, own, shown

__all__ = ["FRESH_S", "Condition", "condition", "leads", "maintenance_of", "newest_of", "without_maintenance"]


def condition(engine: Engine, node: str, newest: int = 0) -> Condition:
    """The condition of this node, as it is shown. `newest`: the highest revision that it has heard of."""
    return shown(without_maintenance(engine, node, newest), maintenance_of(engine.state.get("node", node)))


def without_maintenance(engine: Engine, node: str, newest: int = 0) -> Condition:
    """The same, as if nobody worked on its host: what it is fit for."""
    health, state = engine.health, engine.state
    return own(
        Signs(
            node=node,
            member=engine.expelled is None and state.get("node", node) is not None,
            given_up=engine.expelled or None,
            diverged=health.diverged,
            healing=engine.healing,
            comparing=health.comparing,
            put_back=health.put_back,
            asking=health.asking,
            store_problem=health.store_problem.detail if health.store_problem is not None else None,
            connected=health.connected,
            log_problem=health.log_problem,
            caught_up=health.caught_up,
            leads=state.primary == node,
            silent_s=time.monotonic() - health.read_back_s,
            quiet_s=time.monotonic() - health.read_s,
            revision=state.revision,
            newest=newest,
        )
    )


def maintenance_of(document: Document | None) -> Maintenance | None:
    """Who is in maintenance, by the node's document; None: it is not."""
    found = document.spec.get("maintenance") if document is not None else None
    if found is None:
        return None
    since = found.get("since")
    if isinstance(since, int):  # Unix milliseconds
        since = datetime.fromtimestamp(since / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return Maintenance(found.get("reason"), since)


def newest_of(revision: int, view: View) -> int:
    """The highest revision that any node has told of; at least `revision`, our own."""
    return max([revision, *(seen.pulse.revision for seen in view.nodes.values())])


def leads(engine: Engine, node: str) -> str | None:
    """None where this node is a primary that works; otherwise why it is not."""
    state = engine.state
    if state.primary != node:
        return f"{state.primary} is the primary"
    here = without_maintenance(engine, node)
    return None if here.state == "active" else f"{here.state}: {here.reason}"
