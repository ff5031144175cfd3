"""Nodes and agents in a few fields: what several routes tell of them."""

from typing import Any

from immutables import Map

from provider.api.context import Context
from provider.api.views import time_text
from provider.core.documents import Document
from provider.core.state import State
from provider.fleet.alike import clock_skews
from provider.fleet.follow import advised, agents_at
from provider.settings import configuration, fingerprint_of
from provider.standing import standing

MISSING_SHOWN = 100
_NONE: Map[str, Document] = Map()


def node_status(ctx: Context, state: State, document: Document) -> dict[str, Any]:
    """How a node is, from its own knowledge or from its last pulse."""
    found = standing(ctx.gateway.engine, ctx.hub, ctx.node, state, document)
    return {
        "role": "primary" if found.primary else "standby",
        "state": found.condition.state,
        "reason": found.condition.reason,
        "part": found.condition.part,
        "remedy": found.remedy,
        "version": found.version,
        "revision": found.revision,
        "digest": found.digest,
        "last_seen": time_text(found.seen_ms),
        "lag": found.lag,
        "clock_skew_s": clock_skews(ctx.hub.view, ctx.node, state.primary).get(document.id),
        "configuration": _configuration(ctx, document.id),
    }


def _configuration(ctx: Context, node: str) -> str | None:
    """The fingerprint of a node's settings that have to be the same on all."""
    if node == ctx.node:
        return fingerprint_of(configuration(ctx.settings))
    seen = ctx.hub.view.nodes.get(node)
    return seen.pulse.configuration if seen is not None else None


def agents_summary(ctx: Context, state: State) -> dict[str, Any]:
    """How many agents there are, are online, follow the current primary; and which do not."""
    agents = list(state.documents.get("agent", _NONE).values())  # 10,000 need not be sorted to be counted
    missing = sorted(document.id for document in agents if not advised(document, state, ctx.hub.view))
    return {
        "total": len(agents),
        "online": sum(document.status["state"] == "online" for document in agents),
        "advised": len(agents) - len(missing),
        "missing": missing[:MISSING_SHOWN],
    }


def agents_at_brokers(ctx: Context, state: State) -> list[dict[str, Any]]:
    """How many agents sit at which broker, and which one agents prefer; those where nobody sits too."""
    advised_order = ctx.membership.advice(state).endpoints
    found = agents_at(state, ctx.hub.view)
    return [
        {"endpoint": endpoint, "agents": found[endpoint], "preferred": endpoint == advised_order[0]}
        for endpoint in dict.fromkeys([*advised_order, *sorted(found)])
    ]
