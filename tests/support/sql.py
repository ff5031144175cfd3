"""A MariaDB server as its own administrator, or any account, sees it."""

from typing import Any

import pymysql
from localcluster.mariadb import MariaDB
from localcluster.process import wait_until


def sql(server: MariaDB, statement: str, *arguments: object) -> list[tuple[Any, ...]]:
    """The rows of one statement, as the server's administrator."""
    with pymysql.connect(unix_socket=str(server.socket), user=server.user, charset="utf8mb4") as connection:
        return _rows(connection, statement, arguments)


def sql_as(server: MariaDB, account: str, password: str, statement: str, *arguments: object) -> list[tuple[Any, ...]]:
    """The same as `account`, by TCP and password. Raises `pymysql.err.Error`."""
    with pymysql.connect(
        host="127.0.0.1",
        port=server.port,
        user=account,
        password=password.encode(),  # from a text pymysql would make latin-1
        charset="utf8mb4",
    ) as connection:
        return _rows(connection, statement, arguments)


def _rows(connection: Any, statement: str, arguments: tuple[object, ...]) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(statement, arguments or None)
        connection.commit()
        return list(cursor.fetchall())


def databases(server: MariaDB) -> dict[str, tuple[str, str]]:
    """Name → character set and collation."""
    columns = "schema_name, default_character_set_name, default_collation_name"
    return {
        name: (charset, collation)
        for name, charset, collation in sql(server, f"SELECT {columns} FROM information_schema.schemata")
    }


def accounts(server: MariaDB) -> dict[str, dict[str, Any]]:
    """`user@host` → the server's own record of it, whole: equal means untouched."""
    return {
        f"{user}@{host}": record for user, host, record in sql(server, "SELECT User, Host, Priv FROM mysql.global_priv")
    }


def wait_for_database(server: MariaDB, name: str, *, there: bool = True, timeout_s: float = 30.0) -> None:
    what = f"database {name!r} {'is not there' if there else 'is still there'}"
    wait_until(lambda: (name in databases(server)) == there, timeout_s=timeout_s, what=what)
