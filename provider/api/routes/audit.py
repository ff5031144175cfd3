"""The audit, and how what nodes refuse gets into it. There is no route that changes or removes any of it."""

import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Literal, cast

from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from provider.api import direct
from provider.api.access.policy import needs
from provider.api.context import Context
from provider.api.reads import answer, choice, flag, paging, reading
from provider.api.record.audit import Filter, Page, Place, latest, search
from provider.api.routes.resources import documented, parse
from provider.api.views import time_text, to_json
from provider.api.writes import Write, respond
from provider.core import commands as c
from provider.core.entries import Attempt
from provider.core.state import State
from provider.janitor import kept_since
from provider.store import HistoryDamaged
from shared.errors import Invalid, Unavailable
from shared.logs import log

router = direct.router("audit")
ROWS = 50
"""Of the history, read at once for a node that joins. A record can have 2 MiB."""


# ── reading ──


@router.get("/audit")
@needs("admin")
async def get_audit(request: Request) -> Response:
    """Who did what, and who was refused what; newest first.

    Filters: `principal`, `source`, `action` (a part of it), `kind` and `id` of a document, `outcome` (done, refused),
    `code` of the refusal, `since` and `until` (RFC 3339). `all=true` also shows what nodes write down of agents'
    reports. `complete: false`: the search was ended before it had looked at everything, and `next` goes on. `oldest`
    is where the audit begins.
    """
    ctx, state, _ = await reading(request)
    limit, after = paging(request)
    what, start = _filter(request), _place(after)
    async with ctx.audit_turn:  # one search at a time: several would take all the processor's time from writes
        page, oldest = await run_in_threadpool(_search, ctx, state, what, start, limit)
    return answer(
        {
            "items": page.items,
            "revision": state.revision,
            "next": None if page.next is None else str(page.next),
            "complete": page.complete,
            "oldest": oldest,
        }
    )


def _search(
    ctx: Context, state: State, what: Filter, start: Place | None, limit: int
) -> tuple[Page, dict[str, Any] | None]:
    # By the state's time: at the same revision every node answers alike, whenever its janitor came round last.
    kept = kept_since(state, int(time.time() * 1000))
    first = ctx.past.history_at(kept)
    if first is None:
        return Page(), None
    floor = first if what.since is None or what.since <= kept else ctx.past.history_at(what.since)
    if floor is None or floor > state.revision:
        return Page(), _oldest(ctx, first)
    top = Place(state.revision + 1)
    end = latest(what.until)
    if end is not None and end < state.now:
        behind = ctx.past.history_at(end + 1)
        top = top if behind is None else Place(behind)
    if start is not None and start.revision < top.revision:
        top = start
    page = search(ctx.past.history_back, what, start=top, floor=floor - 1, limit=limit)
    return page, _oldest(ctx, first)


def _oldest(ctx: Context, revision: int) -> dict[str, Any] | None:
    rows = ctx.past.history_back(revision + 1, revision - 1, 1)
    return {"revision": revision, "at": time_text(rows[0].at)} if rows else None


def _filter(request: Request) -> Filter:
    asked = request.query_params
    return Filter(
        principal=asked.get("principal"),
        source=asked.get("source"),
        action=asked.get("action"),
        kind=asked.get("kind"),
        id=asked.get("id"),
        outcome=cast(Literal["done", "refused"] | None, choice(request, "outcome", ("done", "refused"))),
        code=asked.get("code"),
        since=_time(request, "since"),
        until=_time(request, "until"),
        bookkeeping=flag(request, "all") or False,
    )


def _time(request: Request, name: str) -> int | None:
    text = request.query_params.get(name)
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
        return int((moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):
        raise Invalid(f"{name}: expected a time as in RFC 3339, for example 2030-01-31T12:00:00Z") from None


def _place(after: str | None) -> Place | None:
    if after is None:
        return None
    if not re.fullmatch(r"[0-9]{1,18}\.[0-9]{1,9}", after):
        raise Invalid("after: expected `next` of the page before")
    revision, _, index = after.partition(".")
    return Place(int(revision), int(index))


# ── writing ──


class RefusalBody(BaseModel):
    """As `core.entries.Attempt`; which node it was is known by who says it."""

    model_config = ConfigDict(extra="forbid")

    at: int = Field(ge=0, le=2**63 - 1)
    principal: str = Field(max_length=300)
    source: str | None = Field(default=None, max_length=300)
    action: str = Field(max_length=300)
    code: str = Field(max_length=60)
    status: int = Field(ge=200, le=499)
    count: int = Field(default=1, ge=1, le=2**63 - 1)
    detail: str | None = Field(default=None, max_length=300)


class RefusalsBody(BaseModel):
    model_config = ConfigDict(extra="forbid")

    attempts: tuple[RefusalBody, ...] = Field(max_length=c.REFUSALS_MAX)


@router.post("/audit/refusals", openapi_extra=documented(RefusalsBody))
@needs("node")
async def note_refusals(request: Request) -> Response:
    """What a standby has refused, for the audit. Only nodes may say so, each for itself."""

    def make(write: Write) -> c.Command:
        attempts = parse(write.body, RefusalsBody).attempts
        return c.RecordRefusals(tuple(Attempt(node=write.principal.id, **attempt.model_dump()) for attempt in attempts))

    return await respond(request, make)


# ── for a node that joins ──


@router.get("/history")
@needs("admin")
async def get_history(request: Request) -> Response:
    """Every accepted record up to revision `until`, newest first, for a node that joins: lines of JSON, each with
    revision, epoch, time (Unix ms) and the record; the last one says how many they were. Of the log that is followed
    now: what was before one that was begun by force has no place in it."""
    ctx, state, _ = await reading(request)
    text = request.query_params.get("until", str(state.revision))
    if not text.isdecimal() or len(text) > 18:
        raise Invalid("until: expected a revision")
    lines = _lines(ctx, int(text) + 1, c.first_revision(state) - 1)
    return StreamingResponse(lines, media_type="application/x-ndjson")


def _lines(ctx: Context, below: int, above: int) -> Iterator[bytes]:
    count = 0
    try:
        while rows := ctx.past.history_back(below, max(above, 0), ROWS):
            below, count = rows[-1].revision, count + len(rows)
            lines = [to_json([row.revision, row.epoch, row.at, row.record]) for row in rows]
            yield b"\n".join([*lines, b""])
    except (Unavailable, HistoryDamaged) as error:  # without the last line, whoever asks sees that it broke off
        log(why=error.detail, revision=below).warning("the history that another node asks for breaks off")
        return
    yield to_json(["end", count]) + b"\n"
