"""What is changed in one transaction. Whose connection that is, and what becomes of errors, is for `Store` to say."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, func, select, true
from sqlalchemy.exc import IntegrityError

from provider.core.entries import Claim, Entry, encode
from provider.core.state import Accepted, State
from provider.log.port import Position
from provider.store import past
from provider.store.errors import StoreAhead, StoreCorrupt, StoreEmptied, StoreUnavailable
from provider.store.past import HistoryRow
from provider.store.statements import Statements
from provider.store.tables import history, id_column, meta

_SEED_ROWS = 1000
_EMPTIED = "the store is empty: somebody removed its rows while it was in use"
_REACHED = select(meta.c.generation, meta.c.epoch, meta.c.revision, meta.c.digest).with_for_update()


def seed(
    connection: Connection,
    sql: Statements,
    state: State,
    position: Position | None,
    goes_on: HistoryRow | None,
    over: tuple[int, int] | None,
) -> None:
    """See `Store.seed`."""
    row = connection.execute(_REACHED).one_or_none()
    # Another log is begun above all that there is: what counts is what it was made of.
    may = max((state.epoch, state.revision), over) if over is not None and goes_on is None else over
    if row is not None and may is not None and (row.epoch, row.revision) > may:
        raise StoreAhead(
            f"the store has revision {row.revision} of epoch {row.epoch} by now, which is more than revision "
            f"{may[1]} of epoch {may[0]}: nothing was changed"
        )
    if row is not None and over is not None and row.digest == state.digest:
        # It is that very state. What led to it is worth keeping, for all who share it.
        connection.execute(meta.update().values(_position(position)))
        return
    _replace(connection, sql, state, position, goes_on, locked=row is not None)


def write_back(connection: Connection, sql: Statements, state: State, position: Position | None) -> bool:
    """See `Store.write_back`."""
    row = connection.execute(_REACHED).one_or_none()
    if row is not None and not _is_older(row, state):
        return False
    _replace(connection, sql, state, position, None, locked=row is not None)
    return True


def commit(
    connection: Connection,
    sql: Statements,
    accepted: Sequence[Accepted],
    position: Position,
    *,
    anew: bool,
    held: State | None,
) -> None:
    """See `Store.commit`."""
    if not accepted:
        _move(connection, position, anew=anew, held=held)
        return
    state = accepted[-1].state
    before = {"of": state.generation, "before": accepted[0].state.revision - 1}
    if sql.advance.run(connection, before | _meta(state, position)) == 0:
        accepted = _missing(connection, accepted)
        if not accepted:
            _move(connection, position, anew=anew)
            return
        before["before"] = accepted[0].state.revision - 1
        sql.advance.run(connection, before | _meta(state, position))
    _write(connection, sql, accepted)


def _replace(
    connection: Connection,
    sql: Statements,
    state: State,
    position: Position | None,
    goes_on: HistoryRow | None,
    *,
    locked: bool,
) -> None:
    """`locked`: there is a row in `meta`, and this transaction has it."""
    if locked:
        sql.clear_meta.run(connection, {})
    try:
        # First, and without deleting what was not there to be locked: of two nodes that do this at once one fails.
        sql.set_meta.run(connection, {"id": 1, **_meta(state, position)})
    except IntegrityError as error:
        raise StoreUnavailable(f"another node puts a state into this store just now: {error.orig}") from error
    for statement in sql.clear:
        statement.run(connection, {})
    if goes_on is None:
        sql.clear_history.run(connection, {})
    else:
        sql.add_history.run_all(connection, [past.columns(goes_on)])
    rows = [
        {"kind": document.kind, "id": id_column(document.id), "text": document.text}
        for collection in state.documents.values()
        for document in collection.values()
    ]
    for start in range(0, len(rows), _SEED_ROWS):
        sql.put_document.run_all(connection, rows[start : start + _SEED_ROWS])
    used = [{"number": record.number, "text": record.text} for record in state.keys.values()]
    for start in range(0, len(used), _SEED_ROWS):
        sql.add_key.run_all(connection, used[start : start + _SEED_ROWS])


def _write(connection: Connection, sql: Statements, accepted: Sequence[Accepted]) -> None:
    """The effects of `accepted`, each document written once however often it changed."""
    state = accepted[-1].state
    latest: dict[tuple[str, str], str | None] = {}
    for one in accepted:
        latest.update(((document.kind, document.id), document.text) for document in one.delta.put)
        latest.update((where, None) for where in one.delta.deleted)
    put = [
        {"kind": kind, "id": id_column(id_), "text": text} for (kind, id_), text in latest.items() if text is not None
    ]
    gone = [{"kind": kind, "id": id_column(id_)} for (kind, id_), text in latest.items() if text is None]
    if put:
        sql.put_document.run_all(connection, put)
    if gone:
        sql.delete_document.run_all(connection, gone)
    used = [record for one in accepted for record in one.delta.keys_added]
    if used:
        sql.add_key.run_all(connection, [{"number": record.number, "text": record.text} for record in used])
    if any(one.delta.keys_dropped for one in accepted):
        # They are forgotten in the order of their numbers. The row of one that was used again goes when its turn comes.
        sql.drop_keys.run(connection, {"oldest": state.next_key - len(state.key_order)})
    rows = [
        past.columns(HistoryRow(one.state.revision, one.state.epoch, one.state.now, _text(one.record)))
        for one in accepted
    ]
    sql.add_history.run_all(connection, rows)


def _missing(connection: Connection, accepted: Sequence[Accepted]) -> Sequence[Accepted]:
    """Those of `accepted` that the store does not have. Raises `StoreCorrupt` where it does not hold what it should."""
    row = connection.execute(_REACHED).one_or_none()
    if row is None:
        raise StoreEmptied(_EMPTIED)
    for index, one in enumerate(accepted):
        if (one.state.generation, one.state.revision, one.state.digest) == (row.generation, row.revision, row.digest):
            return accepted[index + 1 :]
    last = accepted[-1]
    if last.state.generation == row.generation and last.state.revision < row.revision:
        # It has more: what a process of ours had sent before it died can arrive after the next one's start, and others
        # may share it. Where its history begins later, somebody put a newer state there.
        first = connection.scalar(select(func.min(history.c.revision))) or row.revision + 1
        kept = select(history.c.record).where(history.c.revision == last.state.revision)
        if first > last.state.revision or connection.scalar(kept) == _text(last.record):
            return ()
    if _is_older(row, accepted[0].state, by=1):
        raise _rolled_back(row, accepted[0].state.revision - 1)
    raise StoreCorrupt(
        f"the store is at revision {row.revision} of log {row.generation}, which does not lead to revision "
        f"{last.state.revision} of log {last.state.generation}: another process writes to it, or it was restored while "
        f"in use"
    )


def _is_older(row: Any, state: State, *, by: int = 0) -> bool:
    """Whether the store holds less than what came `by` records before `state`: of the same log, or of one before it."""
    if row.generation == state.generation:
        return int(row.revision) < state.revision - by
    return int(row.epoch) < state.epoch


def _rolled_back(row: Any, held: int) -> StoreEmptied:
    return StoreEmptied(
        f"the store is back at revision {row.revision} of log {row.generation}, and had revision {held}: somebody put "
        "a backup of it in its place, or made it anew"
    )


def _move(connection: Connection, position: Position, *, anew: bool, held: State | None = None) -> None:
    """Set the position, unless it is further already, in the same reading of the log. That of `held` belongs to no
    other state: beside an older one, what is between would not be read again; who has put a newer one there has put
    its position there as well."""
    row = connection.execute(_REACHED).one_or_none()
    if row is None:
        raise StoreEmptied(_EMPTIED)
    if held is not None and _is_older(row, held):
        raise _rolled_back(row, held.revision)
    if held is not None and (row.generation, row.revision) != (held.generation, held.revision):
        return
    offset = func.coalesce(meta.c.position_offset, -1)
    connection.execute(
        meta.update()
        .where(true() if anew else offset < position.offset)
        .values(position_offset=position.offset, position_digest=position.digest)
    )


def _text(record: Entry | Claim) -> str:
    return encode(record).decode("utf-8")


def _meta(state: State, position: Position | None) -> dict[str, object]:
    return {
        "generation": state.generation,
        "epoch": state.epoch,
        "primary_node": state.primary,
        "revision": state.revision,
        "now_ms": state.now,
        "next_key": state.next_key,
        "checksum": f"{state.checksum:064x}",
        "digest": state.digest,
        **_position(position),
    }


def _position(position: Position | None) -> dict[str, object]:
    return {
        "position_offset": position.offset if position is not None else None,
        "position_digest": position.digest if position is not None else None,
    }
