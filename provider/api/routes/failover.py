"""Promotion of this very node: the barrier, the claim, the advice, and a line about each.

The answer is a stream of JSON lines, one for each step as it ends and a last one with `result`.
"""

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Literal

from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict

from provider.api import direct
from provider.api.access.policy import needs
from provider.api.context import Context
from provider.api.reads import answer
from provider.api.routes.cluster import agents_summary, node_status
from provider.api.routes.resources import documented, parse
from provider.api.views import to_json
from provider.api.writes import receive
from provider.condition import maintenance_of, without_maintenance
from provider.core.replica import Asker
from provider.core.state import State
from provider.fleet.follow import advised
from shared.errors import BellwetherError, LogUnavailable, Refused

router = direct.router("failover")
BARRIER_WAIT_S = 10.0
"""A cluster of brokers that lost its leader elects another within some 2 to 5 s; twice that."""


class FailoverBody(BaseModel):
    model_config = ConfigDict(extra="forbid")

    operation: Literal["promote", "preflight"]
    node: str
    force: bool = False


@router.post("/failover", openapi_extra=documented(FailoverBody))
@needs("admin")
async def failover(request: Request) -> Response:
    """`preflight` looks, `promote` makes the node that is asked primary. `node` must be that node's name: behind a load
    balancer one cannot know whom one asks."""
    write = await receive(request)
    ctx: Context = request.app.state.context
    body = parse(write.body, FailoverBody)
    if body.node != ctx.node:
        raise Refused(f"this is {ctx.node}, not {body.node}: ask {body.node} itself")
    if body.operation == "preflight":
        return answer(await _preflight(ctx))
    return StreamingResponse(
        _promotion(ctx, Asker(write.principal.name, write.source), force=body.force), media_type="application/x-ndjson"
    )


# ── looking ──


@dataclass(slots=True)
class _Checks:
    items: list[dict[str, Any]] = field(default_factory=list)

    def add(self, name: str, detail: str, *, ok: bool = True, warning: bool = False) -> None:
        self.items.append({"check": name, "ok": ok, "warning": warning, "detail": detail})

    @property
    def ok(self) -> bool:
        return all(item["ok"] for item in self.items)


def primary_is(ctx: Context, state: State) -> str:
    """What this node knows of the primary, in a few words."""
    document = state.get("node", state.primary)
    if document is None:
        return f"{state.primary}, not a member any more"
    status = node_status(ctx, state, document)
    return f"{state.primary}, {status['state']}" + (f" ({status['reason']})" if status["reason"] else "")


async def _preflight(ctx: Context) -> dict[str, Any]:
    state, checks = ctx.gateway.state, _Checks()
    if ctx.is_primary:
        checks.add("role", f"{ctx.node} is the primary already; promote would change nothing")
    else:
        checks.add("role", f"{ctx.node} is a standby; the primary is {primary_is(ctx, state)}")
    here = without_maintenance(ctx.gateway.engine, ctx.node)
    if here.state in ("active", "syncing"):
        checks.add("state", here.state)
    else:
        checks.add("state", f"{here.state}: {here.reason}", ok=False)
    if ctx.in_maintenance and not ctx.is_primary:
        checks.add("maintenance", _in_maintenance(ctx), ok=False)
    started = time.monotonic()
    try:
        async for step in ctx.gateway.barrier(wait_s=BARRIER_WAIT_S):
            state = step.state
        took_ms = (time.monotonic() - started) * 1000
        checks.add(
            "log",
            f"read to its end in {took_ms:.0f} ms: revision {state.revision}; no acknowledged write would be lost",
        )
    except BellwetherError as error:
        detail = f"{error.detail} Acknowledged writes after revision {state.revision} could be lost"
        checks.add("log", detail, ok=False)
    agents = agents_summary(ctx, state)
    silent = agents["total"] - agents["online"]
    checks.add(
        "agents", f"{agents['online']} of {agents['total']} online and would be advised at once", warning=silent > 0
    )
    return {
        "ok": checks.ok,
        "node": ctx.node,
        "primary": state.primary,
        "epoch": state.epoch,
        "revision": state.revision,
        "checks": checks.items,
    }


