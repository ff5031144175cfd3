"""Waiting on the event loop for what other threads do."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from provider.api.gateway import Gateway, Signal
from provider.core.commands import PutSetting
from provider.core.state import Answer
from shared.errors import Behind, LogUnavailable, OutcomeUnknown
from tests.support.engines import Host, genesis
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
