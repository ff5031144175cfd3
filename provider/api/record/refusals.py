"""What this node refuses is written down for the audit, through the log like everything else.

On the primary by a commit, on a standby by a write that is taken to the primary like any other: with an idempotency
key, so that it is there once, however often it had to be sent. What is noted and not yet told is lost with the process;
its log has a line about each kind.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pydantic_core
from starlette.types import Scope

from provider.api.access.auth import Principal, bearer
from provider.api.access.policy import PRINCIPAL
from provider.api.forward import Forwarded
from provider.api.http.source import client_address
from provider.api.record.refusals_book import ACTION_MAX, DETAIL_MAX, Book, Kind, legible
from provider.api.writes import Write, commit, described, own_write
from provider.core.commands import RecordRefusals
from provider.core.entries import Attempt
from provider.core.state import State
from shared.backoff import Backoff
from shared.errors import BellwetherError, Unauthenticated
from shared.logs import log

if TYPE_CHECKING:
    from provider.api.context import Context

TARGET = "/api/v1/audit/refusals"
RETRY_FIRST_S, RETRY_MAX_S = 1.0, 30.0
LAST_S = 1.0
"""How long a node that ends tries to tell the rest."""
CLAIMED = "bellwether.claimed"
"""Where in the scope the principal's name stands that somebody gave who was not let in, where there is such a one."""
_WRITES = frozenset({"PUT", "POST", "DELETE", "PATCH"})
_DETAILED = frozenset({"conflict", "forbidden", "refused", "stale_revision", "too_many_requests", "unauthenticated"})
"""Errors whose text is ours alone. The others repeat something of what was sent, which could be a password at the wrong
place."""


class Refusals:
    """`note` from any thread, the rest on the event loop."""

    def __init__(self, node: str, token: Callable[[], str]) -> None:
        """`token()` is this node's own."""
        self._node, self._token = node, token
        self._book, self._lock = Book(node), threading.Lock()
        self._pending: tuple[str, tuple[Attempt, ...]] | None = None
        """What is being told, under which idempotency key."""
        self._sooner: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self.counts: dict[str, int] = {}
        """Refused since the start, by the error's code."""

    def note(
        self, *, principal: str, source: str | None, action: str, code: str, status: int, detail: str | None = None
    ) -> None:
        """One attempt that was refused; or, with an empty `code`, something that was done and is no commit. `detail`
        must hold nothing secret. Any thread."""
        place = None if source is None else legible(source, ACTION_MAX)
        kind = Kind(legible(principal, ACTION_MAX), place, legible(action, ACTION_MAX), code)
        said = None if detail is None else legible(detail, DETAIL_MAX)
        with self._lock:
            if code:
                self.counts[code] = self.counts.get(code, 0) + 1
            before_s = self._book.due_s
            new = self._book.note(kind, status, said, time.time_ns() // 1_000_000, time.monotonic())
            sooner = self._book.due_s != before_s
        if new and code:
            log(principal=kind.principal, source=place, code=code).info(f"refused: {kind.action}")
        if sooner and self._sooner is not None and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._sooner.set)

    # ── telling ──

    def start(self, ctx: "Context") -> None:
        self._loop, self._sooner = asyncio.get_running_loop(), asyncio.Event()
        self._task = asyncio.create_task(self._run(ctx, self._sooner))

    async def stop(self, ctx: "Context") -> None:
        """Ends. What is left is told if that can be done at once."""
        if self._task is None:
            return
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        self._task = None
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_S):
                while self._take() and await self._tell(ctx):
                    pass

    async def _run(self, ctx: "Context", sooner: asyncio.Event) -> None:
        backoff = Backoff(first_s=RETRY_FIRST_S, longest_s=RETRY_MAX_S)
        while True:
            if self._pending is None:
                await self._until_due(sooner)
                self._take()
            if await self._tell(ctx):
                backoff.reset()
            else:
                await asyncio.sleep(backoff.next_s())

    async def _until_due(self, sooner: asyncio.Event) -> None:
        while True:
            sooner.clear()
            with self._lock:
                due_s = self._book.due_s
            left_s = None if due_s is None else due_s - time.monotonic()
            if left_s is not None and left_s <= 0:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await sooner.wait()

    def _take(self) -> bool:
        """Whether there is something to tell."""
        if self._pending is None:
            with self._lock:
                attempts = self._book.take(time.monotonic())
            self._pending = (uuid4().hex, attempts) if attempts else None
        return self._pending is not None

    async def _tell(self, ctx: "Context") -> bool:
        """Tells what is pending; whether it need not be told again."""
        if self._pending is None:
            return True
        key, attempts = self._pending
        try:
            result = await commit(ctx, self._write(key, attempts), RecordRefusals(attempts))
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
        return own_write(self._node, self._token(), TARGET, pydantic_core.to_json(body), key)


# ── what is noted ──


def note_answer(ctx: "Context", scope: Scope, error: BellwetherError, status: int) -> None:
    """Notes that a request was answered with `error`, if that is a refusal: of whoever may not, or of a write."""
    stranger = status == 429 and PRINCIPAL not in scope  # who tried too many tokens
    if not 400 <= status < 500 or not (status in (401, 403) or scope["method"] in _WRITES or stranger):
        return
    principal: Principal | None = scope.get(PRINCIPAL)
    ctx.refusals.note(
        principal=principal.name if principal is not None else _claimed(ctx.gateway.state, scope),
        source=client_address(scope) or None,
        action=described(scope["method"], scope["raw_path"]),
        code=error.code,
        status=status,
        detail=error.detail if error.code in _DETAILED else None,
    )


def note_done(ctx: "Context", scope: Scope, principal: str, status: int) -> None:
    """Notes what was done without a commit: a login, advice sent again."""
    ctx.refusals.note(
        principal=principal,
        source=client_address(scope) or None,
        action=described(scope["method"], scope["raw_path"]),
        code="",
        status=status,
    )


def _claimed(state: State, scope: Scope) -> str:
    """Whom somebody who was not authenticated named: "?", and the principal's name where there is such a one. Anybody
    can name it; that an expired token is tried, or a user's name, is worth knowing all the same."""
    if CLAIMED in scope:
        return f"?{scope[CLAIMED]}"
    header = next((value for name, value in scope["headers"] if name == b"authorization"), b"").decode("latin-1")
    try:
        token = bearer(header)
    except Unauthenticated:
        return "?"
    for kind in ("node", "agent", "token"):
        if kind in (token.role, "token") and state.get(kind, token.id) is not None:
            return f"?{kind}:{token.id}"
    return "?"