def _in_maintenance(ctx: Context) -> str:
    said = maintenance_of(ctx.gateway.state.get("node", ctx.node))
    why = f" ({said.reason})" if said is not None and said.reason is not None else ""
    return (
        f"{ctx.node} is in maintenance{why}: somebody is about to stop it. `provider maintenance off` ends that; "
        "--force promotes it all the same"
    )


# ── promoting ──


async def _promotion(ctx: Context, asked_by: Asker, *, force: bool) -> AsyncIterator[bytes]:
    try:
        async for line in _steps(ctx, asked_by, force=force):
            yield to_json(line) + b"\n"
    except BellwetherError as error:
        detail = error.detail
        if isinstance(error, LogUnavailable):
            revision = ctx.gateway.state.revision
            detail += f" This node is at revision {revision}; what was acknowledged after it could be missing here"
        detail += f". {_NO_FORCE}" if force else ""
        failed = {"result": "failed", "code": error.code, "retryable": error.retryable, "detail": detail}
        yield to_json(failed) + b"\n"


_NO_FORCE = (
    "--force changes nothing here: without a log that can be read and written there is nothing to be primary of, and "
    "this version cannot begin a new one"
)


async def _steps(ctx: Context, asked_by: Asker, *, force: bool) -> AsyncIterator[dict[str, Any]]:
    clock = _Clock()
    state = ctx.gateway.state
    health, here = ctx.gateway.engine.health, without_maintenance(ctx.gateway.engine, ctx.node)
    # A broker that has just died takes the log away until the others have elected: that is waited for.
    log_away = here.state == "critical" and health.store_problem is None and not health.connected
    if here.state in ("out_of_sync", "critical", "removed") and not log_away:
        raise Refused(f"{ctx.node} is {here.state}: {here.reason}. Promote another standby, or mend this first")
    if ctx.is_primary:
        yield _ended("already_primary", state, ctx)
        return
    if ctx.in_maintenance and not force:
        raise Refused(_in_maintenance(ctx))
    yield clock.step("check", f"{ctx.node} is a standby, epoch {state.epoch}; the primary is {primary_is(ctx, state)}")
    if log_away:
        yield clock.step("wait", f"{here.reason}; waiting for it, {BARRIER_WAIT_S:g} s at most")
    async for progress in ctx.gateway.barrier(wait_s=BARRIER_WAIT_S, promote=True, asked_by=asked_by):
        state = progress.state
        if progress.step == "caught up":
            yield clock.step(
                "barrier", f"read the log to its end: revision {state.revision}, nothing acknowledged is missing"
            )
    if state.primary != ctx.node:
        winner = f"{state.primary} became primary first, epoch {state.epoch}; {ctx.node} follows it"
        yield clock.step("claim", winner)
        yield _ended("lost", state, ctx) | {"detail": winner}
        return
    # The claim is in the log; this node's own copy shows it as soon as it is durable here.
    await ctx.gateway.reach(state.revision, BARRIER_WAIT_S)
    yield clock.step("claim", f"epoch {state.epoch} begins, {ctx.node} is primary, revision {state.revision}")
    await ctx.heard.until(lambda: _all_follow(ctx), ctx.settings.advise_wait_s)
    summary = agents_summary(ctx, ctx.gateway.state)
    yield clock.step("advise", f"{summary['advised']} of {summary['total']} agents follow epoch {state.epoch}")
    yield _ended("promoted", ctx.gateway.state, ctx)


def _all_follow(ctx: Context) -> bool:
    """Whether all agents that are online have acknowledged the current epoch. Asked again whenever one has."""
    state, view = ctx.gateway.state, ctx.hub.view
    agents = state.documents.get("agent")
    return agents is None or all(
        document.status["state"] != "online" or advised(document, state, view) for document in agents.values()
    )


def _ended(result: str, state: State, ctx: Context) -> dict[str, Any]:
    return {
        "result": result,
        "node": ctx.node,
        "primary": state.primary,
        "epoch": state.epoch,
        "revision": state.revision,
        "agents": agents_summary(ctx, state),
    }


class _Clock:
    """Times each step since the one before it."""

    def __init__(self) -> None:
        self._since = time.monotonic()

    def step(self, name: str, detail: str) -> dict[str, Any]:
        now = time.monotonic()
        took, self._since = now - self._since, now
        return {"step": name, "detail": detail, "ms": round(took * 1000, 1)}
