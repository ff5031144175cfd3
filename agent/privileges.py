"""The privileges that a wish may name, in MariaDB's words. The list is closed: nothing else reaches a statement.

Source: MariaDB's manual, "GRANT". A privilege that the server is too old for is refused by the server itself.
"""

from collections.abc import Iterable

ALL = "ALL PRIVILEGES"
GRANT_OPTION = "GRANT OPTION"

ON_DATABASES = frozenset(
    {
        "ALTER",
        "ALTER ROUTINE",
        "CREATE",
        "CREATE ROUTINE",
        "CREATE TEMPORARY TABLES",
        "CREATE VIEW",
        "DELETE",
        "DELETE HISTORY",
        "DROP",
        "EVENT",
        "EXECUTE",
        "INDEX",
        "INSERT",
        "LOCK TABLES",
        "REFERENCES",
        "SELECT",
        "SHOW CREATE ROUTINE",
        "SHOW VIEW",
        "TRIGGER",
        "UPDATE",
        ALL,
        GRANT_OPTION,
    }
)
EVERYWHERE_ONLY = frozenset(
    {
        "BINLOG ADMIN",
        "BINLOG MONITOR",
        "BINLOG REPLAY",
        "CONNECTION ADMIN",
        "CREATE TABLESPACE",
        "CREATE USER",
        "FEDERATED ADMIN",
        "FILE",
        "PROCESS",
        "READ_ONLY ADMIN",
        "RELOAD",
        "REPLICATION MASTER ADMIN",
        "REPLICATION SLAVE",
        "REPLICATION SLAVE ADMIN",
        "SET USER",
        "SHOW DATABASES",
        "SHUTDOWN",
        "SLAVE MONITOR",
        "SUPER",
    }
)
READING = frozenset({"SELECT", "SHOW VIEW", "EXECUTE"})
"""What may be granted on the server's own databases: to write there is to own the server."""

_SYNONYMS = {
    "ALL": ALL,
    "DELETE VERSIONING ROWS": "DELETE HISTORY",
    "REPLICA MONITOR": "SLAVE MONITOR",
    "REPLICATION CLIENT": "BINLOG MONITOR",
    "REPLICATION REPLICA": "REPLICATION SLAVE",
    "REPLICATION REPLICA ADMIN": "REPLICATION SLAVE ADMIN",
    "READ ONLY ADMIN": "READ_ONLY ADMIN",
}


def canonical(privileges: Iterable[str]) -> frozenset[str]:
    """The privileges in MariaDB's own words; `USAGE` means none and goes. Unknown ones stay as they are."""
    words = (" ".join(privilege.upper().split()) for privilege in privileges)
    return frozenset(_SYNONYMS.get(word, word) for word in words) - {"USAGE"}


def expand(privileges: frozenset[str], every: frozenset[str]) -> frozenset[str]:
    """`privileges` with `ALL PRIVILEGES` replaced by `every`."""
    return (privileges - {ALL}) | every if ALL in privileges else privileges
