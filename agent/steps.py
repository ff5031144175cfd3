"""What the agent may do to a database server: one small value per statement. `agent.sql` turns each into SQL.

`Grant` and `Revoke` name a database as the server's privilege tables do, as a *pattern* (see `pattern_of`); `*` is all.
"""

from dataclasses import dataclass, field

EVERYWHERE = "*"


@dataclass(frozen=True, slots=True)
class CreateDatabase:
    name: str
    charset: str | None
    collation: str | None


@dataclass(frozen=True, slots=True)
class AlterDatabase:
    name: str
    charset: str | None
    collation: str | None


@dataclass(frozen=True, slots=True)
class DropDatabase:
    name: str


@dataclass(frozen=True, slots=True)
class CreateAccount:
    """Without a password nobody can log in until one is set."""

    name: str
    host: str
    password: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class SetPassword:
    name: str
    host: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class RenameAccount:
    """Moves an account to another host part; password and grants go with it."""

    name: str
    host: str
    new_host: str


@dataclass(frozen=True, slots=True)
class DropAccount:
    name: str
    host: str


@dataclass(frozen=True, slots=True)
class Grant:
    name: str
    host: str
    pattern: str
    privileges: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Revoke:
    name: str
    host: str
    pattern: str
    privileges: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RevokeAll:
    """Takes every privilege away, also those on single tables, columns and routines."""

    name: str
    host: str


@dataclass(frozen=True, slots=True)
class RevokeRole:
    name: str
    host: str
    role: str


Step = (
    CreateDatabase
    | AlterDatabase
    | DropDatabase
    | CreateAccount
    | SetPassword
    | RenameAccount
    | DropAccount
    | Grant
    | Revoke
    | RevokeAll
    | RevokeRole
)


def pattern_of(database: str) -> str:
    r"""The pattern that matches just `database`: in GRANT `_` and `%` are wildcards unless `\` stands before them."""
    return "".join(f"\\{c}" if c in "\\_%" else c for c in database)


def name_of(pattern: str) -> str | None:
    """The one database that `pattern` matches; None where it has wildcards."""
    name, rest = [], iter(pattern)
    for c in rest:
        if c in "_%":
            return None
        name.append(next(rest, c) if c == "\\" else c)
    return "".join(name)
