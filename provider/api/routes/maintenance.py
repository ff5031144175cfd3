"""A node's maintenance: begun and ended here, and whether the node may be stopped now without a client's noticing."""

import asyncio

from fastapi import Request, Response
from pydantic import BaseModel, ConfigDict

from provider.api import direct
from provider.api.access.policy import needs
from provider.api.http.source import PEER
from provider.api.http.traffic import QUIET_S
from provider.api.reads import answer, reading
from provider.api.routes.resources import documented, parse
from provider.api.writes import respond
from provider.core import commands as c
from provider.core.documents import Label

router = direct.router("cluster")


class MaintenanceBody(BaseModel):
    model_config = ConfigDict(extra="forbid")

    reason: Label | None = None


@router.put("/nodes/{name}/maintenance", openapi_extra=documented(MaintenanceBody))
@needs("admin")
async def begin(request: Request, name: str) -> Response:
    """Take a standby out of service: load balancers leave it, it asks its clients to go elsewhere, it is not promoted
    without force, and its broker is the agents' last choice. It goes on answering, and ends by command only."""
    return await respond(request, lambda w: c.BeginMaintenance(name, parse(w.body, MaintenanceBody).reason, w.when))


@router.delete("/nodes/{name}/maintenance")
@needs("admin")
async def end(request: Request, name: str) -> Response:
    """Let the node serve again."""
    return await respond(request, lambda w: c.EndMaintenance(name, w.when))


@router.get("/nodes/{name}/maintenance")
@needs("viewer")
async def look(request: Request, name: str) -> Response:
    """Whether a node is in maintenance, and how many use it still: known only to the node itself, null on others.

    `drained`: no connection of a client is open, and for some seconds nobody has asked anything. Load balancers and
    monitoring that look how the node is, and other nodes, are no clients.
    """
    ctx, state, _ = await reading(request)
    begun = c.need(state, "node", name).spec.get("maintenance")
    use: dict[str, object] = dict.fromkeys(("connections", "requests", "quiet_s", "drained"))
    if name == ctx.node:
        traffic, places = ctx.guard.traffic, ctx.guard.connections
        ours = request.scope.get(PEER) is None  # the connection and the request that ask this
        connections, requests = places.total - places.members - ours, traffic.under_way - ours
        quiet_s = min(asyncio.get_running_loop().time() - traffic.last_s, 86_400.0)
        drained = connections == 0 and requests == 0 and quiet_s >= QUIET_S
        use = {"connections": connections, "requests": requests, "quiet_s": round(quiet_s, 1), "drained": drained}
    return answer({"node": name, "maintenance": begun, **use})
