"""The cluster as a whole: nodes, agents, tokens."""

import time
from collections.abc import Iterator, Mapping
from typing import Any

from fastapi import Request, Response
from pydantic import BaseModel, ConfigDict, Field

from provider.address import not_known
from provider.api import direct
from provider.api.access.auth import Principal
from provider.api.access.policy import Rule, needs
from provider.api.context import Context, context
from provider.api.reads import answer, choice, flag, paging, reading, shown
from provider.api.record.noting import note_done
from provider.api.routes.authorities import authority_view
from provider.api.routes.backups import backups_view
from provider.api.routes.resources import documented, parse
from provider.api.summary import MISSING_SHOWN, agents_at_brokers, agents_summary, node_status
from provider.api.views import agent_view, document_view, page, rest, time_text
from provider.api.writes import Write, receive, render, respond, to_primary
from provider.backup.concerns import warnings as backup_warnings
from provider.concerns import broker_users, warnings
from provider.core import commands as c
from provider.core.documents import Document, Label, Placement
from provider.core.state import State
from provider.fleet.alike import labels_of
from provider.fleet.follow import advised
from provider.standing import away
from provider.trust.authorities import trusted
from shared.errors import Refused
from shared.messages import TO_ALL

router = direct.router()
AGENT_STATES = ("online", "offline", "never")


# ── cluster and nodes ──


class NodeBody(BaseModel):
    """What people decide about a node."""

    model_config = ConfigDict(extra="forbid")

    labels: dict[Placement, Label] = Field(description="nodes that share a host or a zone can be lost together")


def node_view(ctx: Context, state: State, document: Document) -> dict[str, Any]:
    return {**document_view(document), "status": node_status(ctx, state, document)}


def _certificate(node: Document) -> dict[str, Any] | None:
    """When the certificate of a node expires. It is renewed long before."""
    given = node.spec.get("certificates", ())[:1]
    if not given:
        return None
    expires_at = given[0]["expires_at"]
    days_left = round((expires_at / 1000 - time.time()) / 86_400, 1)
    return {"expires_at": time_text(expires_at), "days_left": days_left, "authority": given[0]["authority"]}


@router.get("/cluster", tags=["cluster"])
@needs("viewer")
async def get_cluster(request: Request) -> Response:
    """The cluster at a glance. `digest` stands for the whole state: equal on two nodes at the same revision."""
    ctx, state, _ = await reading(request)
    identity = state.get("setting", c.CLUSTER_ID)
    now_ms = int(time.time() * 1000)
    return answer(
        {
            "id": identity.spec["value"] if identity is not None else None,
            "generation": state.generation,
            "epoch": state.epoch,
            "primary": state.primary,
            "revision": state.revision,
            "digest": state.digest,
            "nodes": [
                {
                    "name": node.id,
                    "url": node.spec["url"],
                    "labels": labels_of(node),
                    **node_status(ctx, state, node),
                    "certificate": _certificate(node),
                }
                for node in state.of("node")
            ],
            "authorities": [
                {"id": one["id"], "signs": one["spec"]["signs"], **one["status"]}
                for one in (authority_view(ctx, state, authority) for authority in trusted(state))
            ],
            "agents": agents_summary(ctx, state),
            "agents_at": agents_at_brokers(ctx, state),
            "backup": backups_view(state, now_ms),
            "warnings": [
                *warnings(state, ctx.hub.view, ctx.node, ctx.untrusting(state)),
                *backup_warnings(state, now_ms),
                *_of_this_node(ctx, state),
            ],
        }
    )


def _of_this_node(ctx: Context, state: State) -> Iterator[str]:
    """What others do not know."""
    moved = not_known(state, ctx.node, ctx.settings.url)
    if moved is not None:
        yield moved
    unable = broker_users(state, ctx.node, ctx.settings.broker.management)
    if unable is not None:
        yield unable
    problem = ctx.own_broker_problem()
    if problem is not None:
        yield f"the RabbitMQ of {ctx.node} stays as it is: {problem}"


@router.get("/nodes", tags=["cluster"])
@needs("viewer")
async def list_nodes(request: Request) -> Response:
    ctx, state, _ = await reading(request)
    items = (node_view(ctx, state, node) for node in state.of("node"))
    return answer(page(items, state.revision, *paging(request)))


@router.get("/nodes/{name}", tags=["cluster"])
@needs("viewer")
async def get_node(request: Request, name: str) -> Response:
    ctx, state, _ = await reading(request)
    document = c.need(state, "node", name)
    return shown(document, node_view(ctx, state, document), request, live=True)


