"""Reads MariaDB's privilege tables (10.4 and later): who there is, how they log in, what they may do.

The tables are read rather than `SHOW GRANTS`: three queries instead of one per account, and nothing to parse.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from agent.plan import AccountSeen
from agent.privileges import GRANT_OPTION
from agent.steps import EVERYWHERE

Row = Mapping[str, Any]
Ask = Callable[[str], list[dict[str, Any]]]

# Bit 0 first: `access` in mysql.global_priv, see sql/privilege.h of MariaDB. A test compares it with a real server.
_GLOBAL_BITS = (
    "SELECT",
    "INSERT",
    "UPDATE",
    "DELETE",
    "CREATE",
    "DROP",
    "RELOAD",
    "SHUTDOWN",
    "PROCESS",
    "FILE",
    GRANT_OPTION,
    "REFERENCES",
    "INDEX",
    "ALTER",
    "SHOW DATABASES",
    "SUPER",
    "CREATE TEMPORARY TABLES",
    "LOCK TABLES",
    "EXECUTE",
    "REPLICATION SLAVE",
    "BINLOG MONITOR",
    "CREATE VIEW",
    "SHOW VIEW",
    "CREATE ROUTINE",
    "ALTER ROUTINE",
    "CREATE USER",
    "EVENT",
    "TRIGGER",
    "CREATE TABLESPACE",
    "DELETE HISTORY",
    "SET USER",
    "FEDERATED ADMIN",
    "CONNECTION ADMIN",
    "READ_ONLY ADMIN",
    "REPLICATION SLAVE ADMIN",
    "REPLICATION MASTER ADMIN",
    "BINLOG ADMIN",
    "BINLOG REPLAY",
    "SLAVE MONITOR",
    "SHOW CREATE ROUTINE",
)
_EVERY_BIT = 2**64 - 1  # how mariadb-install-db writes root's
_SHOW_CREATE_ROUTINE = "SHOW CREATE ROUTINE"  # since 11.3; its column in mysql.db tells
_GLOBAL_PRIV = "SELECT User, Host, Priv FROM mysql.global_priv"
_FINER = (
    "SELECT User, Host FROM mysql.tables_priv UNION SELECT User, Host FROM mysql.columns_priv "
    "UNION SELECT User, Host FROM mysql.procs_priv"
)


@dataclass(frozen=True, slots=True)
class Privileges:
    accounts: Mapping[tuple[str, str], AccountSeen] = field(default_factory=dict)
    all_on_databases: frozenset[str] = frozenset()
    all_everywhere: frozenset[str] = frozenset()


def read(ask: Ask) -> Privileges:
    """All accounts (no roles). `ask` runs a query and returns rows by column name; what it raises comes through."""
    columns = [row["Field"] for row in ask("SHOW COLUMNS FROM mysql.db LIKE '%\\_priv'")]
    on_databases = frozenset(_column_privilege(column) for column in columns) - {GRANT_OPTION}
    everywhere = frozenset(_GLOBAL_BITS) - {GRANT_OPTION}
    if _SHOW_CREATE_ROUTINE not in on_databases:
        everywhere -= {_SHOW_CREATE_ROUTINE}

    grants: dict[tuple[str, str], dict[str, frozenset[str]]] = {}
    for row in ask("SELECT * FROM mysql.db"):
        held = frozenset(_column_privilege(column) for column in columns if row[column] == "Y")
        if held:
            grants.setdefault((row["User"], row["Host"]), {})[row["Db"]] = held
    finer = {(row["User"], row["Host"]) for row in ask(_FINER)}
    roles: dict[tuple[str, str], set[str]] = {}
    for row in ask("SELECT User, Host, Role FROM mysql.roles_mapping"):
        roles.setdefault((row["User"], row["Host"]), set()).add(row["Role"])

    accounts = {}
    for row in ask(_GLOBAL_PRIV):
        who = (row["User"], row["Host"])
        record = json.loads(row["Priv"])
        if record.get("is_role") or not row["Host"]:
            continue
        access = int(record.get("access", 0))
        if globally := everywhere | {GRANT_OPTION} if access == _EVERY_BIT else _from_bits(access):
            grants.setdefault(who, {})[EVERYWHERE] = globally
        accounts[who] = AccountSeen(
            _native_hash(record), grants.get(who, {}), who in finer, frozenset(roles.get(who, ()))
        )
    return Privileges(accounts, on_databases, everywhere)


def _native_hash(record: Row) -> str | None:
    """The hash of the password where that is the one way to log in, else None."""
    if record.get("auth_or") or record.get("plugin", "") not in ("", "mysql_native_password"):
        return None
    return str(record.get("authentication_string", ""))


def _column_privilege(column: str) -> str:
    """`Create_view_priv` → `CREATE VIEW`."""
    name = column.removesuffix("_priv").replace("_", " ").upper()
    return {"GRANT": GRANT_OPTION, "CREATE TMP TABLE": "CREATE TEMPORARY TABLES"}.get(name, name)


def _from_bits(access: int) -> frozenset[str]:
    """The privileges of a mask. A bit that we do not know gets a name that no wish can match: it is not overlooked."""
    bits = (bit for bit in range(access.bit_length()) if access >> bit & 1)
    return frozenset(_GLOBAL_BITS[bit] if bit < len(_GLOBAL_BITS) else f"BIT {bit}" for bit in bits)
