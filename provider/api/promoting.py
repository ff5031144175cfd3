"""One promotion of this node, step by step: the barrier, the claim, the advice, and a line about each.

Whoever asked and goes away meanwhile has given up: until the claim is on its way, nothing is changed.
"""

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from provider.api.context import Context
from provider.api.gateway import BarrierAsked
from provider.api.summary import agents_summary, node_status
from provider.api.views import to_json
from provider.concerns import own_clock
from provider.condition import FRESH_S, leads, maintenance_of, newest_of, without_maintenance
from provider.core.replica import Asker, Progress
from provider.core.state import State
from provider.core.vouching import Verdict
from provider.fleet.follow import advised
from provider.promotion import CATCH_UP_S, Patience, awaited, refusal
from provider.states import NO_ROOM, Condition
from shared.errors import Behind, BellwetherError, LogUnavailable, Refused

BEAT_S = 1.0
"""Somebody who hears nothing for some of these knows that this node hangs."""
_SLACK_S = 5.0
_STORE_S = 5.0
_MORE = (
    ". A member that has more puts it into the log as soon as it reaches that: see `provider status` there. Where that "
    "is not possible: --force goes on without it, for good"
)


def primary_is(ctx: Context, state: State) -> str:
    """What this node knows of the primary, in a few words."""
    document = state.get("node", state.primary)
    if document is None:
        return f"{state.primary}, not a member any more"
    status = node_status(ctx, state, document)
    return f"{state.primary}, {status['state']}" + (f" ({status['reason']})" if status["reason"] else "")


async def to_the_end(ctx: Context, wait_s: float) -> State:
    """The state at the end of the log. Raises a `BellwetherError`."""
    with ctx.gateway.barrier(wait_s=wait_s) as asked:
        step = await asked.next(wait_s + _SLACK_S)
        return (step if step is not None else await asked.final()).state


class Lines(StreamingResponse):
    """A stream that ends what makes it, at once, when whoever asked is gone."""

    def __init__(self, lines: AsyncGenerator[bytes, None]) -> None:
        super().__init__(lines, media_type="application/x-ndjson")
        self._lines = lines

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._lines):
            await super().__call__(scope, receive, send)


