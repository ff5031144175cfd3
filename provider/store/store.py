"""The store: state, position in the log and history, changed together or not at all."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import Connection, func, or_, select, true
from sqlalchemy.exc import DBAPIError

from provider.core.entries import Claim, Entry, encode
from provider.core.state import Accepted, State
from provider.log.port import Position
from provider.store import loading
from provider.store.connections import BUSY_S, WRITE, forgets, open_engine, translated
from provider.store.errors import StoreCorrupt, StoreUnavailable
from provider.store.statements import Statements
from provider.store.tables import history, id_column, meta
from shared.errors import Invalid

_SEED_ROWS = 1000
_PRUNE_ROWS = 500
"""A commit waits for at most one such batch."""


@dataclass(frozen=True, slots=True)
class HistoryRow:
    """One accepted record. `at` is the state's time (Unix ms) when it was accepted: it never decreases."""

    revision: int
    epoch: int
    at: int
    record: str
    """The `Entry` or `Claim`, as JSON."""


class Store:
    """One database. Every method may be called from any thread; writes are done one at a time.

    All of them raise `StoreUnavailable` (lost connection, locked) or `DiskFull`, after which the same call may simply
    be repeated: also a commit, whose effects are never applied twice.
    """

    def __init__(self, url: str, *, busy_s: float = BUSY_S) -> None:
        """`url`: `sqlite:////path/file.db` or `mysql+pymysql://user:password@host/database`. Connects on first use.

        `busy_s` is how long SQLite waits for another process's lock. Raises `Invalid` for any other URL.
        """
        self._engine = open_engine(url, busy_s=busy_s)
        self._lock = threading.Lock()
        self._writer: Connection | None = None
        self._statements: Statements | None = None

    # ── what there is ──

    def migrate(self) -> None:
        """Bring the tables up to date. Raises `StoreTooNew` where a newer version of the program made them."""
        with self._writing() as connection:
            loading.migrate(connection)

    def exists(self) -> bool:
        """Whether it holds a state."""
        with self._reading() as connection:
            return loading.has_tables(connection) and connection.scalar(select(func.count()).select_from(meta)) == 1

    def forgets(self) -> str | None:
        """Why the database may lose with its power what it has confirmed, and what to do; None: it keeps it."""
        with self._reading() as connection:
            return forgets(connection)

    def reached(self) -> tuple[str, int, int] | None:
        """Generation, epoch and revision of the state that it holds; None: none. More than this node has read, where
        other nodes keep their state in the same database and are ahead of it."""
        with self._reading() as connection:
            row = connection.execute(select(meta.c.generation, meta.c.epoch, meta.c.revision)).one_or_none()
            return None if row is None else (row.generation, row.epoch, row.revision)

    def load(self) -> tuple[State, Position | None]:
        """The state and the last position read from the log (None: none yet).

        Raises `StoreCorrupt` where what is stored is not what was written, or nothing is; `StoreTooNew`.
        """
        with self._reading(snapshot=True) as connection:
            return loading.load(connection)

    def seed(self, state: State, position: Position | None, goes_on: HistoryRow | None = None) -> None:
        """Replace everything by `state`, in one transaction. The history is then empty; with `goes_on`, the first
        record of another log, it is what it was, and that one, behind a gap in its revisions."""
        with self._writing() as connection:
            sql = self._compiled(connection)
            for statement in sql.clear:
                statement.run(connection, {})
            if goes_on is None:
                sql.clear_history.run(connection, {})
            else:
                sql.add_history.run_all(connection, [_row(goes_on)])
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
            sql.set_meta.run(connection, {"id": 1, **_meta(state, position)})

    # ── commits ──

    def commit(self, accepted: Sequence[Accepted], position: Position, *, anew: bool = False) -> None:
        """Make durable what `accepted` did, in revision order without a gap, and how far the log was read; with `anew`
        in a log that was read from its beginning once more, so that the position may be lower than it was.

        All of it in one transaction, on disk when this returns. With nothing accepted only the position moves. What the
        store has already is left out, so a call whose outcome was unknown can be repeated, also with more. Raises
        `StoreCorrupt` where the store holds anything else than the state before: somebody else wrote to it.
        """
        try:
            self._commit(accepted, position, anew=anew)
        except StoreUnavailable:
            # Most often the server was restarted, and only the old connection is gone.
            if self._engine.dialect.name == "sqlite":
                raise
            self._commit(accepted, position, anew=anew)

    def _commit(self, accepted: Sequence[Accepted], position: Position, *, anew: bool) -> None:
        with self._writing() as connection:
            sql = self._compiled(connection)
            if not accepted:
                _move(connection, position, anew=anew)
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

    # ── history ──

    def history(self, after: int, limit: int) -> list[HistoryRow]:
        """At most `limit` accepted records with a revision above `after`, in order."""
        query = (
            select(history.c.revision, history.c.epoch, history.c.at_ms, history.c.record)
            .where(history.c.revision > after)
            .order_by(history.c.revision)
            .limit(limit)
        )
        with self._reading() as connection:
            return [HistoryRow(*row) for row in connection.execute(query)]

    def history_back(
        self, below: int, above: int, limit: int, holding: Sequence[Sequence[str]] = ()
    ) -> list[HistoryRow]:
        """At most `limit` accepted records with `above` < revision < `below`, newest first. With `holding`, only those
        whose text has at least one of each group of texts."""
        query = (
            select(history.c.revision, history.c.epoch, history.c.at_ms, history.c.record)
            .where(history.c.revision < below, history.c.revision > above)
            .order_by(history.c.revision.desc())
            .limit(limit)
        )
        for texts in holding:  # not LIKE: nothing in a text then means anything else than itself
            query = query.where(or_(*(func.instr(history.c.record, text) > 0 for text in texts)))
        with self._reading() as connection:
            return [HistoryRow(*row) for row in connection.execute(query)]

    def history_at(self, at_ms: int) -> int | None:
        """The lowest revision in the history of a record accepted at `at_ms` (Unix ms) or later; None: there is none.

        Revisions and times never decrease, so some thirty looks find it among millions."""
        with self._reading(snapshot=True) as connection:
            low, high = connection.execute(select(func.min(history.c.revision), func.max(history.c.revision))).one()
            if low is None or _time_of(connection, high) < at_ms:
                return None
            while low < high:
                middle = (low + high) // 2
                low, high = (middle + 1, high) if _time_of(connection, middle) < at_ms else (low, middle)
            return _first_from(connection, low)

    def history_of_epoch(self, epoch: int) -> int | None:
        """The lowest revision in the history whose epoch is `epoch` or later; None: there is none."""
        with self._reading(snapshot=True) as connection:
            low, high = connection.execute(select(func.min(history.c.revision), func.max(history.c.revision))).one()
            if low is None or _epoch_of(connection, high) < epoch:
                return None
            while low < high:
                middle = (low + high) // 2
                low, high = (middle + 1, high) if _epoch_of(connection, middle) < epoch else (low, middle)
            return _first_from(connection, low)

    def add_history(self, rows: Sequence[HistoryRow]) -> None:
        """What was accepted before this store began: rows that follow each other, the last of them just before the
        first that is there. Raises `Invalid` for any others."""
        if not rows:
            return
        with self._writing() as connection:
            first = connection.scalar(select(func.min(history.c.revision)))
            if first is None:
                first = (connection.scalar(select(meta.c.revision)) or 0) + 1
            if [row.revision for row in rows] != list(range(first - len(rows), first)):
                raise Invalid(f"the history does not fit: it should end with revision {first - 1}")
            self._compiled(connection).add_history.run_all(connection, [_row(row) for row in rows])

    def oldest_history(self) -> int | None:
        """The lowest revision that the history has; None where it has none."""
        with self._reading() as connection:
            oldest: int | None = connection.scalar(select(func.min(history.c.revision)))
            return oldest

    def prune_history(self, before_ms: int, *, keep: int = 0) -> int:
        """Forget records accepted before `before_ms` (Unix ms), but not the last `keep` revisions, in small
        transactions. Returns how many went."""
        total: int = 0
        with self._reading() as connection:
            end = (connection.scalar(select(func.max(history.c.revision))) or 0) - keep
        rows = select(history.c.revision, history.c.at_ms).where(history.c.revision <= end)
        oldest = rows.order_by(history.c.revision).limit(_PRUNE_ROWS).subquery()
        last_old = select(func.max(oldest.c.revision), func.count()).where(oldest.c.at_ms < before_ms)
        while True:
            with self._writing() as connection:
                last, count = connection.execute(last_old).one()
                if last is not None:
                    connection.execute(history.delete().where(history.c.revision <= last))
            total += count
            if count < _PRUNE_ROWS:
                return total

    def close(self) -> None:
        """Close all connections. Nothing is lost without it."""
        with self._lock, translated(self._engine):
            if self._writer is not None:
                self._writer.close()
                self._writer = None
            self._engine.dispose()

    # ── connections ──

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        """A transaction on the one connection that writes. Committed at the end, undone after an error."""
        with self._lock, translated(self._engine):
            if self._writer is None:
                self._writer = self._engine.connect().execution_options(**{WRITE: True})
            try:
                with self._writer.begin():
                    yield self._writer
            except DBAPIError:
                # Whatever state it is in: the next transaction begins on a fresh one.
                self._writer.invalidate()
                self._writer.close()
                self._writer = None
                raise

    @contextmanager
    def _reading(self, *, snapshot: bool = False) -> Iterator[Connection]:
        """A transaction of the caller's own. With `snapshot` all queries see the same moment; SQLite's always do."""
        with translated(self._engine), self._engine.connect() as connection:
            if snapshot and self._engine.dialect.name != "sqlite":
                connection.execution_options(isolation_level="REPEATABLE READ")
            yield connection

    def _compiled(self, connection: Connection) -> Statements:
        if self._statements is None:
            self._statements = Statements(connection.dialect)
        return self._statements


