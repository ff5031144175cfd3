"""Steps as SQL for MariaDB. Pure.

Identifiers stand in backticks, backticks within doubled; everything else is a parameter that PyMySQL quotes. Words that
are neither (privileges) come from the closed list of `agent.privileges`, and are checked against it once more.
"""

from collections.abc import Sequence

from agent import privileges as known
from agent.mysqlhash import native_hash
from agent.steps import (
    EVERYWHERE,
    AlterDatabase,
    CreateAccount,
    CreateDatabase,
    DropAccount,
    DropDatabase,
    Grant,
    RenameAccount,
    Revoke,
    RevokeAll,
    RevokeRole,
    SetPassword,
    Step,
)

Statement = tuple[str, tuple[str, ...]]
"""SQL with `%s` for each parameter, and the parameters."""


def quoted(identifier: str) -> str:
    """An identifier for a statement that is formatted with parameters, hence the doubled per cent signs."""
    return "`" + identifier.replace("`", "``").replace("%", "%%") + "`"


def render(step: Step) -> Statement:
    """The statement that does `step`. Raises `ValueError` for a privilege that is not on the list."""
    if isinstance(step, CreateDatabase | AlterDatabase | DropDatabase):
        return _on_database(step)
    if isinstance(step, Grant | Revoke | RevokeAll | RevokeRole):
        return _on_grants(step)
    return _on_account(step)


def _on_database(step: CreateDatabase | AlterDatabase | DropDatabase) -> Statement:
    match step:
        case CreateDatabase(name, charset, collation):
            # IF NOT EXISTS: somebody may have been faster. The next look alters what differs.
            return _with_properties(f"CREATE DATABASE IF NOT EXISTS {quoted(name)}", charset, collation)
        case AlterDatabase(name, charset, collation):
            return _with_properties(f"ALTER DATABASE {quoted(name)}", charset, collation)
        case DropDatabase(name):
            return f"DROP DATABASE IF EXISTS {quoted(name)}", ()


def _on_account(step: CreateAccount | SetPassword | RenameAccount | DropAccount) -> Statement:
    match step:
        case CreateAccount(name, host, password):
            # 'invalid' is the hash of no password, as MariaDB itself does it for root.
            hashed = "invalid" if password is None else native_hash(password)
            return "CREATE USER IF NOT EXISTS %s@%s IDENTIFIED VIA mysql_native_password USING %s", (name, host, hashed)
        case SetPassword(name, host, password):
            return "ALTER USER %s@%s IDENTIFIED BY PASSWORD %s", (name, host, native_hash(password))
        case RenameAccount(name, host, new_host):
            return "RENAME USER %s@%s TO %s@%s", (name, host, name, new_host)
        case DropAccount(name, host):
            return "DROP USER IF EXISTS %s@%s", (name, host)


def _on_grants(step: Grant | Revoke | RevokeAll | RevokeRole) -> Statement:
    match step:
        case Grant(name, host, pattern, privileges):
            words = _words([word for word in privileges if word != known.GRANT_OPTION]) or "USAGE"
            option = " WITH GRANT OPTION" if known.GRANT_OPTION in privileges else ""
            return f"GRANT {words} ON {_scope(pattern)} TO %s@%s{option}", (name, host)
        case Revoke(name, host, pattern, privileges):
            return f"REVOKE {_words(privileges)} ON {_scope(pattern)} FROM %s@%s", (name, host)
        case RevokeAll(name, host):
            return "REVOKE ALL PRIVILEGES, GRANT OPTION FROM %s@%s", (name, host)
        case RevokeRole(name, host, role):
            return f"REVOKE {quoted(role)} FROM %s@%s", (name, host)


def _with_properties(start: str, charset: str | None, collation: str | None) -> Statement:
    parts, parameters = [start], []
    if charset is not None:
        parts.append("CHARACTER SET %s")
        parameters.append(charset)
    if collation is not None:
        parts.append("COLLATE %s")
        parameters.append(collation)
    return " ".join(parts), tuple(parameters)


def _scope(pattern: str) -> str:
    return "*.*" if pattern == EVERYWHERE else f"{quoted(pattern)}.*"


def _words(privileges: Sequence[str]) -> str:
    if strange := set(privileges) - known.ON_DATABASES - known.EVERYWHERE_ONLY:
        raise ValueError(f"not a known privilege: {sorted(strange)}")
    return ", ".join(privileges)
