"""The adapter to a MariaDB server: looks at it and carries out steps. The only module that knows PyMySQL.

One `MariaDB` holds at most two connections: one with short timeouts to look, so that a server that hangs is noticed,
and one with long timeouts to carry out steps, open only meanwhile. Not thread-safe: one worker thread owns it.
"""

import contextlib
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pymysql
from pymysql.connections import Connection
from pymysql.cursors import Cursor, DictCursor

from agent import mariadb_privileges as tables
from agent.plan import DatabaseSeen, Held
from agent.settings import InstanceSettings
from agent.sql import render
from agent.steps import Step

Role = Literal["primary", "replica", "unknown"]

DEFAULT_PORT = 3306
# Error numbers, see "MariaDB Error Codes" in MariaDB's manual.
ACCESS_DENIED = frozenset({1044, 1142, 1143, 1227, 1370})
# The client's own errors, and the server's: shutdown, network trouble, connection killed.
CONNECTION_LOST = frozenset({*range(2000, 3000), 1053, 1077, 1079, 1080, 1152, 1158, 1159, 1160, 1161, 1184, 1927})

# Ours must mean what we wrote, whatever the server's defaults. Nobody's metadata lock may hold us up for a day.
_SESSION = (
    "SET SESSION sql_mode='STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION', lock_wait_timeout={lock_wait_s}, "
    "max_statement_time={statement_s}"
)
_VITALS = (
    "SELECT VERSION() AS version, @@global.read_only AS read_only, @@global.gtid_current_pos AS gtid_current_pos, "
    "@@global.gtid_binlog_pos AS gtid_binlog_pos, @@global.gtid_slave_pos AS gtid_slave_pos"
)
_UPTIME = "SHOW GLOBAL STATUS LIKE 'Uptime'"
_IDENTITY = "SELECT CURRENT_USER() AS me, @@lower_case_table_names AS lower_case, @@old_mode AS old_mode"
_DATABASES = (
    "SELECT SCHEMA_NAME AS name, DEFAULT_CHARACTER_SET_NAME AS charset, DEFAULT_COLLATION_NAME AS collation "
    "FROM information_schema.SCHEMATA"
)
_SIZES = (
    "SELECT TABLE_SCHEMA AS name, CAST(SUM(IFNULL(DATA_LENGTH, 0) + IFNULL(INDEX_LENGTH, 0)) AS UNSIGNED) AS size "
    "FROM information_schema.TABLES WHERE TABLE_TYPE <> 'VIEW' GROUP BY TABLE_SCHEMA"
)


class ServerDown(Exception):
    """The server cannot be reached, does not answer in time, or does not let us in. The text says which."""

    def __init__(self, text: str, *, timed_out: bool = False) -> None:
        super().__init__(text)
        self.timed_out = timed_out


class Refused(Exception):
    """The server refused a statement. The text is the server's own."""


@dataclass(frozen=True, slots=True)
class Vitals:
    """What is asked every second."""

    version: str
    role: Role
    read_only: bool
    uptime_s: int
    positions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Look:
    """Everything but sizes."""

    vitals: Vitals
    held: Held


