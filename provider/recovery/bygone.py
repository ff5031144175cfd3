"""The history from before a node took the state of another one: fetched beside all else, and on where it broke off.

It may take minutes, in which the members have to be answered and writes to be vouched for. That it is wanted stands in
a file, so a node that ends meanwhile goes on when it is started again.
"""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from provider.backfill import fetch_history
from provider.recovery.members import Members
from provider.store import Store
from shared.errors import Refused
from shared.files import write_atomically

MARKER = "history-wanted"
AGAIN_S = 60.0
END_S = 5.0


def want_history(data_dir: Path) -> None:
    """Before a state is taken over. Raises `OSError`."""
    write_atomically(data_dir / MARKER, "fetched by the provider, from another member; then this file is removed\n")


class Bygone:
    """`look` and `stop` on one thread. What fetches is another one."""

    def __init__(self, store: Store, data_dir: Path, members: Members) -> None:
        self._store, self._marker, self._members = store, data_dir / MARKER, members
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._again_s = 0.0

    def look(self, giver: Callable[[], str | None]) -> None:
        """Begins where it is wanted; `giver()` is the URL of a member that has it. Raises `Unavailable`."""
        running = self._thread is not None and self._thread.is_alive()
        if running or time.monotonic() < self._again_s or not self._marker.exists():
            return
        oldest, stored, url = self._store.oldest_history(), self._store.reached(), giver()
        if url is None or stored is None:
            return
        until = (oldest if oldest is not None else stored[2] + 1) - 1
        self._again_s = time.monotonic() + AGAIN_S
        self._thread = threading.Thread(target=self._fetch, args=(url, until), name="history", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(END_S)

    def _fetch(self, url: str, until: int) -> None:
        if fetch_history(self._store, lambda revision: self._lines(url, revision), until):
            self._marker.unlink(missing_ok=True)

    def _lines(self, url: str, until: int) -> Iterator[str]:
        for line in self._members.history(url, until):
            if self._stopping.is_set():  # the store is closed next
                raise Refused("this node ends; it goes on when it is started again")
            yield line
