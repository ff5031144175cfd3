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
            setting = self._state().get("setting", "history.days")
            days = float(setting.spec["value"]) if setting is not None else HISTORY_DAYS
            try:
                removed = self._store.prune_history(int((time.time() - days * 86_400) * 1000))
            except Unavailable as error:
                log(why=error.detail).warning("old history could not be removed; trying again later")
                continue
            if removed:
                log(entries=removed, days=days).info("old history removed")
