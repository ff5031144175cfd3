"""What a node records now and then, of its own accord."""

import asyncio
import json
import time
from uuid import uuid4

from provider.api.context import Context
from provider.api.writes import own_write, to_primary
from provider.core import commands as c
from shared.errors import BellwetherError
from shared.logs import log

TELL_S = 15.0
"""A standby tells the primary this often what it saw."""
COMMIT_S = 60.0
"""The primary commits what it knows this often at most."""


async def record_uses(ctx: Context) -> None:
    """Has tokens' last uses recorded, for as long as the node runs. On the event loop."""
    committed_s = time.monotonic()
    while True:
        await asyncio.sleep(TELL_S)
        if ctx.is_primary:
            if time.monotonic() - committed_s < COMMIT_S:
                continue
            committed_s = time.monotonic()
        try:
            await record_now(ctx)
        except (BellwetherError, OSError) as error:  # OSError: the token's file cannot be read just now
            log(why=error.detail if isinstance(error, BellwetherError) else str(error)).debug(
                "tokens' last uses are not recorded now; later"
            )


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
    token = ctx.membership.files.node_token.read_text(encoding="ascii").strip()
    body = {"uses": [{"id": use.id, "at": use.at, "source": use.source} for use in due]}
    write = own_write(ctx.node, token, "/api/v1/tokens/uses", json.dumps(body).encode(), uuid4().hex)
    await to_primary(ctx, write)
