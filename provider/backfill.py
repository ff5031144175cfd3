"""The history from before a node joined, fetched from another: so that it can tell what every other node can."""

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from provider.client import Unreachable
from provider.store import HistoryRow, Store
from shared.errors import BellwetherError, Invalid
from shared.logs import log

ATTEMPTS = 3
BATCH_ROWS, BATCH_CHARS = 500, 8 * 1024 * 1024
"""Rows are stored together, so many or so large."""


def fetch_history(store: Store, lines: Callable[[int], Iterable[str]], until: int) -> bool:
    """Adds to `store` what was accepted up to revision `until`: `lines(revision)` gives what `GET /history` answers.

    Newest first: wherever it ends, what is there has no gap. Where a connection breaks, another goes on from there.
    Whether all of it could be had; if not, the log says why. A node without it is a good node, and its audit says where
    it begins: that is no reason to have joined in vain.
    """
    for _ in range(ATTEMPTS):
        try:
            for rows in _batches(_rows(lines(until), until)):
                store.add_history(rows[::-1])
                until = rows[-1].revision - 1
        except Unreachable as error:
            log(why=error.detail, revision=until).warning("the history breaks off")
            continue
        except BellwetherError as error:
            log(why=error.detail, revision=until).warning("the history cannot be had")
            return False
        return True
    log(revision=until).warning("the history before this revision could not be fetched")
    return False


def fetch_record(lines: Callable[[int], Iterable[str]], revision: int) -> HistoryRow:
    """That one record, of those that `lines` gives. Raises a `BellwetherError`."""
    row = next(_rows(lines(revision), revision), None)
    if row is None:
        raise Invalid(f"it has no revision {revision} in its history")
    return row


def _rows(lines: Iterable[str], until: int) -> Iterator[HistoryRow]:
    """Raises `Unreachable` where they break off, `Invalid` where they are no history."""
    count = 0
    try:
        for line in lines:
            content: list[Any] = json.loads(line)
            if content[0] == "end":
                if content[1] != count:
                    raise Invalid(f"the history has {count} records of {content[1]}")
                return
            revision, epoch, at, record = content
            if revision != until - count or not (type(epoch) is type(at) is int and type(record) is str):
                raise Invalid(f"the history has no record {until - count}")
            count += 1
            yield HistoryRow(revision, epoch, at, record)
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise Invalid(f"the history is damaged ({error!r})") from None
    raise Unreachable("the history breaks off")


def _batches(rows: Iterator[HistoryRow]) -> Iterator[list[HistoryRow]]:
    """Also what came before the rows broke off."""
    batch: list[HistoryRow] = []
    size = 0
    try:
        for row in rows:
            batch.append(row)
            size += len(row.record)
            if len(batch) >= BATCH_ROWS or size >= BATCH_CHARS:
                yield batch
                batch, size = [], 0
    except Unreachable:
        if batch:
            yield batch
        raise
    if batch:
        yield batch
