"""Waiting on the event loop for what other threads do."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from provider.api.gateway import Gateway, Signal
from provider.core.commands import PutSetting
from provider.core.state import Answer
from provider.store import StoreUnavailable
from shared.errors import Behind, LogUnavailable, OutcomeUnknown
from tests.support.engines import PATIENCE_S, Host, genesis
from tests.support.memory_log import MemoryLogStream


@pytest.fixture
def p1(tmp_path: Path) -> Iterator[Host]:
    host = Host("p1", MemoryLogStream(), tmp_path, seed=genesis("p1")).start()
    yield host
    host.log.open()
    host.stop()


def test_whoever_waits_sees_each_change_however_many_come_at_once() -> None:
    """Invariant: after the last change everyone who waits for it is woken, with threads that never pause."""

    async def story() -> None:
        signal = Signal(asyncio.get_running_loop())
        numbers = [0, 0, 0, 0]

        def count(index: int) -> None:
            for _ in range(2000):
                numbers[index] += 1
                signal.notify()

        threads = [threading.Thread(target=count, args=(index,)) for index in range(len(numbers))]
        waiting = [
            asyncio.create_task(signal.until(lambda i=index, n=goal: numbers[i] >= n, 20.0))  # type: ignore[misc]
            for index in range(len(numbers))
            for goal in range(100, 2001, 100)
        ]
        for thread in threads:
            thread.start()
        assert all(await asyncio.gather(*waiting))
        for thread in threads:
            thread.join()

    asyncio.run(story())


def test_nobody_stays_behind_who_gave_up() -> None:
    async def story() -> None:
        signal = Signal(asyncio.get_running_loop())
        assert not await signal.until(lambda: False, 0.01)
        for _ in range(10):
            waiting = asyncio.create_task(signal.until(lambda: False, 20.0))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        assert signal._waiting == set()

    asyncio.run(story())


def test_the_wait_ends_also_with_what_is_done_meanwhile() -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()
        signal, other = Signal(loop), loop.create_future()
        loop.call_later(0.01, other.set_result, None)
        assert not await signal.until(lambda: False, 20.0, or_done=other)
        assert not await signal.until(lambda: False, 20.0, or_done=other)
        assert await signal.until(lambda: True, 20.0, or_done=other)

    asyncio.run(story())


def test_a_commit_is_answered_and_then_seen_here(p1: Host) -> None:
    async def story() -> None:
        gateway = Gateway(p1.engine, asyncio.get_running_loop())
        p1.listeners.append(gateway.results)
        p1.on_change.append(gateway.changed.notify)
        answer = await gateway.commit(PutSetting("user.a", 1), principal="t", action="PUT", wait_s=20.0)
        assert isinstance(answer, Answer)
        assert gateway.state.revision == answer.revision
        reaching = asyncio.create_task(gateway.reach(answer.revision + 1, 20.0))
        await asyncio.sleep(0)
        await gateway.commit(PutSetting("user.b", 1), principal="t", action="PUT", wait_s=20.0)
        await reaching
        with pytest.raises(Behind):
            await gateway.reach(99, 0.01)
        assert gateway._open == {}

    asyncio.run(story())


def test_an_engine_that_says_nothing_is_not_waited_for_for_ever(p1: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A promotion or a write whose end this node cannot tell: the outcome is unknown, and not an internal error."""
    monkeypatch.setattr("provider.api.gateway.GRACE_S", 0.05)

    async def story() -> None:
        gateway = Gateway(p1.engine, asyncio.get_running_loop())  # which hears of no results
        with pytest.raises(OutcomeUnknown):
            await gateway.commit(PutSetting("user.a", 1), principal="t", action="PUT", wait_s=0.05)
        with gateway.barrier(wait_s=0.05) as asked, pytest.raises(OutcomeUnknown):
            assert await asked.next(0.05) is None
            await asked.final()
        assert gateway._open == {}

    asyncio.run(story())


def test_while_the_store_hangs_nothing_more_is_asked_of_the_engine(tmp_path: Path) -> None:
    """Its thread waits for the store. Who asks meanwhile is told so at once, and that nothing was done."""
    p1 = Host("p1", MemoryLogStream(), tmp_path, seed=genesis("p1"), database="slow").start().caught_up()
    p1.log.shut()
    held = p1.put("a", wait_s=60.0)
    p1.until(lambda: p1.log.appended > 0)
    answers, goes_on = threading.Event(), threading.Event()
    commit = p1.store.commit

    def hanging(*arguments: Any, **named: Any) -> None:
        answers.set()
        assert goes_on.wait(PATIENCE_S)
        commit(*arguments, **named)

    async def story() -> None:
        gateway = Gateway(p1.engine, asyncio.get_running_loop())
        p1.store.commit = hanging  # type: ignore[method-assign]
        p1.log.open()
        await asyncio.to_thread(answers.wait, PATIENCE_S)
        p1.until(lambda: p1.engine.health.store_problem is not None, what="it does not see that the store hangs")
        with pytest.raises(StoreUnavailable, match="has not answered for"):
            await gateway.commit(PutSetting("user.b", 1), principal="t", action="PUT", wait_s=20.0)
        assert not p1.told(held)
        p1.store.commit = commit  # type: ignore[method-assign]
        goes_on.set()

    asyncio.run(story())
    assert p1.answer(held).revision == 2
    assert p1.engine.health.store_problem is None
    p1.stop()


def test_whoever_leaves_before_the_claim_has_given_up(p1: Host) -> None:
    """Invariant: a promotion that nobody waits for any more claims nothing, however long the log was away."""
    p1.caught_up()
    p1.log.shut()

    async def story() -> None:
        gateway = Gateway(p1.engine, asyncio.get_running_loop())
        p1.listeners.append(gateway.results)
        with gateway.barrier(wait_s=60.0, promote=True) as asked:
            assert await asked.next(0.05) is None
        with gateway.barrier(wait_s=60.0, promote=True) as asked:
            with pytest.raises(LogUnavailable):
                await asked.final()
            assert asked.ended
        assert gateway._open == {}

    asyncio.run(story())
    assert p1.engine._replica._waiters == []
