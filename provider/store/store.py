"""The store: state, position in the log and history, changed together or not at all."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from sqlalchemy import Connection, func, select
from sqlalchemy.exc import DBAPIError

from provider.core.state import Accepted, State
from provider.log.port import Position
from provider.store import loading, past, writing
from provider.store.connections import BUSY_S, COMMIT_S, WRITE, forgets, open_engine, translated
from provider.store.errors import HistoryDamaged, StoreUnavailable
from provider.store.past import HistoryRow
from provider.store.statements import Statements
from provider.store.tables import history, meta
from shared.errors import Invalid

_PRUNE_ROWS = 500
"""A commit waits for at most one such batch."""


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
        than `state`, it raises `StoreAhead` and changes nothing; with `goes_on` also where it has less than `state`.
        Where it has that very state, the history stays as well."""
        with self._writing() as connection:
            writing.seed(connection, self._compiled(connection), state, position, goes_on, over)

    def write_back(self, state: State, position: Position | None) -> bool:
        """After `StoreEmptied`: make the tables anew where they are gone, and put `state` there, which this store held;
        whether that was needed. Of several nodes that share it the first one does, and again one that has more."""
        self.migrate()
        with self._writing() as connection:
            return writing.write_back(connection, self._compiled(connection), state, position)

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
            writing.commit(connection, self._compiled(connection), accepted, position, anew=anew, held=held)

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
