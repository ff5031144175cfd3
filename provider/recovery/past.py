"""A node's own history, for `core.comparing`: what the store has, and what is not in it yet."""

from collections.abc import Sequence

from provider.core.comparing import Kept
from provider.core.entries import Barrier, Unreadable, decode
from provider.core.state import Accepted
from provider.store import HistoryDamaged, HistoryRow, Store
from shared.logs import log

PAGE = 500
"""Records that are read at once: nearly always in order."""


class StoredPast:
    """Implements `core.comparing.Past`. `unsaved` follows what is stored. Raises `Unavailable` where the store does."""

    def __init__(self, store: Store, unsaved: Sequence[Accepted], first: int = 0) -> None:
        """`first`: what was before that revision was in another log."""
        self._store, self._first = store, first
        self._unsaved = {one.state.revision: Kept(one.record, one.state.epoch) for one in unsaved}
        self._page: dict[int, HistoryRow] = {}
        self._oldest: int | None = None
        self._claims: dict[int, int | None] = {}

    def oldest(self) -> int | None:
        if self._oldest is None:
            found = self._store.oldest_history()
            self._oldest = max(found, self._first) if found is not None else None
        return self._oldest if self._oldest is not None else min(self._unsaved, default=None)

    def at(self, revision: int) -> Kept | None:
        unsaved = self._unsaved.get(revision)
        if unsaved is not None:
            return unsaved
        while (oldest := self.oldest()) is not None and revision >= oldest:
            if revision in self._page:
                return _kept(self._page[revision])
            try:
                self._page = {row.revision: row for row in self._store.history(revision - 1, PAGE)}
            except HistoryDamaged as error:
                # It is never put into the log. What follows it has no gap, and is a history, too.
                log(why=error.detail).error("what this node has kept is damaged: only what came later is compared")
                self._oldest, self._page = error.revision + 1, {}
                continue
            if revision not in self._page:
                return None
        return None

    def claim(self, ends: int) -> int | None:
        if ends not in self._claims:
            self._claims[ends] = self._claim(ends)
        return self._claims[ends]

    def _claim(self, ends: int) -> int | None:
        for revision, kept in self._unsaved.items():
            if kept.record.type == "claim" and kept.record.ends == ends:
                return revision
        revision = self._store.history_of_epoch(ends + 1) or 0
        found = self.at(revision) if revision >= self._first else None
        return revision if found is not None and found.record.type == "claim" and found.record.ends == ends else None


def _kept(row: HistoryRow) -> Kept | None:
    try:
        record = decode(row.record.encode())
    except Unreadable:  # of a version that no node runs any more
        return None
    return None if isinstance(record, Barrier) else Kept(record, row.epoch)