class MariaDB:
    """One server. Every method connects if needed and raises, after the timeouts of the settings at most,

    - `ServerDown`: not reached, no answer in time, or not let in;
    - `Refused`: the server answered with an error.
    """

    def __init__(self, settings: InstanceSettings) -> None:
        self._settings = settings
        self._connection: Connection[Cursor] | None = None

    def close(self) -> None:
        """Close the connection; a later call opens it again."""
        if self._connection is not None:
            with contextlib.suppress(Exception):
                self._connection.close()
            self._connection = None

    def vitals(self) -> Vitals:
        was_open = self._connection is not None
        try:
            with self._cursor() as cursor:
                return self._vitals(cursor)
        except ServerDown as error:
            if not was_open or error.timed_out:
                raise
        # An idle connection that was closed (restart, KILL, wait_timeout) does not mean that nobody is there.
        with self._cursor() as cursor:
            return self._vitals(cursor)

    def look(self) -> Look:
        with self._cursor() as cursor:
            vitals = self._vitals(cursor)
            (identity,) = _rows(cursor, _IDENTITY)
            databases = {
                row["name"]: DatabaseSeen(row["charset"], row["collation"]) for row in _rows(cursor, _DATABASES)
            }
            try:
                privileges = tables.read(lambda sql: _rows(cursor, sql))
                hidden = None
            except pymysql.err.Error as error:
                if error.args[0] not in ACCESS_DENIED:
                    raise
                privileges = tables.Privileges()
                hidden = f"the agent's account may not see accounts ({_text(error)}); grant it SELECT on mysql.*"
        held = Held(
            databases=databases,
            accounts=privileges.accounts,
            accounts_hidden=hidden,
            replica=None if vitals.role == "unknown" else vitals.role == "replica",
            read_only=vitals.read_only,
            own_account=str(identity["me"]).rpartition("@")[0],
            lower_case_names=bool(identity["lower_case"]),
            utf8="utf8mb3" if "UTF8_IS_UTF8MB3" in str(identity["old_mode"]) else "utf8mb4",
            all_on_databases=privileges.all_on_databases,
            all_everywhere=privileges.all_everywhere,
        )
        return Look(vitals, held)

    def sizes(self) -> Mapping[str, int]:
        """Bytes of data and indexes by database; those without tables are missing.

        Costs the server a walk over all tables, and is given up after the read timeout.
        """
        with self._cursor() as cursor:
            return {row["name"]: int(row["size"]) for row in _rows(cursor, _SIZES)}

    def apply(self, steps: Sequence[Step]) -> None:
        """Carry out `steps` in order, up to the first that fails."""
        connection = self._connect(self._settings.apply_timeout_s)
        try:
            with connection.cursor() as cursor:
                for step in steps:
                    cursor.execute(*render(step))
        except (OSError, pymysql.err.Error, UnicodeError) as error:
            raise _ours(error) from error
        finally:
            with contextlib.suppress(Exception):
                connection.close()

    def _vitals(self, cursor: DictCursor) -> Vitals:
        (row,) = _rows(cursor, _VITALS)
        (uptime,) = _rows(cursor, _UPTIME)
        positions = {
            name: str(row[name]) for name in ("gtid_current_pos", "gtid_binlog_pos", "gtid_slave_pos") if row[name]
        }
        role: Role = "primary"
        try:
            sources = _rows(cursor, "SHOW ALL SLAVES STATUS")
        except pymysql.err.Error as error:
            if error.args[0] not in ACCESS_DENIED:
                raise
            role, sources = "unknown", []
        for source in sources:
            role = "replica"
            positions |= _replication(source)
        return Vitals(str(row["version"]), role, bool(row["read_only"]), int(uptime["Value"]), positions)

    @contextlib.contextmanager
    def _cursor(self) -> Iterator[DictCursor]:
        """A cursor on the open connection. After an error it is closed: its state is not known."""
        if self._connection is None:
            self._connection = self._connect(self._settings.read_timeout_s)
        try:
            with self._connection.cursor(DictCursor) as cursor:
                yield cursor
        except (OSError, pymysql.err.Error) as error:
            self.close()
            raise _ours(error) from error

    def _connect(self, timeout_s: float) -> "Connection[Cursor]":
        settings = self._settings
        try:
            password = settings.password_file.read_text("utf-8").rstrip("\r\n") if settings.password_file else ""
        except (OSError, UnicodeError) as error:
            raise ServerDown(f"cannot read {settings.password_file}: {error}") from error
        # The server gives up a second before we do: then it is its message that the operator gets.
        limit_s = max(1, int(timeout_s) - 1)
        connection = pymysql.connect(
            user=settings.user,
            password=password.encode(),  # PyMySQL would take text for Latin-1
            charset="utf8mb4",
            autocommit=True,
            read_timeout=timeout_s,
            write_timeout=timeout_s,
            init_command=_SESSION.format(lock_wait_s=limit_s, statement_s=limit_s),
            program_name="bellwether-agent",
            defer_connect=True,
        )
        try:
            connection.connect(_open_socket(settings))
        except (OSError, pymysql.err.Error, UnicodeError) as error:
            at = settings.socket or f"{settings.host}:{settings.port or DEFAULT_PORT}"
            raise ServerDown(f"no connection to {at}: {_text(error)}") from error
        return connection


def _open_socket(settings: InstanceSettings) -> socket.socket:
    """A connected socket. PyMySQL's own way leaves it open where a local server is down. Raises `OSError`."""
    if settings.host is not None:
        connected = socket.create_connection((settings.host, settings.port or DEFAULT_PORT), settings.connect_timeout_s)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return connected
    local = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        local.settimeout(settings.connect_timeout_s)
        local.connect(str(settings.socket))
    except BaseException:
        local.close()
        raise
    return local


def _rows(cursor: DictCursor, sql: str) -> list[dict[str, Any]]:
    cursor.execute(sql)
    return list(cursor.fetchall())


def _replication(source: Mapping[str, Any]) -> dict[str, str]:
    """What a person asks first of a replica. The key holds the name of the replication connection, where it has one."""
    name = source["Connection_name"]
    head = f"replication.{name}." if name else "replication."
    wanted = {
        "source": f"{source['Master_Host']}:{source['Master_Port']}",
        "io": source["Slave_IO_Running"],
        "sql": source["Slave_SQL_Running"],
        "behind_s": source["Seconds_Behind_Master"],
        "error": source["Last_SQL_Error"] or source["Last_IO_Error"],
    }
    return {head + key: str(value) for key, value in wanted.items() if value not in (None, "")}


def _is_lost(error: Exception) -> bool:
    """Whether the connection is gone, as opposed to a statement being refused."""
    number = error.args[0] if error.args else None
    # PyMySQL raises InterfaceError(0, "") on a connection that it closed itself.
    return isinstance(error, OSError | pymysql.err.InterfaceError) or number in CONNECTION_LOST


def _ours(error: Exception) -> ServerDown | Refused:
    if not _is_lost(error):
        return Refused(_text(error))
    # PyMySQL raises its own error while it handles the socket's.
    return ServerDown(_text(error), timed_out=isinstance(error.__context__, TimeoutError))


def _text(error: Exception) -> str:
    """The message without Python around it, at most 500 characters: it goes into a document."""
    text = str(error.args[1]) if isinstance(error, pymysql.err.Error) and len(error.args) > 1 else str(error)
    return (" ".join(text.split()) or type(error).__name__)[:500]