@router.put("/nodes/{name}", tags=["cluster"], openapi_extra=documented(NodeBody))
@needs("admin")
async def put_node(request: Request, name: str) -> Response:
    """Say where a node is placed. What is not said is no label any more; all else about a node it says itself."""
    return await respond(request, lambda w: c.LabelNode(name, parse(w.body, NodeBody).labels, w.when))


@router.delete("/nodes/{name}", tags=["cluster"])
@needs("admin")
async def delete_node(request: Request, name: str) -> Response:
    """Remove a standby. Its identity never comes back; the primary cannot be removed, nor one without whose broker the
    log might stop."""
    ctx = context(request)

    def removal(w: Write) -> c.Command:
        state = ctx.gateway.state
        sealed = ctx.membership.without(state, name)
        return c.RemoveNode(name, *sealed, away=away(ctx.hub, ctx.node, state), when=w.when)

    return await respond(request, removal)


# ── agents ──


def _agents(request: Request, ctx: Context, state: State, after: str | None) -> Iterator[dict[str, Any]]:
    wanted, follows = choice(request, "state", AGENT_STATES), flag(request, "advised")
    for document in rest(state.of("agent"), after):
        if wanted is not None and document.status["state"] != wanted:
            continue
        if follows is not None and advised(document, state, ctx.hub.view) != follows:
            continue
        yield agent_view(document, state, ctx.hub.view)


@router.get("/agents", tags=["agents"])
@needs("viewer")
async def list_agents(request: Request) -> Response:
    """Filters: `state` (online, offline, never), `advised` (true, false)."""
    ctx, state, _ = await reading(request)
    limit, after = paging(request)
    return answer(page(_agents(request, ctx, state, after), state.revision, limit, after))


@router.get("/agents/{agent}", tags=["agents"])
@needs("viewer")
async def get_agent(request: Request, agent: str) -> Response:
    ctx, state, _ = await reading(request)
    document = c.need(state, "agent", agent)
    # Half of what is shown is not part of the document: no ETag would be true of it.
    return answer(agent_view(document, state, ctx.hub.view))


@router.delete("/agents/{agent}", tags=["agents"])
@needs("admin")
async def delete_agent(request: Request, agent: str) -> Response:
    """Forget an agent and shut it out. Its instances and what was asked of them stay."""
    return await respond(request, lambda w: c.RemoveAgent(agent, w.when))


def _own_advice(principal: Principal, parameters: Mapping[str, Any]) -> Rule:
    """an agent: its own; others' need viewer"""
    return "agent" if principal.name == f"agent:{parameters['agent']}" else "viewer"


@router.get("/agents/{agent}/advice", tags=["agents"])
@needs("agent", by=_own_advice)
async def get_advice(request: Request, agent: str) -> Response:
    """Who is primary and how to reach the broker: for the agent itself, which may have lost all of it."""
    ctx, state, _ = await reading(request)
    c.need(state, "agent", agent)
    return answer(ctx.membership.advice(state).model_dump(mode="json"))


@router.post("/agents/advise", tags=["agents"])
@needs("operator")
async def advise_all(request: Request) -> Response:
    """Advise every agent that has not acknowledged the current epoch."""
    return await _advise(request, None)


@router.post("/agents/{agent}/advise", tags=["agents"])
@needs("operator")
async def advise_one(request: Request, agent: str) -> Response:
    """Advise one agent now. 202: it is told; `advised` turns true when it has acknowledged."""
    return await _advise(request, agent)


@router.post("/agents/{agent}/credential", tags=["agents"])
@needs("admin")
async def rotate_credential(request: Request, agent: str) -> Response:
    """Change an agent's password on the broker while it works. 202: it is asked for a new one; `spec.credential` is
    higher when the broker has that, `status.credential` when the agent uses it."""
    if context(request).settings.broker.management is None:
        raise Refused("no broker management address is configured: nobody could put a new password on the broker")
    return await respond(request, lambda _: c.RotateCredential(agent))


async def _advise(request: Request, agent: str | None) -> Response:
    write = await receive(request)
    ctx: Context = request.app.state.context
    if agent is not None:
        c.need(ctx.gateway.state, "agent", agent)
    elsewhere = await to_primary(ctx, write)
    if elsewhere is not None:
        return render(elsewhere)
    state = ctx.gateway.state
    told = [agent] if agent is not None else agents_summary(ctx, state)["missing"]
    for one in told if len(told) < MISSING_SHOWN else [TO_ALL]:
        ctx.hub.advise(one)
    note_done(ctx, request.scope, write.principal.name, 202)
    return answer({"told": told, "epoch": state.epoch}, 202)