class Promotion:
    """Of the node whose context it is given. `wait_s`: how long a log that gives no sign is waited for."""

    def __init__(self, ctx: Context, asked_by: Asker, *, wait_s: float, force: bool) -> None:
        self.ctx, self.asked_by, self.wait_s, self.force = ctx, asked_by, wait_s, force
        self._since = time.monotonic()

    async def lines(self) -> AsyncGenerator[bytes, None]:
        """JSON lines; the last one has `result`: promoted, already_primary, lost (to another node) or failed. With
        `waits` this node was promoted, and cannot write yet: why."""
        try:
            async with aclosing(self._steps()) as steps:
                async for line in steps:
                    yield to_json(line) + b"\n"
        except BellwetherError as error:
            yield to_json(self._failed(error)) + b"\n"

    async def _steps(self) -> AsyncGenerator[dict[str, Any], None]:
        ctx, state = self.ctx, self.ctx.gateway.state
        at_work = maintenance_of(state.get("node", ctx.node))
        refused = refusal(ctx.node, self._here(), at_work, force=self.force, leads=ctx.is_primary)
        if refused is not None:
            raise Refused(refused)
        why_not, epoch = leads(ctx.gateway.engine, ctx.node), state.epoch
        if why_not is None:
            yield self._ended("already_primary", state)
            return
        standby = f"a standby, epoch {epoch}; the primary is {primary_is(ctx, state)}"
        was = f"named as primary of epoch {epoch}, but {why_not}"  # another may be primary by now
        yield self._step("check", f"{ctx.node} is {was if ctx.is_primary else standby}")
        for told in await self._against(state):
            yield told
        async with aclosing(self._claim()) as claiming:
            async for line in claiming:
                if isinstance(line, Progress):
                    state = line.state
                else:
                    yield line
        if state.primary != ctx.node:
            winner = f"{state.primary} became primary first, epoch {state.epoch}; {ctx.node} follows it"
            yield self._step("claim", winner)
            yield self._ended("lost", state) | {"detail": winner}
            return
        if state.epoch == epoch:
            yield self._ended("already_primary", state)
            return
        await self._shown(state)
        asked = "the other members were not asked (--force)" if self.force else "nothing acknowledged is missing"
        begins = f"epoch {state.epoch} begins, {ctx.node} is primary, revision {state.revision}: {asked}"
        yield self._step("claim", begins)
        async with aclosing(self._advise()) as advising:
            async for line in advising:
                yield line
        state = ctx.gateway.state
        if state.primary != ctx.node:
            since = f"{state.primary} has become primary since, epoch {state.epoch}; {ctx.node} follows it"
            yield self._ended("lost", state) | {"detail": since}
            return
        waits = await self._waits_for()
        yield self._ended("promoted", state) | ({} if waits is None else {"waits": waits})

    async def _waits_for(self) -> str | None:
        """Why nothing more can be written, although the claim was. RabbitMQ without room takes something of each new
        connection before it stops it."""
        try:
            await to_the_end(self.ctx, FRESH_S)
        except BellwetherError as error:
            return self._here().reason or error.detail
        here = self._here()
        return here.reason if here.state == "critical" else None

    async def _claim(self) -> AsyncGenerator[dict[str, Any] | Progress, None]:
        """Lines, and last the end of it. Raises why there is none."""
        gateway = self.ctx.gateway
        patience = Patience.begin(time.monotonic(), self.wait_s, gateway.state.revision)
        longest_s = max(self.wait_s, CATCH_UP_S) + _SLACK_S
        claimed = False
        asked_by, force = self.asked_by, self.force
        with gateway.barrier(wait_s=longest_s, promote=True, asked_by=asked_by, force=force) as asked:
            while True:
                step = await asked.next(BEAT_S)
                if step is None:
                    if not patience.look(time.monotonic(), gateway.state.revision):
                        step = await self._given_up(asked)
                    else:
                        yield self._waiting(patience, claimed=claimed)
                        continue
                if step.step == "caught up" and not claimed:
                    claimed = True
                    revision = step.state.revision
                    yield self._step("barrier", f"read the log to its end: revision {revision}")
                if step.final:
                    yield step
                    return

    async def _given_up(self, asked: BarrierAsked) -> Progress:
        """The end, if it came just now. Raises why it is not waited for any longer."""
        members = self._members_wait() if self.ctx.gateway.engine.health.caught_up else None
        try:
            return await asked.final()
        except LogUnavailable:
            if members is None:
                raise
            raise Behind(
                f"{members}; given up after {self.wait_s:g} s without a sign, and nothing was changed"
                + ("" if self.force else _MORE)
            ) from None

    def _waiting(self, patience: Patience, *, claimed: bool) -> dict[str, Any]:
        now_s, state = time.monotonic(), self.ctx.gateway.state
        newest = newest_of(state.revision, self.ctx.hub.view)
        found = awaited(self._here(), patience, now_s, newest, claimed=claimed, members=self._members_wait())
        if not patience.to_tell(now_s, found.what):
            return {"beat": True}
        return {"step": "wait", "detail": found.detail, "ms": round((now_s - patience.began_s) * 1000, 1)}

    def _members_wait(self) -> str | None:
        return self.ctx.gateway.engine.waits_for

    async def _against(self, state: State) -> list[dict[str, Any]]:
        """Lines about what may be held against it, and does not hinder it."""
        clock = own_clock(state, self.ctx.hub.view, self.ctx.node)
        lines = [] if clock is None else [self._step("clock", clock)]
        if self.force and (cost := await self._cost()) is not None:
            lines.append(self._step("members", f"--force goes on all the same: {cost}"))
        return lines

    async def _cost(self) -> str | None:
        """What is to be said against it, as far as the other members say; None: nothing."""
        engine = self.ctx.gateway.engine
        if not engine.health.caught_up:
            return None
        found = await run_in_threadpool(engine.foreseen)
        return None if found.verdict is Verdict.GO or found.absolute else found.why

    async def _shown(self, state: State) -> None:
        """The claim is in the log; this node's own copy shows it as soon as it is durable here."""
        try:
            await self.ctx.gateway.reach(state.revision, _STORE_S)
        except Behind:
            raise Refused(
                f"epoch {state.epoch} has begun and {self.ctx.node} is its primary, but its store cannot be written: "
                "make room on this host, or promote another standby"
            ) from None

    async def _advise(self) -> AsyncGenerator[dict[str, Any], None]:
        ctx = self.ctx
        until_s = time.monotonic() + ctx.settings.advise_wait_s
        while (left_s := until_s - time.monotonic()) > 0:
            if await ctx.heard.until(self._all_follow, min(left_s, BEAT_S)):
                break
            yield {"beat": True}
        state = ctx.gateway.state
        summary = agents_summary(ctx, state)
        yield self._step("advise", f"{summary['advised']} of {summary['total']} agents follow epoch {state.epoch}")

    def _all_follow(self) -> bool:
        """Whether all agents that are online have acknowledged the current epoch. Asked again whenever one has."""
        state, view = self.ctx.gateway.state, self.ctx.hub.view
        agents = state.documents.get("agent")
        return agents is None or all(
            document.status["state"] != "online" or advised(document, state, view) for document in agents.values()
        )

    def _here(self) -> Condition:
        ctx = self.ctx
        return without_maintenance(ctx.gateway.engine, ctx.node, newest_of(ctx.gateway.state.revision, ctx.hub.view))

    def _step(self, name: str, detail: str) -> dict[str, Any]:
        """With its time, since the step before it ended."""
        now_s = time.monotonic()
        took_s, self._since = now_s - self._since, now_s
        return {"step": name, "detail": detail, "ms": round(took_s * 1000, 1)}

    def _ended(self, result: str, state: State) -> dict[str, Any]:
        advice = self.ctx.membership.advice(state).model_dump(mode="json", include={"endpoints", "providers"})
        return {
            "result": result,
            "node": self.ctx.node,
            "primary": state.primary,
            "epoch": state.epoch,
            "revision": state.revision,
            "advice": advice,
            "agents": agents_summary(self.ctx, state),
        }

    def _failed(self, error: BellwetherError) -> dict[str, Any]:
        state, detail, here = self.ctx.gateway.state, error.detail, self._here()
        if isinstance(error, LogUnavailable) and here.no_room:
            detail = f"{here.reason}: {NO_ROOM}. Nothing was changed: promote again then"
        elif isinstance(error, LogUnavailable):
            reason = here.reason
            detail += f" ({reason})." if reason else "."
            detail += (
                f" This node is at revision {state.revision}; what was acknowledged after it could be missing here"
            )
            if not self.force:
                detail += ". Where the others are gone for good: --force says what a log of its own costs, and asks"
        return {
            "result": "failed",
            "node": self.ctx.node,
            "primary": state.primary,
            "epoch": state.epoch,
            "revision": state.revision,
            "code": error.code,
            "retryable": error.retryable,
            "detail": detail,
        }
