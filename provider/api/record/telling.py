"""What this node refuses is written down for the audit, through the log like everything else.

On the primary by a commit, on a standby by a write that is taken to the primary like any other: with an idempotency
key, so that it is there once, however often it had to be sent. What is noted and not yet told is lost with the process;
its log has a line about each kind.
"""

import asyncio
from contextlib import suppress
from typing import Any
from uuid import uuid4

import pydantic_core

from provider.api.context import Context
from provider.api.forward import Forwarded
from provider.api.writes import Write, commit, own_write
from provider.core.commands import RecordRefusals
from provider.core.entries import Attempt
from shared.backoff import Backoff
from shared.errors import BellwetherError
from shared.logs import log

TARGET = "/api/v1/audit/refusals"
RETRY_FIRST_S, RETRY_MAX_S = 1.0, 30.0
LAST_S = 1.0
"""How long a node that ends tries to tell the rest."""


class Telling:
    """On the event loop."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._pending: tuple[str, tuple[Attempt, ...]] | None = None
        """What is being told, under which idempotency key."""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        loop, sooner = asyncio.get_running_loop(), asyncio.Event()

        def on_sooner() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(sooner.set)

        self._ctx.refusals.on_sooner = on_sooner
        self._task = asyncio.create_task(self._run(sooner))

    async def stop(self) -> None:
        """Ends. What is left is told if that can be done at once."""
        if self._task is None:
            return
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        self._task = None
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_S):
                while self.take() and await self.tell():
                    pass

    async def _run(self, sooner: asyncio.Event) -> None:
        backoff = Backoff(first_s=RETRY_FIRST_S, longest_s=RETRY_MAX_S)
        while True:
            if self._pending is None:
                await self._until_due(sooner)
                self.take()
            if await self.tell():
                backoff.reset()
            else:
                await asyncio.sleep(backoff.next_s())

    async def _until_due(self, sooner: asyncio.Event) -> None:
        while True:
            sooner.clear()
            left_s = self._ctx.refusals.left_s
            if left_s is not None and left_s <= 0:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await sooner.wait()

    def take(self) -> bool:
        """Whether there is something to tell."""
        if self._pending is None:
            attempts = self._ctx.refusals.take()
            self._pending = (uuid4().hex, attempts) if attempts else None
        return self._pending is not None

    async def tell(self) -> bool:
        """Tells what is pending; whether it need not be told again."""
        if self._pending is None:
            return True
        key, attempts = self._pending
        try:
            result = await commit(self._ctx, self._write(key, attempts), RecordRefusals(attempts))
        except OSError as error:  # the node's token cannot be read, at the moment
            log(why=str(error)).warning("what was refused here cannot be written down yet")
            return False
        except BellwetherError as error:
            if error.retryable:
                return False
            why = error.detail
        else:
            if not isinstance(result, Forwarded) or result.status < 300:
                self._pending = None
                return True
            if result.status >= 500 or result.status == 429:
                return False
            why = f"the primary answered {result.status}"
        log(why=why, attempts=len(attempts)).error("what was refused here could not be written down; it is given up")
        self._pending = None
        return True

    def _write(self, key: str, attempts: tuple[Attempt, ...]) -> Write:
        body: dict[str, Any] = {"attempts": [attempt.model_dump(exclude={"node"}) for attempt in attempts]}
        token = self._ctx.membership.files.node_token.read_text(encoding="ascii").strip()
        return own_write(self._ctx.node, token, TARGET, pydantic_core.to_json(body), key)
