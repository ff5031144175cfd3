"""A log of this node's own, begun by force: the survey that is shown first, and what follows when somebody agreed.

From the moment that the new state is durable here all goes on by itself, whoever asked or not: root's part begins the
broker of this host anew, the log is declared as soon as there is a broker, members that are kept and agents follow.
"""

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, closing, suppress
from typing import Any
from uuid import uuid4

from fastapi.concurrency import run_in_threadpool

from provider.api.context import Context
from provider.api.promoting import BEAT_S, Promotion, to_the_end
from provider.api.views import to_json
from provider.broker.host.wanted import STATUS
from provider.client import as_node
from provider.condition import leads, newest_of, without_maintenance
from provider.core import commands as c
from provider.core.anew import Begun, Left, gone_on
from provider.core.entries import encode
from provider.core.replica import Asker
from provider.core.state import State
from provider.core.vouching import Word, beyond
from provider.recovery.members import ANSWER_S, HttpMembers, Standing
from provider.recovery.recovery import others
from provider.recovery.survey import Answer, Asked, Heard, Plan, survey
from provider.store import HistoryRow
from shared.errors import BellwetherError, LogUnavailable, Refused
from shared.logs import log

ROUNDS = 3
"""In which members are asked: one that is busy may miss the first."""
READS_S = 6.0
"""How long another member has to read the log to its end. An election of brokers is over by then."""
BROKER_S = 240.0
"""How long RabbitMQ is waited for, which is started empty: ten seconds, on a busy host a minute."""
TELL_EVERY_S = 5.0
LAST_LOOK_S = 2.0
"""For the log, once somebody has agreed that it is lost."""


async def surveyed(ctx: Context) -> Plan | str:
    """What would be done and lost, or why it must not be. Takes seconds where members do not answer."""
    return survey(await run_in_threadpool(_ask_around, ctx))


async def _beating(ctx: Context) -> AsyncGenerator[Plan | str | None, None]:
    """None each second while it is asked around, and last what came of it: whoever asked sees that this node lives."""
    asking = asyncio.create_task(surveyed(ctx))
    try:
        while not (await asyncio.wait([asking], timeout=BEAT_S))[0]:
            yield None
        yield asking.result()
    finally:
        asking.cancel()


def _ask_around(ctx: Context) -> Asked:
    """Blocking: other members are asked."""
    engine, state, view = ctx.gateway.engine, ctx.gateway.state, ctx.hub.view
    reading, known, urls = engine.reading, c.beginning(state), others(state, ctx.node)
    agents = max(((seen.revision, name) for name, seen in view.agents.items()), default=None)
    own_broker = _own_broker(ctx, state)
    return Asked(
        node=ctx.node,
        here=without_maintenance(engine, ctx.node, newest_of(state.revision, view)),
        own=reading.word,
        primary=state.primary,
        blocked=reading.blocked,
        own_broker=own_broker,
        broker_problem=_roots_part() if own_broker is not None else None,
        waits=known is not None and known.revision == state.revision,
        heard=[Heard(name, seen.pulse.revision, seen.at_ms) for name, seen in view.nodes.items() if name in urls],
        heard_agents=None if agents is None else Heard(agents[1], agents[0], view.agents[agents[1]].at_ms),
        answers=_answers(ctx, urls),
        stored=_stored(ctx, reading.word),
    )


def _stored(ctx: Context, own: Word) -> int | None:
    """See `Asked.stored`. Where the store does not answer, nothing can be begun either."""
    try:
        stored = ctx.past.reached()
    except BellwetherError:
        return None
    return None if stored is None else beyond(stored, own)


def _own_broker(ctx: Context, state: State) -> str | None:
    node = state.get("node", ctx.node)
    broker = node.spec.get("broker") if node is not None else None
    return str(broker["node"]) if broker and state.get("credential", c.BROKER_COOKIE) is not None else None


def _answers(ctx: Context, urls: dict[str, str]) -> dict[str, Answer | None]:
    """Of each member, what it says; None: nothing, however often it is asked."""
    members, found = HttpMembers(ctx.membership.files), dict[str, Standing | None].fromkeys(urls)
    for _ in range(ROUNDS):
        silent = {name: urls[name] for name, said in found.items() if said is None}
        found |= members.standings(silent, ANSWER_S * 2)
    there = {name: urls[name] for name, said in found.items() if said is not None}
    with ThreadPoolExecutor(max(len(there), 1), thread_name_prefix="asking") as pool:
        reads = dict(zip(there, pool.map(lambda name: _reads(ctx, name, there[name]), there), strict=True))
    return {
        name: None if said is None else Answer(said.word, said.primary, reads[name]) for name, said in found.items()
    }


def _reads(ctx: Context, name: str, url: str) -> bool:
    """Whether a member can read the log to its end now."""
    asked = {"operation": "preflight", "node": name, "wait_s": READS_S}
    try:
        with closing(as_node([url], ctx.membership.files, patience_s=READS_S + 4.0)) as client:
            said = client.request("POST", "/failover", asked)
        return any(check["check"] == "log" and check["ok"] for check in said["checks"])
    except (BellwetherError, OSError, LookupError, TypeError):
        return False


