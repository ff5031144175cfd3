"""The history's rows, each with a checksum: the digest of the state says nothing of what led to it."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from sqlalchemy import Column, Connection, Executable, func, or_, select

from provider.store.errors import HistoryDamaged
from provider.store.tables import history


@dataclass(frozen=True, slots=True)
class HistoryRow:
    """One accepted record. `at` is the state's time (Unix ms) when it was accepted: it never decreases."""

    revision: int
    epoch: int
    at: int
    record: str
    """The `Entry` or `Claim`, as JSON."""


Found = tuple[HistoryRow, str | None]
"""A row, and the checksum that it was written with; None: by a version that made none."""


def checksum(row: HistoryRow) -> str:
    """The first half of a SHA-256, hex. Migration 0002 computes the same; it is never another."""
    return sha256(f"{row.revision}\n{row.epoch}\n{row.at}\n{row.record}".encode()).hexdigest()[:32]


def columns(row: HistoryRow) -> dict[str, object]:
    return {
        "revision": row.revision,
        "epoch": row.epoch,
        "at_ms": row.at,
        "record": row.record,
        "checksum": checksum(row),
    }


def after(connection: Connection, revision: int, limit: int) -> list[Found]:
    """At most `limit` above `revision`, in order."""
    query = select(history).where(history.c.revision > revision).order_by(history.c.revision).limit(limit)
    return _found(connection, query)


def back(
    connection: Connection, below: int, above: int, limit: int, holding: Sequence[Sequence[str]] = ()
) -> list[Found]:
    """See `Store.history_back`."""
    query = (
        select(history)
        .where(history.c.revision < below, history.c.revision > above)
        .order_by(history.c.revision.desc())
        .limit(limit)
    )
    for texts in holding:  # not LIKE: nothing in a text then means anything else than itself
        query = query.where(or_(*(func.instr(history.c.record, text) > 0 for text in texts)))
    return _found(connection, query)


def _found(connection: Connection, query: Executable) -> list[Found]:
    return [
        (HistoryRow(row.revision, row.epoch, row.at_ms, row.record), row.checksum) for row in connection.execute(query)
    ]


def check(found: Sequence[Found]) -> None:
    """Raises `HistoryDamaged` for the first that is not what was written."""
    for row, written in found:
        if written is not None and written != checksum(row):
            raise HistoryDamaged(row.revision)


def mend(connection: Connection, row: HistoryRow) -> None:
    """That row in the place of the one that is there."""
    connection.execute(history.update().where(history.c.revision == row.revision).values(columns(row)))


def first_at(connection: Connection, column: Column[int], least: int) -> int | None:
    """The lowest revision whose `column`, which never decreases, has at least that; None: there is none. Some thirty
    looks find it among millions."""
    low, high = connection.execute(select(func.min(history.c.revision), func.max(history.c.revision))).one()
    if low is None or _value(connection, column, high) < least:
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if _value(connection, column, middle) < least else (low, middle)
    # Before a log that was begun by force there is a gap.
    return int(connection.execute(select(func.min(history.c.revision)).where(history.c.revision >= low)).scalar_one())


def _value(connection: Connection, column: Column[int], revision: int) -> int:
    """Of the first record from `revision` on."""
    later = select(column).where(history.c.revision >= revision).order_by(history.c.revision).limit(1)
    return int(connection.execute(later).scalar_one())
