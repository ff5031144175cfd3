"""How each kind of database is opened, and what its errors mean to us."""

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pymysql
from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import ConnectionPoolEntry

from provider.store.errors import StoreCorrupt, StoreEmptied, StoreUnavailable
from shared.errors import BellwetherError, DiskFull, Invalid
from shared.files import give_to_owner_of

BUSY_S = 1.0
"""How long a statement waits for another process's lock (a backup, a curious operator) before it fails. The engine
stands still meanwhile; it tries again by itself, and can say in between why writes are refused."""
MYSQL_CONNECT_S, ANSWER_S = 5.0, 30.0
"""Deadlines, so that a server that hangs is an error and not a hang of ours."""
COMMIT_S = 4.0
"""For each answer to a commit. The engine stands still meanwhile, and those who wait for it are told why after 5 s."""
WAL_PAGES = 4000
"""The WAL is copied into the database when it has this many pages (16 MB). See DESIGN.md, "Checkpoints"."""
WRITE = "bellwether_write"
"""Execution option of connections that will write: SQLite must know it when the transaction begins."""

_MYSQL_FULL = {3, 20, 1021, 1114}  # EE_WRITE, EE_DISK_FULL, ER_DISK_FULL, ER_RECORD_FILE_FULL
_MYSQL_GONE = {1046, 1049, 1146}  # ER_NO_DB_ERROR, ER_BAD_DB_ERROR, ER_NO_SUCH_TABLE
_MYSQL_NAMES_ERRNO = {1026, 1030}  # ER_ERROR_ON_WRITE, ER_GET_ERRNO: the reason is in the text
_SPACE_LEFT_BYTES = 64 * 1024


def open_engine(url: str, *, busy_s: float = BUSY_S, answer_s: float = ANSWER_S) -> Engine:
    """An engine for `sqlite:////path` or `mysql+pymysql://…`; nothing is connected yet. `busy_s`: how long SQLite waits
    for a lock; `answer_s`: how long a server has for one answer. Raises `Invalid`."""
    parsed = parse_url(url)
    match parsed.drivername:
        case "sqlite" | "sqlite+pysqlite":
            return _sqlite(parsed, busy_s)
        case "mysql+pymysql" | "mariadb+pymysql":
            return _mysql(parsed, answer_s)
    raise Invalid(f"store URL: {parsed.drivername!r} is not supported; use sqlite:////path or mysql+pymysql://…")


def parse_url(url: str) -> URL:
    """A store URL in its parts. Raises `Invalid`, which does not repeat it: there may be a password in it."""
    try:
        return make_url(url)
    except (ArgumentError, ValueError):
        raise Invalid("store URL: not understood; use sqlite:////path or mysql+pymysql://…") from None


def _sqlite(url: URL, busy_s: float) -> Engine:
    if not url.database or url.database == ":memory:":
        raise Invalid("store URL: sqlite needs a file, as in sqlite:////var/lib/bellwether/state.db")
    path = Path(url.database)
    engine = create_engine(url, hide_parameters=True, connect_args={"timeout": busy_s, "isolation_level": None})

    @event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _: ConnectionPoolEntry) -> None:
        try:
            for pragma in ("journal_mode=WAL", "synchronous=FULL", f"wal_autocheckpoint={WAL_PAGES}"):
                connection.execute(f"PRAGMA {pragma}").close()
        except sqlite3.Error:
            connection.close()  # nobody else knows of it yet
            raise

    @event.listens_for(engine, "do_connect")
    def create_private(*_: Any) -> None:
        # It holds hashes of tokens and sealed passwords. The WAL beside it gets mode and owner from SQLite. A file that
        # is there must not be opened: to close it again would drop all locks that SQLite has on it in this process
        # (sqlite.org/howtocorrupt.html, 2.2).
        with suppress(OSError):  # where it cannot be made, SQLite says so better
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
            try:
                give_to_owner_of(path.parent, descriptor)
            finally:
                os.close(descriptor)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # The driver begins by itself only before some statements. A writer takes the lock at once: a transaction that
        # has read first cannot wait for it.
        write = connection.get_execution_options().get(WRITE)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


