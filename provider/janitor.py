"""Keeps the history within its age."""

import threading
import time
from collections.abc import Callable

from provider.core.state import State
from provider.store import Store
from shared.errors import Unavailable
from shared.logs import log

HISTORY_DAYS = 30.0
"""Can be set: `history.days`."""
EVERY_S = 600.0
LEAST_MS, LEAST_ROWS = 3_600_000, 20_000
"""Whatever is set: what brokers lose with their power has to be in the history, or nobody could put it back. They write
to disk what they have within half a minute. In records, too: times are told by clocks, and all of them may be wrong."""


def kept_since(state: State, now_ms: int) -> int:
    """From when on (Unix ms) the history is kept. By the state's time: then it is the same on every node that has read
    as far. Where nothing is written, time stands still, and nothing grows. But not beyond this node's clock (`now_ms`):
    one record from a clock that was ahead puts the state's time forward for good, and all there is would be too old."""
    setting = state.get("setting", "history.days")
    days = float(setting.spec["value"]) if setting is not None else HISTORY_DAYS
    return max(0, min(state.now, now_ms) - int(days * 86_400_000))


class Janitor:
    """One thread, which sleeps nearly always."""

    def __init__(self, store: Store, state: Callable[[], State]) -> None:
        self._store, self._state = store, state
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="janitor", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(5.0)

    def _run(self) -> None:
        while not self._stop.wait(EVERY_S):
            self.prune(self._state(), int(time.time() * 1000))

    def prune(self, state: State, now_ms: int) -> None:
        """In a call of its own: who sleeps with a state in his hands keeps all that was dropped from it since."""
        try:
            before_ms = min(kept_since(state, now_ms), min(state.now, now_ms) - LEAST_MS)
            removed = self._store.prune_history(before_ms, keep=LEAST_ROWS)
        except Unavailable as error:
            log(why=error.detail).warning("old history could not be removed; trying again later")
            return
        if removed:
            log(entries=removed).info("old history removed")
