"""For load balancers and monitoring. No token: nothing here tells more than that the node is there."""

import time

from fastapi import Request, Response
from fastapi.responses import PlainTextResponse

from provider.api import direct
from provider.api.access.policy import needs
from provider.api.context import Context, context
from provider.api.reads import answer
from provider.condition import leads, maintenance_of, newest_of, without_maintenance
from shared.errors import Invalid

probes = direct.router("health")
"""Under `/api/v1`."""
root = direct.router("health", prefix="")
"""At the root, where proxies and Prometheus look."""


@probes.get("/health/live")
@needs("open")
async def live(_request: Request) -> Response:
    """200: the process answers, and what time it is here: whoever joins compares its clock."""
    return answer({"status": "live", "now": time.time_ns() // 1_000_000})


@probes.get("/health/ready")
@needs("open")
async def ready(request: Request) -> Response:
    """200: serves reads. It does so from its own state, also while the log or the primary is gone.

    A node in maintenance would, too, and says 503: nobody is to be sent there.
    """
    ctx = context(request)
    gateway = ctx.gateway
    here = without_maintenance(gateway.engine, ctx.node)
    if here.state in ("out_of_sync", "removed") or gateway.engine.health.diverged is not None:
        return _no(f"{here.state}: {here.reason}")
    if not gateway.engine.has_caught_up:
        return _no(f"the log has not been read since this node started: {here.reason}")
    if ctx.in_maintenance:
        return _maintenance(ctx)
    return answer({"status": "ready", "state": here.state, "reason": here.reason})


@probes.get("/health/primary")
@needs("open")
async def primary(request: Request) -> Response:
    """200 only on a primary that committed or read the log back within the last seconds."""
    ctx = context(request)
    why_not = leads(ctx.gateway.engine, ctx.node)
    return answer({"status": "primary"}) if why_not is None else _no(why_not)


@probes.get("/health/standby")
@needs("open")
async def standby(request: Request) -> Response:
    """200 on a standby that follows the log, at most `max_lag` revisions behind."""
    ctx = context(request)
    state, here = ctx.gateway.state, without_maintenance(ctx.gateway.engine, ctx.node)
    text = request.query_params.get("max_lag")
    if text is not None and (not text.isdecimal() or len(text) > 18):
        raise Invalid("max_lag: expected a number of revisions")
    lag = newest_of(state.revision, ctx.hub.view) - state.revision
    if ctx.is_primary:
        return _no("this node is the primary")
    if ctx.in_maintenance:
        return _maintenance(ctx)
    if here.state != "active":
        return _no(f"{here.state}: {here.reason}")
    if text is not None and lag > int(text):
        return _no(f"{lag} revisions behind")
    return answer({"status": "standby", "lag": lag})


@root.get("/api/leader-check")
@needs("open")
async def leader_check(request: Request) -> Response:
    """200 `"OK"` on a primary that works, else 404: the form that proxies know."""
    ctx = context(request)
    works = leads(ctx.gateway.engine, ctx.node) is None
    return answer("OK" if works else "Not leader", 200 if works else 404)


@probes.get("/metrics")
@root.get("/metrics", include_in_schema=False)
@needs("open")
async def metrics(request: Request) -> Response:
    """Prometheus text format."""
    return PlainTextResponse(context(request).metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _maintenance(ctx: Context) -> Response:
    """503 of a node that could serve, and is not to be sent anybody."""
    said = maintenance_of(ctx.gateway.state.get("node", ctx.node))
    return answer({"status": "maintenance", "reason": said.reason if said is not None else None}, 503)


def _no(why: str) -> Response:
    return answer({"status": "no", "reason": why}, 503)
