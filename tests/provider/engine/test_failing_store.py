"""The engine, on a store that is locked, full or written to by somebody else."""

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from provider.core.replica import NotPrimary
from provider.core.state import Answer
from provider.store.errors import StoreUnavailable
from shared.errors import DiskFull, OutcomeUnknown, Unavailable
from tests.support.disks import fill, small_disk
from tests.support.engines import PATIENCE_S, StartHost, locked
from tests.support.stores import change_row


def test_while_the_store_fails_no_success_is_told_and_afterwards_all_goes_on(start: StartHost) -> None:
    p1 = start("p1").caught_up()
    with locked(p1):
        held = p1.put("a", wait_s=60.0)
        p1.until(lambda: p1.engine.health.store_problem is not None, what="it does not see that the store fails")
        refused = p1.result(p1.put("b"))
        assert isinstance(refused, StoreUnavailable)
        assert not p1.told(held)
        assert p1.engine.state.revision == 1
    assert p1.answer(held).revision == 2
    p1.until(lambda: p1.engine.health.store_problem is None)
    assert p1.answer(p1.put("b")).revision == 3
    assert p1.store.load()[0].digest == p1.engine.state.digest


def test_a_standby_whose_store_fails_for_a_while_reads_on_in_order(start: StartHost) -> None:
    """Invariant: what it read meanwhile is applied before what it reads afterwards, however busy the primary is."""
    p1, p2 = start("p1").caught_up(), start("p2").caught_up()
    for round_ in range(5):
        with locked(p2):
            for number in range(40):
                p1.answer(p1.put(f"{round_}.{number}"))
            p2.until(lambda: p2.engine.health.store_problem is not None)
        while p2.engine.health.store_problem is not None:  # what comes just then is what matters
            p1.answer(p1.put(f"{round_}.now"))
        for number in range(40):
            p1.answer(p1.put(f"{round_}.later.{number}"))
    last = p1.engine.state
    assert p2.reach(last.revision).digest == last.digest
    assert p2.engine.health.skipped.get("gap", 0) == 0
    assert p2.store.load()[0].digest == last.digest


def test_more_than_the_log_hands_out_at_once_can_come_while_the_store_fails(start: StartHost) -> None:
    p1, p2 = start("p1").caught_up(), start("p2").caught_up()
    with locked(p2):
        for number in range(700):  # the log hands out 500
            p1.answer(p1.put("a", number))
    last = p1.engine.state
    assert p2.reach(last.revision).digest == last.digest


def test_a_primary_that_is_deposed_while_its_store_fails_says_where_to_go(start: StartHost) -> None:
    p1, p2 = start("p1").caught_up(), start("p2").caught_up()
    p1.log.shut()
    held = p1.put("a", wait_s=60.0)
    with locked(p1):
        p2.promoted()
        assert p1.result(held) == NotPrimary("p2")
        assert isinstance(p1.result(p1.put("b")), Unavailable)
    assert p1.reach(2).primary == "p2"


@pytest.mark.parametrize("has_it", [True, False])
def test_what_another_state_replaces_before_it_was_durable_is_done_only_where_that_state_has_it(
    start: StartHost, has_it: bool
) -> None:
    p1, p2 = start("p1").caught_up(), start("p2").caught_up()
    state, position = p2.engine.snapshot()
    with locked(p1):
        held = p1.put("a", wait_s=60.0)
        p1.until(lambda: p1.engine.health.store_problem is not None, what="it does not see that the store fails")
        if has_it:
            p2.reach(2)
            state, position = p2.engine.snapshot()
        p1.engine.replace(replace(state, revision=9), position, stored=True).result(PATIENCE_S)
        result = p1.result(held)
    assert isinstance(result, Answer if has_it else OutcomeUnknown), result


def test_a_full_disk_is_said_and_it_goes_on_once_there_is_room(start: StartHost, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "8m") as disk:
        p1 = start("p1", directory=disk).caught_up()
        p1.answer(p1.put("a", "x" * 20_000))
        fill(disk / "ballast")
        held = p1.put("b", "x" * 60_000, wait_s=60.0)
        p1.until(lambda: p1.engine.health.store_problem is not None)
        refused = p1.result(p1.put("c"))
        assert isinstance(refused, DiskFull)
        assert not p1.told(held)
        (disk / "ballast").unlink()
        assert p1.answer(held).revision == 3
        p1.until(lambda: p1.engine.health.store_problem is None)
        assert p1.answer(p1.put("c")).revision == 4
        p1.stop()
        p1 = start("p1", fresh=False, directory=disk).caught_up()
        assert p1.engine.state.revision == 4
        p1.stop()


def test_a_store_that_somebody_else_wrote_to_ends_the_thread_and_nothing_is_told(
    start: StartHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon ends with its threads; see test_daemon."""
    p1 = start("p1").caught_up()
    failed: list[threading.ExceptHookArgs] = []
    gone = threading.Event()

    def hook(args: threading.ExceptHookArgs) -> None:
        failed.append(args)
        gone.set()

    monkeypatch.setattr(threading, "excepthook", hook)
    change_row(p1.url, "UPDATE meta SET generation = 'another', revision = 7, digest = 'x'")
    ticket = p1.put("a")
    assert gone.wait(PATIENCE_S)
    assert failed[0].exc_type.__name__ == "StoreCorrupt"
    assert not p1.told(ticket)
