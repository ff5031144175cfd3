"""Promotion of this very node, and what it would do.

The answer to `promote` is a stream of JSON lines: one for each step as it ends, `{"beat": true}` for each second in
which none does, and a last one with `result`.
"""

import time
from dataclasses import dataclass, field
from typing import Any, Literal

from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ConfigDict, Field

from provider.api import direct
from provider.api.access.policy import needs
from provider.api.beginning import Beginning, ForcedPromotion, surveyed
from provider.api.context import Context
from provider.api.promoting import Lines, Promotion, primary_is, to_the_end
from provider.api.reads import answer
from provider.api.routes.resources import documented, parse
from provider.api.summary import agents_summary
from provider.api.writes import receive
from provider.concerns import broker_users, own_clock
from provider.condition import maintenance_of, newest_of, without_maintenance
from provider.core.replica import Asker
from provider.core.vouching import Verdict
from provider.promotion import CATCH_UP_S, WAIT_S, refusal
from provider.recovery.survey import Plan
from provider.states import NO_ROOM
from shared.errors import BellwetherError, Invalid, LogUnavailable, Refused

router = direct.router("failover")
LOOK_S = 10.0
"""`preflight` waits no longer than this for the log: it is asked by people who want to know."""


class FailoverBody(BaseModel):
    model_config = ConfigDict(extra="forbid")

    operation: Literal["promote", "preflight", "begin_anew"]
    node: str
    force: bool = Field(
        default=False,
        description="promote: also in maintenance, and without what the brokers have lost. Where the log is out of "
        "reach, the last line then has `anew`: what a log of this node's own would cost",
    )
    accept: str | None = Field(default=None, description="begin_anew: `anew.accept`, of whoever agrees to that")
    wait_s: float = Field(
        default=WAIT_S, gt=0, le=CATCH_UP_S, description="how long a log that gives no sign is waited for"
    )


@router.post("/failover", openapi_extra=documented(FailoverBody))
@needs("admin")
async def failover(request: Request) -> Response:
    """`preflight` looks, `promote` makes the node that is asked primary, `begin_anew` has it begin a log of its own,
    where the majority of the brokers is gone for good. `node` must be that node's name: behind a load balancer one
    cannot know whom one asks."""
    write = await receive(request)
    ctx: Context = request.app.state.context
    body = parse(write.body, FailoverBody)
    if body.node != ctx.node:
        raise Refused(f"this is {ctx.node}, not {body.node}: ask {body.node} itself")
    if body.operation == "preflight":
        return answer(await _preflight(ctx, min(body.wait_s, LOOK_S), force=body.force))
    asker = Asker(write.principal.name, write.source)
    if body.operation == "begin_anew":
        if body.accept is None:
            raise Invalid("accept: expected what a promotion with force has said (`anew.accept`)")
        return Lines(Beginning(ctx, asker, wait_s=body.wait_s, accept=body.accept).lines())
    promotion = ForcedPromotion if body.force else Promotion
    return Lines(promotion(ctx, asker, wait_s=body.wait_s, force=body.force).lines())


@dataclass(slots=True)
class _Checks:
    items: list[dict[str, Any]] = field(default_factory=list)

    def add(self, name: str, detail: str, *, ok: bool = True, warning: bool = False) -> None:
        self.items.append({"check": name, "ok": ok, "warning": warning, "detail": detail})

    @property
    def ok(self) -> bool:
        return all(item["ok"] for item in self.items)


def _look_at_state(ctx: Context, checks: _Checks, *, force: bool) -> None:
    state = ctx.gateway.state
    here = without_maintenance(ctx.gateway.engine, ctx.node, newest_of(state.revision, ctx.hub.view))
    maintenance = maintenance_of(state.get("node", ctx.node))
    refused = refusal(ctx.node, here, None, force=force)
    how = here.state + (f" ({here.reason})" if here.reason else "")
    if refused is not None:
        checks.add("state", refused, ok=False)
    elif here.state == "syncing":
        checks.add("state", f"{how}: promote would wait for it", warning=True)
    elif here.part == "log":
        checks.add("state", f"{how}: promote would wait for it, and refuse if it does not come back", warning=True)
    else:
        checks.add("state", how)
    if maintenance is not None and refused is None:
        at_work = refusal(ctx.node, here, maintenance, force=force, leads=ctx.is_primary)
        over = f"{ctx.node} is in maintenance: passed over"
        checks.add("maintenance", at_work or over, ok=at_work is None, warning=True)


async def _look_at_members(ctx: Context, checks: _Checks, *, force: bool) -> None:
    """As a promotion asks them."""
    if ctx.is_primary:
        checks.add("members", "need not be asked: no acknowledged write would be lost")
        return
    found = await run_in_threadpool(ctx.gateway.engine.foreseen)
    if found.verdict is Verdict.GO:
        checks.add("members", "no acknowledged write would be lost")
    elif force and not found.absolute:
        checks.add("members", f"--force would go on all the same: {found.why}", warning=True)
    else:
        waits = found.verdict is Verdict.WAIT
        checks.add("members", f"promote would {'wait' if waits else 'be refused'}: {found.why}", ok=waits, warning=True)


async def _preflight(ctx: Context, wait_s: float, *, force: bool) -> dict[str, Any]:
    state, checks = ctx.gateway.state, _Checks()
    if ctx.is_primary:
        checks.add("role", f"{ctx.node} is the primary already; promote would change nothing")
    else:
        checks.add("role", f"{ctx.node} is a standby; the primary is {primary_is(ctx, state)}")
    _look_at_state(ctx, checks, force=force)
    unable = broker_users(state, ctx.node, ctx.settings.broker.management)
    if unable is not None:
        checks.add("broker", unable, warning=True)
    clock = own_clock(state, ctx.hub.view, ctx.node)
    if clock is not None:
        checks.add("clock", clock, warning=True)
    started = time.monotonic()
    try:
        state = await to_the_end(ctx, wait_s)
        took_ms = (time.monotonic() - started) * 1000
        checks.add("log", f"read to its end in {took_ms:.0f} ms: revision {state.revision}")
        await _look_at_members(ctx, checks, force=force)
    except BellwetherError as error:
        here = without_maintenance(ctx.gateway.engine, ctx.node)
        detail = f"{error.detail} Acknowledged writes after revision {state.revision} could be lost"
        if here.no_room:
            detail = f"{here.reason}: {NO_ROOM}"
        forced = await surveyed(ctx) if force and isinstance(error, LogUnavailable) else None
        checks.add("log", detail, ok=isinstance(forced, Plan), warning=True)
        if isinstance(forced, Plan):
            checks.add("force", f"would begin a log of its own, and ask first: {' '.join(forced.told)}", warning=True)
        elif forced is not None:
            checks.add("force", forced, ok=False)
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