def _roots_part() -> str | None:
    """Why root would not begin this host's broker anew."""
    if STATUS.exists():
        return None
    return (
        "root's part, which begins the broker of this host anew, has not run since the host was booted: "
        "`systemctl enable --now bellwether-broker.path`, `systemctl start bellwether-broker`, then this again"
    )


def _broker_problem() -> str | None:
    """What hinders root's part, by its own word."""
    try:
        said = json.loads(STATUS.read_text(encoding="utf-8"))["problem"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return None if said is None else str(said)


class ForcedPromotion(Promotion):
    """An ordinary promotion; where the log is out of reach, it ends with what a log of this node's own would cost."""

    async def lines(self) -> AsyncGenerator[bytes, None]:
        async with aclosing(super().lines()) as lines:
            async for line in lines:
                said = json.loads(line)
                if said.get("code") != LogUnavailable.code or "result" not in said:
                    yield line
                    continue
                async with aclosing(_beating(self.ctx)) as survey_:
                    async for found in survey_:
                        yield to_json(_with(said, found)) + b"\n"


def _with(said: dict[str, Any], found: Plan | str | None) -> dict[str, Any]:
    """The last line of a promotion that could not be, and what is left to do."""
    if found is None:
        return {"beat": True}
    if isinstance(found, str):
        return said | {"detail": f"{said['detail']}. --force begins no log of its own: {found}"}
    return said | {"anew": found.shown()}


class Beginning(Promotion):
    """Begins the log, once somebody agreed to what `accept` stands for."""

    def __init__(self, ctx: Context, asked_by: Asker, *, wait_s: float, accept: str) -> None:
        super().__init__(ctx, asked_by, wait_s=max(wait_s, BROKER_S), force=True)
        self._accept = accept

    async def _steps(self) -> AsyncGenerator[dict[str, Any], None]:
        ctx, before = self.ctx, self.ctx.gateway.state
        await self._look_once_more()
        plan: Plan | str | None = None
        async with aclosing(_beating(ctx)) as asking:
            async for plan in asking:
                if plan is None:
                    yield {"beat": True}
        if not isinstance(plan, Plan):
            raise Refused(plan or "nobody could be asked")
        if plan.accept != self._accept:
            raise Refused("what would be lost is not what was shown any more; nothing was changed: ask again")
        gone = f"given up: {', '.join(plan.lost)}" if plan.lost else "nobody is given up"
        yield self._step("survey", f"{ctx.node} goes on from revision {plan.revision}; {gone}")
        begun = await run_in_threadpool(self._begin, before, plan)
        state = begun.state
        yield self._step("begin", f"log {state.generation} begins at epoch {state.epoch}, revision {state.revision}")
        async with aclosing(self._wait_for_log(plan)) as waiting:
            async for line in waiting:
                yield line
        what = f"{plan.own_broker} has begun anew, and holds" if plan.own_broker else "the brokers hold"
        yield self._step("log", f"{what} the new log")
        async with aclosing(self._advise()) as advising:
            async for line in advising:
                yield line
        told = {"anew": plan.shown(), "held": begun.held, "forgotten": list(begun.forgotten)}
        yield self._ended("promoted", ctx.gateway.state) | told

    async def _look_once_more(self) -> None:
        """Between question and answer the brokers may have come back. Raises `Refused` where they have."""
        with suppress(LogUnavailable):
            state = await to_the_end(self.ctx, LAST_LOOK_S)
            raise Refused(
                f"the log can be read again, to revision {state.revision}: nothing is lost. Promote without --force"
            )

    def _begin(self, before: State, plan: Plan) -> Begun:
        """Blocking. Durable when it returns. Raises a `BellwetherError`."""
        ctx, now_ms = self.ctx, int(time.time() * 1000)
        key_id, key, credentials = ctx.membership.without(before, *plan.lost)
        left = Left(ctx.node, frozenset(plan.kept), key_id, key, credentials)
        begun = gone_on(before, left, uuid4().hex[:16], now_ms, self.asked_by)
        state = begun.state
        first = HistoryRow(state.revision, state.epoch, state.now, encode(begun.entry).decode())
        log(lost=", ".join(plan.lost), revision=plan.revision, newest=plan.newest).critical(
            "begins a log of its own: what was acknowledged behind this revision is lost"
        )
        ctx.gateway.engine.begin_anew(before, state, first).result()
        return begun

    async def _wait_for_log(self, plan: Plan) -> AsyncGenerator[dict[str, Any], None]:
        """Until this node writes to the new log. Raises `Refused` where that does not come to be in time."""
        ctx, began_s, told_s = self.ctx, time.monotonic(), 0.0
        while (why := leads(ctx.gateway.engine, ctx.node)) is not None:
            waited_s = time.monotonic() - began_s
            why = (_broker_problem() if plan.own_broker else None) or why
            if waited_s > self.wait_s:
                raise Refused(
                    f"{ctx.node} has begun a log of its own, and waits for its broker: {why}. Nothing more has to be "
                    "decided: writes are accepted as soon as it is there"
                )
            await ctx.gateway.changed.until(self._leads, BEAT_S)
            if waited_s - told_s < TELL_EVERY_S:
                yield {"beat": True}
                continue
            told_s = waited_s
            yield {"step": "wait", "detail": f"the broker: {why}", "ms": round(waited_s * 1000, 1)}

    def _leads(self) -> bool:
        return leads(self.ctx.gateway.engine, self.ctx.node) is None
