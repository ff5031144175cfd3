"""Every accepted change, in order, as it happens: Server-Sent Events, or one JSON object a line."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from provider.api import direct
from provider.api.access.auth import Principal
from provider.api.access.policy import PRINCIPAL, may, needs, still_good
from provider.api.context import Context
from provider.api.reads import flag, reading
from provider.api.views import ADMINISTRATIVE, event_view, to_json
from provider.core.commands import first_revision
from provider.store import HistoryDamaged, HistoryRow
from shared.errors import Expired, Invalid, Unavailable
from shared.logs import log

router = direct.router("events")
BATCH = 20
"""Entries read at once. Each may have 1 MiB, each stream holds so many while its client is slow."""
FOUNDED = 1
"""The revision that a cluster is founded with. It is no entry and no event: who asks for all begins behind it."""
KEEPALIVE_S = 15.0
"""A comment this often, so that proxies do not end a quiet stream."""


@router.get("/events")
@needs("viewer")
async def events(request: Request) -> Response:
    """Changes after `?after=REVISION` (0: all; default: from now on); `Last-Event-ID` resumes where a stream broke off.

    With `Accept: application/x-ndjson` lines instead of events. `?follow=false` ends at the newest. Changes of users,
    sessions and tokens are shown to administrators alone; their revisions are there, without changes.
    """
    ctx, state, principal = await reading(request)
    lines = "application/x-ndjson" in request.headers.get("accept", "")
    after = max(_start(request, state.revision), FOUNDED)
    oldest = await run_in_threadpool(ctx.oldest_history)
    oldest = max(oldest if oldest is not None else state.revision + 1, first_revision(state))
    if after + 1 < oldest:
        first = oldest - 1
        raise Expired(
            f"changes after revision {after} are no longer kept here; the oldest that can be asked for: {first}"
        )
    follow = flag(request, "follow") is not False
    media_type = "application/x-ndjson" if lines else "text/event-stream"
    if direct.HEAD in request.scope:
        return Response(media_type=media_type)
    ctx.guard.open_stream(principal.name)
    return _Counted(
        ctx,
        principal.name,
        _stream(ctx, request.scope, after, lines=lines, follow=follow),
        media_type=media_type,
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


class _Counted(StreamingResponse):
    """One of the streams of its client until it ends, also where it never began."""

    def __init__(self, ctx: Context, client: str, content: AsyncIterator[bytes], **options: Any) -> None:
        super().__init__(content, **options)
        self._ctx, self._client = ctx, client

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._ctx.guard.close_stream(self._client)


def _start(request: Request, newest: int) -> int:
    text = request.headers.get("last-event-id") or request.query_params.get("after")
    if text is None:
        return newest
    if not text.isdecimal() or len(text) > 18:
        raise Invalid("after / Last-Event-ID: expected a revision")
    return int(text)


def _ends(ctx: Context, knew: bool) -> bool:
    """Whether this node asks its clients to go on elsewhere. `knew`: it did when this one came."""
    return ctx.ending or (ctx.in_maintenance and not knew)


async def _next(ctx: Context, after: int) -> Sequence[HistoryRow] | None:
    """What follows. None behind a gap: there is another log, begun by force, or a state that came as a whole; clients
    ask anew, and are told that what they had seen was given up."""
    stored = await run_in_threadpool(ctx.history, after, BATCH)
    # Of nodes that share a database another may have stored what this one has still to read.
    rows = [row for row in stored if row.revision <= ctx.gateway.state.revision]
    return rows if not rows or rows[-1].revision == after + len(rows) else None


async def _stream(ctx: Context, scope: Scope, after: int, *, lines: bool, follow: bool) -> AsyncIterator[bytes]:
    principal: Principal = scope[PRINCIPAL]
    hidden = frozenset[str]() if may(principal.role, "admin") else ADMINISTRATIVE
    knew = ctx.in_maintenance  # whoever comes then is served, until the node ends
    try:
        if not lines:
            yield b": from revision %d\n\n" % after
        while not _ends(ctx, knew):
            rows = await _next(ctx, after)
            if rows is None or not still_good(scope):  # the token was revoked, or its time is over
                return
            for row in rows:
                after = row.revision
                data = to_json(event_view(json.loads(row.record), row.revision, hidden))
                yield data + b"\n" if lines else b"id: %d\nevent: change\ndata: %s\n\n" % (after, data)
            if rows:
                continue
            if not follow:
                return
            if not await ctx.gateway.changed.until(
                lambda seen=after: _ends(ctx, knew) or ctx.gateway.state.revision > seen,  # type: ignore[misc]
                KEEPALIVE_S,
            ):
                yield b"\n" if lines else b": still here\n\n"
    except asyncio.CancelledError:
        return
    except (Unavailable, HistoryDamaged) as error:  # clients come back to where they were
        log(why=error.detail).warning("an event stream ends: the store cannot be read")