def _row(row: HistoryRow) -> dict[str, object]:
    return {"revision": row.revision, "epoch": row.epoch, "at_ms": row.at, "record": row.record}


def _time_of(connection: Connection, revision: int) -> int:
    """When the first record from `revision` on was accepted."""
    later = select(history.c.at_ms).where(history.c.revision >= revision).order_by(history.c.revision).limit(1)
    return int(connection.execute(later).scalar_one())


def _epoch_of(connection: Connection, revision: int) -> int:
    """The epoch after the first record from `revision` on."""
    later = select(history.c.epoch).where(history.c.revision >= revision).order_by(history.c.revision).limit(1)
    return int(connection.execute(later).scalar_one())


def _first_from(connection: Connection, revision: int) -> int:
    """Before a log that was begun by force there is a gap."""
    return int(
        connection.execute(select(func.min(history.c.revision)).where(history.c.revision >= revision)).scalar_one()
    )


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
        {
            "revision": one.state.revision,
            "epoch": one.state.epoch,
            "at_ms": one.state.now,
            "record": _text(one.record),
        }
        for one in accepted
    ]
    sql.add_history.run_all(connection, rows)


def _missing(connection: Connection, accepted: Sequence[Accepted]) -> Sequence[Accepted]:
    """Those of `accepted` that the store does not have. Raises `StoreCorrupt` where it does not hold what it should."""
    query = select(meta.c.generation, meta.c.revision, meta.c.digest).with_for_update()
    row = connection.execute(query).one_or_none()
    if row is None:
        raise StoreCorrupt("the store is empty: somebody removed its rows while it was in use")
    for index, one in enumerate(accepted):
        if (one.state.generation, one.state.revision, one.state.digest) == tuple(row):
            return accepted[index + 1 :]
    last = accepted[-1]
    kept = select(history.c.record).where(history.c.revision == last.state.revision)
    if last.state.generation == row.generation and connection.scalar(kept) == _text(last.record):
        return ()  # it has more: what a process of ours had sent before it died can arrive after the next one's start
    raise StoreCorrupt(
        f"the store is at revision {row.revision} of log {row.generation}, which does not lead to revision "
        f"{last.state.revision} of log {last.state.generation}: another process writes to it, or it was restored while "
        f"in use"
    )


def _move(connection: Connection, position: Position, *, anew: bool) -> None:
    """Set the position, unless it is further already, in the same reading of the log."""
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
        "position_offset": position.offset if position is not None else None,
        "position_digest": position.digest if position is not None else None,
    }
