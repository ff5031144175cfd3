"""Between the event loop and the engine's thread."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from provider.core.commands import Command
from provider.core.pending import Result
from provider.core.replica import Asker, NotPrimary, Progress
from provider.core.state import Answer, State
from provider.engine import Engine
from shared.errors import Behind, BellwetherError, OutcomeUnknown

T = TypeVar("T")
GRACE_S = 2.0
"""The engine answers everything in time; if it should not, a client is told so after this much more."""


class Signal:
    """Wakes coroutines when something has changed. `notify` from any thread, the rest on the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: set[asyncio.Future[None]] = set()
        self._wakes = False
        self._watchers = 0
        """Coroutines in `until`. Counted before they look at their condition: whoever changes something after that look
        sees them, and whoever changed it before is seen. While there is none, a commit need not wake the loop."""

    def notify(self) -> None:
        """Something changed. Any thread; many calls at once wake the loop once."""
        if self._watchers and not self._wakes and not self._loop.is_closed():
            self._wakes = True
            self._loop.call_soon_threadsafe(self.wake)

    def wake(self) -> None:
        """Something changed. On the loop only."""
        self._wakes = False  # first: what changes from now on wakes anew, what changed before is seen below
        waiting, self._waiting = self._waiting, set()
        for future in waiting:
            _wake(future)

    async def until(
        self, condition: Callable[[], bool], timeout_s: float, *, or_done: "asyncio.Future[Any] | None" = None
    ) -> bool:
        """Waits until `condition()` holds, looking again after each change, or until `or_done` is. Whether it holds."""
        deadline = time.monotonic() + timeout_s
        self._watchers += 1
        try:
            while not condition():
                left = deadline - time.monotonic()
                if left <= 0 or (or_done is not None and or_done.done()):
                    return False
                await self._change(left, or_done)
        finally:
            self._watchers -= 1
        return True

    async def _change(self, timeout_s: float, or_done: "asyncio.Future[Any] | None") -> None:
        """Waits for a change, for `or_done`, or for the time to pass."""
        future = self._loop.create_future()
        self._waiting.add(future)
        # A timer and a callback where `asyncio.wait` would take as long as all the rest of a forwarded write.
        late = self._loop.call_later(timeout_s, _wake, future)
        also = partial(_wake, future)
        if or_done is not None:
            or_done.add_done_callback(also)
        try:
            await future
        finally:  # also where nobody waits any more: without a change it would stay for ever
            late.cancel()
            self._waiting.discard(future)
            if or_done is not None:
                or_done.remove_done_callback(also)


def _wake(future: "asyncio.Future[None]", _done: object = None) -> None:
    if not future.done():
        future.set_result(None)


class BarrierAsked:
    """A barrier or a promotion under way. On the event loop only."""

    def __init__(self, engine: Engine, ticket: int, queue: "asyncio.Queue[Result]") -> None:
        self._engine, self._ticket, self._queue = engine, ticket, queue
        self.ended = False

    async def next(self, timeout_s: float) -> Progress | None:
        """The next step, of which the last one is `final`; None where none comes in time. Raises `BellwetherError`."""
        try:
            result = await asyncio.wait_for(self._queue.get(), timeout_s)
        except TimeoutError:
            return None
        if isinstance(result, Progress):
            self.ended = result.final
            return result
        self.ended = True
        if isinstance(result, BellwetherError):
            raise result
        raise TypeError("a barrier is answered with progress")

    def give_up(self) -> None:
        """Wait no longer: the next step is then an error, which says what is known."""
        self._engine.give_up(self._ticket)

    async def final(self) -> Progress:
        """Waits no longer: the end, if it came just now. Raises why not."""
        self.give_up()
        while (step := await self.next(GRACE_S)) is not None:
            if step.final:
                return step
        raise OutcomeUnknown(_NO_PROGRESS)  # it does not even say that: busy with a store that hangs


