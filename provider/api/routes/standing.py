"""What a node tells other nodes: how it stands to the log, and its whole state."""

import asyncio
from collections.abc import Iterator
from itertools import islice

from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from provider.api import direct
from provider.api.access.policy import needs
from provider.api.reads import answer, reading
from provider.core.commands import CLUSTER_ID, need
from provider.core.state import State
from provider.log.port import Position
from provider.recovery.offered import KEPT_S
from provider.snapshot import write_snapshot
from shared.errors import Invalid, StaleRevision

router = direct.router("standing")
LINES_IN_A_PIECE = 200
"""Of a snapshot. Most are some hundred bytes, the longest 100 KB."""


@router.get("/standing")
@needs("node")
async def standing(request: Request) -> Response:
    """How this node stands to the log: other nodes ask before they write what is new, and where one needs a state."""
    ctx, state, _ = await reading(request)
    engine = ctx.gateway.engine
    health, log_reading = engine.health, engine.reading
    word, primary = log_reading.word, log_reading.course.replica.state.primary
    following = health.connected and health.caught_up and health.comparing is None and health.diverged is None
    return answer(
        {
            "node": ctx.node,
            "cluster": need(state, "setting", CLUSTER_ID).spec["value"],
            "generation": word.generation,
            "epoch": word.epoch,
            "revision": word.revision,
            "primary": primary == ctx.node,
            "lost": word.lost,
            "whole": word.whole,
            "marks": list(word.marks),
            "healthy": following and health.store_problem is None and engine.expelled is None,
        }
    )


@router.get("/snapshot")
@needs("admin")
async def snapshot(request: Request) -> Response:
    """This node's whole state, for a node that joins or has lost its own: lines of JSON, a head, then documents and
    keys, then a count. With `?digest=` (as in the head) and `?from=` (lines that are there already) one that broke off
    goes on; 412 where this node does not have that state any more."""
    ctx, _, _ = await reading(request)
    state, position = ctx.gateway.engine.snapshot()
    digest, text = request.query_params.get("digest"), request.query_params.get("from", "0")
    if not text.isdecimal() or len(text) > 12:
        raise Invalid("from: expected a number of lines")
    if digest is not None and digest != state.digest:
        offered = ctx.offered.get(digest)
        if offered is None:
            raise StaleRevision("this node does not have that state any more: fetch the newest from its beginning")
        state, position = offered
    number = ctx.offered.keep(state, position)
    asyncio.get_running_loop().call_later(KEPT_S, ctx.offered.forget, state.digest, number)
    lines = _lines(state, position, int(text))
    return StreamingResponse(lines, media_type="application/x-ndjson", headers={"ETag": f'"{state.digest}"'})


def _lines(state: State, position: Position | None, first: int) -> Iterator[bytes]:
    lines = islice(write_snapshot(state, position), first, None)
    # Each piece is made on another thread: one line at a time would be mostly going there and back.
    while piece := list(islice(lines, LINES_IN_A_PIECE)):
        yield "\n".join([*piece, ""]).encode()
