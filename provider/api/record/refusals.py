"""What this node has refused, and not told yet. See `telling` for how it gets into the log."""

import threading
import time
from collections.abc import Callable

from provider.api.record.refusals_book import ACTION_MAX, DETAIL_MAX, Book, Kind, legible
from provider.core.entries import Attempt
from shared.logs import log


class Refusals:
    """Any thread."""

    def __init__(self, node: str) -> None:
        self._book, self._lock = Book(node), threading.Lock()
        self.counts: dict[str, int] = {}
        """Refused since the start, by the error's code."""
        self.on_sooner: Callable[[], None] = lambda: None
        """Called where something is due earlier than it was, from whichever thread that is."""

    def note(
        self, *, principal: str, source: str | None, action: str, code: str, status: int, detail: str | None = None
    ) -> None:
        """One attempt that was refused; or, with an empty `code`, something that was done and is no commit. `detail`
        must hold nothing secret."""
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
        if sooner:
            self.on_sooner()

    @property
    def left_s(self) -> float | None:
        """Seconds until something is to be told; None: nothing is noted."""
        with self._lock:
            due_s = self._book.due_s
        return None if due_s is None else due_s - time.monotonic()

    def take(self) -> tuple[Attempt, ...]:
        """What is to be told at once, in one record. The caller has it now: it is here no more."""
        with self._lock:
            return self._book.take(time.monotonic())
