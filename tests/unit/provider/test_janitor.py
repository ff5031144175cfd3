"""Invariant: no clock that is wrong takes the history away from which lost records are put back."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from provider import janitor
from provider.core.entries import Change
from provider.core.state import State
from provider.janitor import HISTORY_DAYS, LEAST_MS, Janitor, kept_since
from provider.log.port import Position
from provider.store import Store
from tests.support.backups import changed
from tests.support.history import START_MS, accept_entry, commit_of, genesis

DAY_MS = 86_400_000
WRITES = 20


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(f"sqlite:///{tmp_path / 'state.db'}")
    store.migrate()
    yield store
    store.close()


def written(store: Store, *, jump_ms: int, at: int = WRITES // 2) -> State:
    """So many writes; with the one of number `at` the clock is ahead, and with it the state's time from then on."""
    state = genesis()
    store.seed(state, None)
    for number in range(WRITES):
        later_ms = jump_ms if number == at else 1
        write = commit_of(Change(kind="setting", id="user.x", spec={"value": number}))
        accepted = accept_entry(state, write, later_ms=later_ms)
        store.commit([accepted], Position(number, f"digest {number}"))
        state = accepted.state
    return state


def test_history_goes_when_it_is_old(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(janitor, "LEAST_ROWS", 0)
    state = written(store, jump_ms=int(HISTORY_DAYS + 1) * DAY_MS)
    Janitor(store, lambda: state).prune(state, state.now)
    assert len(store.history(0, 100)) == WRITES - WRITES // 2


def test_a_clock_that_was_ahead_takes_none_away(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(janitor, "LEAST_ROWS", 0)
    state = written(store, jump_ms=400 * DAY_MS)
    Janitor(store, lambda: state).prune(state, START_MS + 1000)
    assert len(store.history(0, 100)) == WRITES


def test_where_all_clocks_were_ahead_the_last_records_stay(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(janitor, "LEAST_ROWS", 15)
    state = written(store, jump_ms=400 * DAY_MS, at=WRITES - 1)
    Janitor(store, lambda: state).prune(state, state.now)
    assert len(store.history(0, 100)) == 15


def test_an_hour_stays_whatever_is_set() -> None:
    state = changed(genesis(), Change(kind="setting", id="history.days", spec={"value": 0.001}))
    assert state.now - LEAST_MS < kept_since(state, state.now) == kept_since(state, state.now + DAY_MS)
