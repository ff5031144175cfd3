"""The store: state, position in the log and history, changed together or not at all."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, func, select, true
from sqlalchemy.exc import DBAPIError, IntegrityError

from provider.core.entries import Claim, Entry, encode
from provider.core.state import Accepted, State
from provider.log.port import Position
from provider.store import loading, past
from provider.store.connections import BUSY_S, COMMIT_S, WRITE, forgets, open_engine, translated
from provider.store.errors import HistoryDamaged, StoreAhead, StoreCorrupt, StoreEmptied, StoreUnavailable
from provider.store.past import HistoryRow
from provider.store.statements import Statements
from provider.store.tables import history, id_column, meta
from shared.errors import Invalid

_SEED_ROWS = 1000
_PRUNE_ROWS = 500
"""A commit waits for at most one such batch."""
_EMPTIED = "the store is empty: somebody removed its rows while it was in use"
_REACHED = select(meta.c.generation, meta.c.epoch, meta.c.revision).with_for_update()


class Store:
    """One database. Every method may be called from any thread; writes are done one at a time.

    All of them raise `StoreUnavailable` (lost connection, locked) or `DiskFull`, after which the same call may simply
    be repeated: also a commit, whose effects are never applied twice.
    """

    def __init__(self, url: str, *, busy_s: float = BUSY_S, commit_s: float = COMMIT_S) -> None:
        """`url`: `sqlite:////path/file.db` or `mysql+pymysql://user:password@host/database`. Connects on first use.

        `busy_s` is how long SQLite waits for another process's lock, `commit_s` how long a server has for each answer
        to a commit. Raises `Invalid` for any other URL.
        """
        self._engine = open_engine(url, busy_s=busy_s)
        self._commits = self._engine if self._engine.dialect.name == "sqlite" else open_engine(url, answer_s=commit_s)
        self._commit_s = commit_s
        self._lock = threading.Lock()
        self._writer: Connection | None = None
        self.damaged: int | None = None
        """A revision in the history that was found not to be what was written."""
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

    def reached(self, *, settled: bool = False) -> tuple[str, int, int] | None:
        """Generation, epoch and revision of the state that it holds; None: none. More than this node has read, where
        other nodes keep their state in the same database and are ahead of it. With `settled` it is waited for
        transactions that could still change it; where they do not end, that is `StoreUnavailable`."""
        query = select(meta.c.generation, meta.c.epoch, meta.c.revision)
        with self._writing() if settled else self._reading() as connection:
            row = connection.execute(query.with_for_update() if settled else query).one_or_none()
            return None if row is None else (row.generation, row.epoch, row.revision)

    def load(self) -> tuple[State, Position | None]:
        """The state and the last position read from the log (None: none yet).

        Raises `StoreCorrupt` where what is stored is not what was written, or nothing is; `StoreTooNew`.
        """
        with self._reading(snapshot=True) as connection:
            return loading.load(connection)

    def seed(
        self,
        state: State,
        position: Position | None,
        goes_on: HistoryRow | None = None,
        *,
        over: tuple[int, int] | None = None,
    ) -> None:
        """Replace everything by `state`, in one transaction. The history is then empty; with `goes_on`, the first
        record of another log, it is what it was, and that one, behind a gap in its revisions.

        `over`: epoch and revision of what may be replaced in any case. Where the store has more than that, and more
        than `state`, it raises `StoreAhead` and changes nothing."""
        with self._writing() as connection:
            row = connection.execute(_REACHED).one_or_none()
            may = max((state.epoch, state.revision), over) if over is not None else None
            if row is not None and may is not None and (row.epoch, row.revision) > may:
                raise StoreAhead(
                    f"the store has revision {row.revision} of epoch {row.epoch} by now, which is more than revision "
                    f"{state.revision} of epoch {state.epoch}: nothing was changed"
                )
            self._replace(connection, state, position, goes_on, locked=row is not None)

    def write_back(self, state: State, position: Position | None) -> bool:
        """After `StoreEmptied`: make the tables anew where they are gone, and put `state` there, which this store held;
        whether that was needed. Of several nodes that share it the first one does, and again one that has more."""
        self.migrate()
        with self._writing() as connection:
            row = connection.execute(_REACHED).one_or_none()
            if row is not None and not _is_older(row, state):
                return False
            self._replace(connection, state, position, None, locked=row is not None)
            return True

    def _replace(
        self,
        connection: Connection,
        state: State,
        position: Position | None,
        goes_on: HistoryRow | None,
        *,
        locked: bool,
    ) -> None:
        """`locked`: there is a row in `meta`, and this transaction has it."""
        sql = self._compiled(connection)
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

    # ── commits ──

    def commit(
        self, accepted: Sequence[Accepted], position: Position, *, anew: bool = False, held: State | None = None
    ) -> None:
        """Make durable what `accepted` did, in revision order without a gap, and how far the log was read; with `anew`
        in a log that was read from its beginning once more, so that the position may be lower than it was.

        All of it in one transaction, on disk when this returns. With nothing accepted only the position moves, as that
        of `held`. What the store has already is left out, so a call whose outcome was unknown can be repeated, also
        with more. Raises `StoreEmptied` where the store has nothing any more, or less than the state before or `held`;
        `StoreCorrupt` where it holds anything else: somebody else wrote to it.
        """
        began_s = time.monotonic()
        try:
            self._commit(accepted, position, anew=anew, held=held)
        except StoreUnavailable:
            # Most often the server was restarted, and only the old connection is gone. One that hangs would only hang
            # once more.
            if self._engine.dialect.name == "sqlite" or time.monotonic() - began_s > self._commit_s / 2:
                raise
            self._commit(accepted, position, anew=anew, held=held)

    def _commit(self, accepted: Sequence[Accepted], position: Position, *, anew: bool, held: State | None) -> None:
        with self._writing(commits=True) as connection:
            sql = self._compiled(connection)
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

    # ── history ──

    def history(self, after: int, limit: int, *, checked: bool = True) -> list[HistoryRow]:
        """At most `limit` accepted records with a revision above `after`, in order. Raises `HistoryDamaged` where one
        of them is not what was written, unless it is not `checked`: for people who look at what is left of it."""
        with self._reading() as connection:
            return self._sound(past.after(connection, after, limit), checked=checked)

    def history_back(
        self, below: int, above: int, limit: int, holding: Sequence[Sequence[str]] = (), *, checked: bool = True
    ) -> list[HistoryRow]:
        """At most `limit` accepted records with `above` < revision < `below`, newest first. With `holding`, only those
        whose text has at least one of each group of texts. Raises `HistoryDamaged`."""
        with self._reading() as connection:
            return self._sound(past.back(connection, below, above, limit, holding), checked=checked)

    def history_at(self, at_ms: int) -> int | None:
        """The lowest revision in the history of a record accepted at `at_ms` (Unix ms) or later, or None."""
        with self._reading(snapshot=True) as connection:
            return past.first_at(connection, history.c.at_ms, at_ms)

    def history_of_epoch(self, epoch: int) -> int | None:
        """The lowest revision in the history whose epoch is `epoch` or later; None: there is none."""
        with self._reading(snapshot=True) as connection:
            return past.first_at(connection, history.c.epoch, epoch)

    def _sound(self, found: Sequence[past.Found], *, checked: bool) -> list[HistoryRow]:
        if checked:
            try:
                past.check(found)
            except HistoryDamaged as error:
                self.damaged = error.revision
                raise
        return [row for row, _ in found]

    def mend_history(self, row: HistoryRow) -> None:
        """What another member has in the place of a record that is not what was written."""
        with self._writing() as connection:
            past.mend(connection, row)
        self.damaged = None

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
            self._compiled(connection).add_history.run_all(connection, [past.columns(row) for row in rows])

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
            self._commits.dispose()

    # ── connections ──

    @contextmanager
    def _writing(self, *, commits: bool = False) -> Iterator[Connection]:
        """A transaction of the one writer: committed at the end, undone on error. Commits keep their connection."""
        with self._lock, translated(self._engine):
            if not commits and self._commits is not self._engine:
                # Seldom, and perhaps long after the server was restarted: the pool looks whether the connection lives.
                with self._engine.connect() as connection, connection.begin():
                    yield connection
                return
            if self._writer is None:
                self._writer = self._commits.connect().execution_options(**{WRITE: True})
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
    query = select(meta.c.generation, meta.c.epoch, meta.c.revision, meta.c.digest).with_for_update()
    row = connection.execute(query).one_or_none()
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
        "position_offset": position.offset if position is not None else None,
        "position_digest": position.digest if position is not None else None,
    }