def _mysql(url: URL, answer_s: float) -> Engine:
    modes = "STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION"  # whatever the server's default: nothing is ever cut off
    settings = f"SET SESSION sql_mode='{modes}', innodb_lock_wait_timeout={int(BUSY_S)}"
    deadlines = {"connect_timeout": MYSQL_CONNECT_S, "read_timeout": answer_s, "write_timeout": answer_s}
    return create_engine(
        url.update_query_dict({"charset": "utf8mb4"}),
        hide_parameters=True,
        paramstyle="format",  # parameters in order, as `Statement` gives them
        isolation_level="READ COMMITTED",
        pool_pre_ping=True,
        pool_recycle=3600,
        connect_args={**deadlines, "init_command": settings},
    )


def forgets(connection: Connection) -> str | None:
    """Why the database may lose a commit with its power although it has confirmed it; None: as far as its settings
    tell, it does not. SQLite is told what to do when it is opened."""
    if connection.dialect.name == "sqlite":
        return None
    flush, logs, syncs = connection.exec_driver_sql(
        "SELECT @@innodb_flush_log_at_trx_commit, @@log_bin, @@sync_binlog"
    ).one()
    if flush != 1:
        return f"innodb_flush_log_at_trx_commit is {flush}: set it to 1"
    if logs and syncs != 1:  # after a crash InnoDB gives up what the binary log does not have
        return f"it writes a binary log, and sync_binlog is {syncs}: set it to 1"
    return None


@contextmanager
def translated(engine: Engine) -> Iterator[None]:
    """Turn what the database says into an error of ours. What is left is a bug and passes through."""
    try:
        yield
    except PoolTimeout as error:
        raise StoreUnavailable(f"the store is busy: {error}") from error
    except DBAPIError as error:
        meaning = _meaning(error, engine.url)
        if meaning is None:
            raise
        raise meaning from error


def _meaning(error: DBAPIError, url: URL) -> BellwetherError | None:
    origin = error.orig
    if isinstance(origin, sqlite3.Error):
        return _sqlite_meaning(origin, Path(url.database or ""))
    if isinstance(origin, pymysql.err.MySQLError):
        return _mysql_meaning(error, origin)
    return None


def _sqlite_meaning(error: sqlite3.Error, path: Path) -> BellwetherError | None:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the upper bits say more, see sqlite.org/rescode.html
    match code:
        case sqlite3.SQLITE_FULL:
            return _disk_full(path, error)
        case sqlite3.SQLITE_IOERR | sqlite3.SQLITE_CANTOPEN if _no_space(path):
            return _disk_full(path, error)  # the index beside the WAL could not grow
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return StoreCorrupt(f"{path}: {error}")
        case sqlite3.SQLITE_ERROR if str(error).startswith("no such table"):
            return StoreEmptied(f"{path}: {error}: somebody dropped it")
        case sqlite3.SQLITE_CONSTRAINT:
            return StoreCorrupt(f"{path} holds rows that were not written by this program's rules: {error}")
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return StoreUnavailable(f"{path} is locked by another process: {error}")
        case sqlite3.SQLITE_IOERR | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM:
            return StoreUnavailable(f"{path}: {error}")
    return None


def _disk_full(path: Path, error: Exception) -> DiskFull:
    return DiskFull(f"no space left for {path} ({error}): free some, it goes on by itself")


def _no_space(path: Path) -> bool:
    with suppress(OSError):
        return shutil.disk_usage(path.parent).free < _SPACE_LEFT_BYTES
    return False


def _mysql_meaning(error: DBAPIError, origin: pymysql.err.MySQLError) -> BellwetherError | None:
    code = origin.args[0] if origin.args and isinstance(origin.args[0], int) else 0
    text = f"{origin.args[-1] if origin.args else type(origin).__name__} ({code})"
    if code in _MYSQL_FULL or (code in _MYSQL_NAMES_ERRNO and _names_enospc(text)):
        return DiskFull(f"the store's database server has no space left: {text}: free some, it goes on by itself")
    if code in _MYSQL_GONE:
        return StoreEmptied(f"the store's database was dropped, or tables of it: {text}")
    if isinstance(error, IntegrityError):
        return StoreCorrupt(f"the store holds rows that were not written by this program's rules: {text}")
    if error.connection_invalidated or isinstance(
        origin, pymysql.err.OperationalError | pymysql.err.InternalError | pymysql.err.InterfaceError
    ):
        return StoreUnavailable(f"the store's database server: {text}")
    return None


def _names_enospc(text: str) -> bool:
    return any(sign in text for sign in ("error 28", "Errcode: 28", "rror: 28", "No space left"))