class Gateway:
    """What the API may ask of the engine."""

    def __init__(self, engine: Engine, loop: asyncio.AbstractEventLoop) -> None:
        self.engine = engine
        self._loop = loop
        self.changed = Signal(loop)
        """Notified whenever the state is another."""
        self.epochs = Signal(loop)
        """Notified whenever the epoch is another: what waits for that alone is not woken by each commit."""
        self._open: dict[int, Callable[[Result], None]] = {}

    @property
    def state(self) -> State:
        return self.engine.state

    def run(self, what: Coroutine[Any, Any, T]) -> T:
        """The result of something that waits on the event loop. Any thread but the loop's own."""
        return asyncio.run_coroutine_threadsafe(what, self._loop).result()

    def results(self, pairs: list[tuple[int, Result]]) -> None:
        """The engine's `on_results`. Any thread; one wake-up of the loop for all of them."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._resolve, pairs)

    def _resolve(self, pairs: list[tuple[int, Result]]) -> None:
        for ticket, result in pairs:
            deliver = self._open.get(ticket)
            if deliver is not None:
                deliver(result)

    async def commit(
        self,
        command: Command,
        *,
        principal: str,
        action: str,
        wait_s: float,
        key: str | None = None,
        fingerprint: str = "",
        source: str | None = None,
    ) -> Answer | NotPrimary:
        """The answer to `command`, or where to take it. Raises what the engine says, a `BellwetherError`."""
        if (problem := self.engine.store_problem) is not None:
            # The engine would say so, too, but not before its store has answered.
            raise type(problem)(problem.detail)
        ticket = self.engine.ticket()
        future: asyncio.Future[Result] = self._loop.create_future()
        self._open[ticket] = lambda result: None if future.done() else future.set_result(result)
        # Everything is ready before the engine is woken: it needs the interpreter that this thread would go on holding.
        late = self._loop.call_later(wait_s + GRACE_S, self._set_late, future)
        try:
            self.engine.submit(
                ticket,
                command,
                principal=principal,
                action=action,
                wait_s=wait_s,
                key=key,
                fingerprint=fingerprint,
                source=source,
            )
            result = await future
        finally:
            late.cancel()
            del self._open[ticket]
        if isinstance(result, BellwetherError):
            raise result
        if isinstance(result, Progress):
            raise TypeError("a commit is not answered with progress")
        return result

    def _set_late(self, future: "asyncio.Future[Result]") -> None:
        if future.done():
            return
        problem = self.engine.store_problem
        why = "this node is overloaded" if problem is None else problem.detail
        future.set_exception(
            OutcomeUnknown(f"{why}: no answer in time, so it may have happened; ask with the same key")
        )

    @contextmanager
    def barrier(
        self, *, wait_s: float, promote: bool = False, asked_by: Asker | None = None, force: bool = False
    ) -> Iterator["BarrierAsked"]:
        """Reads to the end of the log; with `promote`, claims then, with `force` whatever other members say. Whoever
        leaves the block before the last step has given up: nothing is claimed any more, unless the claim is on its way
        already."""
        ticket = self.engine.ticket()
        queue: asyncio.Queue[Result] = asyncio.Queue()
        self._open[ticket] = queue.put_nowait
        asked = BarrierAsked(self.engine, ticket, queue)
        try:
            self.engine.barrier(ticket, wait_s=wait_s, promote=promote, asked_by=asked_by, force=force)
            yield asked
        finally:
            if not asked.ended:
                asked.give_up()
            del self._open[ticket]

    async def reach(self, revision: int, timeout_s: float) -> None:
        """Waits until this node's state has `revision`. Raises `Behind`."""
        if not await self.changed.until(lambda: self.state.revision >= revision, timeout_s):
            raise Behind(
                f"this node is at revision {self.state.revision}, not yet at {revision}: ask another, or later"
            )


_NO_PROGRESS = (
    "the log was read, but this node cannot tell what came of it: its store, perhaps, cannot be written. "
    "See `failover --operation status`"
)
