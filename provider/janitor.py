"""Keeps the history within its age."""

import threading
from collections.abc import Callable

from provider.core.state import State
from provider.store import Store
from shared.errors import Unavailable
from shared.logs import log

HISTORY_DAYS = 30.0
"""Can be set: `history.days`."""
EVERY_S = 600.0
LEAST_MS = 3_600_000
"""Whatever is set: what brokers lose with their power has to be in the history, or nobody could put it back. They write
to disk what they have within half a minute."""


def kept_since(state: State) -> int:
    """From when on (Unix ms) the history is kept. By the state's time, not by this node's clock: then it is the same on
    every node that has read as far. Where nothing is written, time stands still, and nothing grows."""
    setting = state.get("setting", "history.days")
    days = float(setting.spec["value"]) if setting is not None else HISTORY_DAYS
    return max(0, state.now - int(days * 86_400_000))


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
            self._prune(self._state())

    def _prune(self, state: State) -> None:
        """In a call of its own: who sleeps with a state in his hands keeps all that was dropped from it since."""
        try:
            removed = self._store.prune_history(min(kept_since(state), state.now - LEAST_MS))
        except Unavailable as error:
            log(why=error.detail).warning("old history could not be removed; trying again later")
            return
        if removed:
            log(entries=removed).info("old history removed")
