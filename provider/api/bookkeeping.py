"""What a node records now and then, of its own accord."""

import asyncio
import json
from uuid import uuid4

from provider.api.auth import Principal
from provider.api.context import Context
from provider.api.uses import EVERY_S
from provider.api.writes import Write, to_primary
from provider.core import commands as c
from shared.errors import BellwetherError
from shared.logs import log


async def record_uses(ctx: Context, every_s: float = EVERY_S) -> None:
    """Has tokens' last uses recorded, for as long as the node runs. On the event loop."""
    while True:
        await asyncio.sleep(every_s)
        try:
            await record_now(ctx)
        except BellwetherError as error:
            log(why=error.detail).debug("tokens' last uses are not recorded now; later")


async def record_now(ctx: Context) -> None:
    """Commits what is due, or tells the primary. Raises a `BellwetherError`."""
    due = ctx.uses.due(ctx.gateway.state)
    if not due:
        return
    me = f"node:{ctx.node}"
    if ctx.is_primary:
        command = c.RecordTokenUses(due)
        wait_s = ctx.settings.api.commit_wait_s
        await ctx.gateway.commit(command, principal=me, action=type(command).__name__, wait_s=wait_s)
        return
    key = uuid4().hex
    token = ctx.membership.files.node_token.read_text(encoding="ascii").strip()
    body = {"uses": [{"id": use.id, "at": use.at, "source": use.source} for use in due]}
    write = Write(
        method="POST",
        target="/api/v1/tokens/uses",
        headers={
            "authorization": f"Bearer {token}",
            "content-type": "application/json",
            "idempotency-key": key,
        },
        body=json.dumps(body).encode(),
        principal=Principal(me, "node"),
        source=None,
        key=key,
        when=c.ALWAYS,
    )
    await to_primary(ctx, write)
