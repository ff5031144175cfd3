"""From what is wished and what a server holds: what to do. Pure; see DESIGN.md beside it.

What was not wished is not looked at: no step ever names a database or an account that no wish names, except the former
host of a managed account.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

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
    pattern_of,
)
from shared.messages import DesiredAccount, DesiredDatabase, DesiredInstance, Phase

SYSTEM_DATABASES = frozenset({"mysql", "information_schema", "performance_schema", "sys"})
SYSTEM_ACCOUNTS = frozenset(
    {"root", "mariadb.sys", "mysql", "mysql.sys", "mysql.session", "mysql.infoschema", "public"}
)

# Columns of MariaDB's privilege tables: mysql.db.Db, mysql.global_priv.User and .Host.
DATABASE_NAME_CHARACTERS = 64
ACCOUNT_NAME_CHARACTERS = 128
HOST_CHARACTERS = 255


@dataclass(frozen=True, slots=True)
class DatabaseSeen:
    charset: str
    collation: str


@dataclass(frozen=True, slots=True)
class AccountSeen:
    """`password_hash` is that of mysql_native_password; None where the account logs in in another way as well."""

    password_hash: str | None = field(repr=False)
    grants: Mapping[str, frozenset[str]]
    """By pattern, `*` for those on everything. Without `USAGE`."""
    finer_grants: bool = False
    """It also has privileges on single tables, columns or routines."""
    roles: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Held:
    """What a server holds, as far as plans need it."""

    databases: Mapping[str, DatabaseSeen] = field(default_factory=dict)
    accounts: Mapping[tuple[str, str], AccountSeen] = field(default_factory=dict)
    replica: bool | None = False
    """None where the server does not let us know."""
    read_only: bool = False
    accounts_hidden: str | None = None
    """Why the agent may not read the privilege tables; None where it may."""
    own_account: str = ""
    """Name of the account that the agent itself uses."""
    lower_case_names: bool = False
    """`lower_case_table_names` is not 0: the server keeps or compares names of databases in lower case."""
    utf8: str = "utf8mb3"
    """What the server takes `utf8` for."""
    all_on_databases: frozenset[str] = known.ON_DATABASES - {known.ALL, known.GRANT_OPTION}
    all_everywhere: frozenset[str] = all_on_databases | known.EVERYWHERE_ONLY
    """What `ALL PRIVILEGES` comes to on this server."""


@dataclass(frozen=True, slots=True)
class Work:
    """One wish and what it takes: with no steps left it has come true, and `phase` is the result.

    `impossible` says why it cannot come true as it stands, and what to do; then there are no steps.
    """

    kind: Literal["database", "account"]
    name: str
    version: int
    phase: Phase
    steps: tuple[Step, ...] = ()
    impossible: str | None = None
    hold: bool = False
    """The steps are not to be done: they are what would have to be."""


class Impossible(Exception):
    """A wish that this server cannot fulfil. The text is for the operator."""


def plan(desired: DesiredInstance, held: Held, managed: Mapping[str, str]) -> tuple[Work, ...]:
    """The work for each wish, databases first, in the order of the wishes.

    `managed` maps the name of each account that was wished for before to the host part that it was given then: when a
    wish now names another host, the account at the former one is ours to move. Without that knowledge it is left alone.
    """
    works = []
    for database in desired.databases:
        phase: Phase = "dropped" if database.drop else "ready"
        try:
            steps = _fenced(tuple(_database_steps(database, held)), held)
            works.append(Work("database", database.name, database.version, phase, steps, hold=database.hold is True))
        except Impossible as error:
            works.append(_impossible("database", database, error))
    for account in desired.accounts:
        phase = "dropped" if account.drop else "ready"
        try:
            steps = _fenced(tuple(_account_steps(account, held, managed.get(account.name))), held)
            works.append(Work("account", account.name, account.version, phase, steps, hold=account.hold is True))
        except Impossible as error:
            works.append(_impossible("account", account, error))
    return tuple(works)


def _impossible(kind: Literal["database", "account"], wish: DesiredDatabase | DesiredAccount, why: Impossible) -> Work:
    phase: Phase = "held" if wish.hold else "failed"
    return Work(kind, wish.name, wish.version, phase, impossible=str(why), hold=wish.hold is True)


def _fenced(steps: tuple[Step, ...], held: Held) -> tuple[Step, ...]:
    # The agent's account may write even where read_only is set. It must not: a replica would differ from its primary
    # for good, and a server that somebody set read-only is to stay as it is.
    if steps and held.replica:
        raise Impossible("this server is a replica; wish it on its primary and replication will bring it here")
    if steps and held.replica is None:
        raise Impossible("the agent may not see whether this server is a replica; grant its account SLAVE MONITOR")
    if steps and held.read_only:
        raise Impossible("this server is read-only; it will be done once read_only is off")
    return steps


# ── databases ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _database_steps(wish: DesiredDatabase, held: Held) -> Iterator[Step]:
    check_database_name(wish.name)
    name = _stored_name(wish.name, held)
    seen = held.databases.get(name)
    if wish.drop:
        if seen is not None:
            yield DropDatabase(name)
    elif seen is None:
        yield CreateDatabase(name, wish.charset, wish.collation)
    elif not _same_properties(wish, seen, held.utf8):
        yield AlterDatabase(name, wish.charset, wish.collation)


def check_database_name(name: str) -> None:
    """Raises `Impossible` for a name that is the server's own or that no server can hold."""
    if name.lower() in SYSTEM_DATABASES:
        raise Impossible(f"{name} belongs to the server itself and is never touched; choose another name")
    if name.startswith("#mysql50#"):  # the server takes what follows for the name of a directory
        raise Impossible("names that begin with #mysql50# are internal to the server; choose another name")
    _check_text("a database's name", name, DATABASE_NAME_CHARACTERS)
    if name.endswith(" "):
        raise Impossible("a database's name cannot end with a space; choose another name")


def _check_text(what: str, text: str, longest: int) -> None:
    if not 1 <= len(text) <= longest:
        raise Impossible(f"{what} has 1 to {longest} characters, this one {len(text)}; choose another")
    if any(ord(c) < 0x20 or ord(c) == 0x7F for c in text):
        raise Impossible(f"{what} cannot hold control characters; choose another")
    # The server's own tables are utf8mb3. Were such a name sent, it could end as another one.
    if any(ord(c) > 0xFFFF or 0xD800 <= ord(c) <= 0xDFFF for c in text):
        raise Impossible(f"{what} cannot hold characters beyond U+FFFF, such as emoji; choose another")


def _stored_name(name: str, held: Held) -> str:
    return name.lower() if held.lower_case_names else name


def _same_properties(wish: DesiredDatabase, seen: DatabaseSeen, utf8: str) -> bool:
    charset = _full(seen.charset, utf8)
    if wish.charset is not None and _full(wish.charset, utf8) != charset:
        return False
    if wish.collation is None:
        return True
    # Since 10.10 a collation may be named without its character set: uca1400_ai_ci.
    wished, collation = _full(wish.collation, utf8), _full(seen.collation, utf8)
    return collation in (wished, f"{charset}_{wished}")


def _full(name: str, utf8: str) -> str:
    """`utf8` and `utf8_…` are nicknames; which character set they stand for is the server's setting."""
    head, underscore, rest = name.lower().partition("_")
    return (utf8 if head == "utf8" else head) + underscore + rest


# ── accounts ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _account_steps(wish: DesiredAccount, held: Held, former_host: str | None) -> Iterator[Step]:
    host = stored_host(wish.host)
    check_account(wish.name, host, held.own_account)
    if held.accounts_hidden is not None:
        raise Impossible(held.accounts_hidden)
    former = None if former_host in (None, host) else held.accounts.get((wish.name, former_host or ""))
    seen = held.accounts.get((wish.name, host))
    if wish.drop:
        if former is not None and former_host is not None:
            yield DropAccount(wish.name, former_host)
        if seen is not None:
            yield DropAccount(wish.name, host)
        return
    wished = _wished_grants(wish, held)
    if former is not None and former_host is not None:
        if seen is None:
            yield RenameAccount(wish.name, former_host, host)
            seen = former
        else:
            yield DropAccount(wish.name, former_host)
    if seen is None:
        yield CreateAccount(wish.name, host, wish.password)
        seen = AccountSeen(None, {})
    elif wish.password is not None and seen.password_hash != native_hash(wish.password):
        yield SetPassword(wish.name, host, wish.password)
    yield from _grant_steps(wish.name, host, seen, wished, held)


def stored_host(host: str) -> str:
    """A host part as the server keeps it."""
    return host.lower()


def check_account(name: str, host: str, own_account: str) -> None:
    """Raises `Impossible` for an account that is the server's or the agent's own, or that no server can hold."""
    if name.lower() in SYSTEM_ACCOUNTS or name == own_account:
        whose = "the agent itself" if name == own_account else "the server itself"
        raise Impossible(f"the account {name} belongs to {whose} and is never touched; choose another name")
    _check_text("an account's name", name, ACCOUNT_NAME_CHARACTERS)
    _check_text("an account's host", host, HOST_CHARACTERS)


def _wished_grants(wish: DesiredAccount, held: Held) -> dict[str, frozenset[str]]:
    """The wished privileges by pattern, in MariaDB's words. Raises `Impossible` for those that are none."""
    wished: dict[str, frozenset[str]] = {}
    for grant in wish.grants:
        everywhere = grant.database == EVERYWHERE
        privileges = known.canonical(grant.privileges)
        allowed = known.ON_DATABASES | known.EVERYWHERE_ONLY if everywhere else known.ON_DATABASES
        if grant.database.lower() in SYSTEM_DATABASES:
            allowed = known.READING
        if unknown := sorted(privileges - allowed):
            where = "all databases" if everywhere else grant.database
            names = ", ".join(name[:40] for name in unknown[:5])
            raise Impossible(f"not a privilege that can be granted on {where}: {names}; correct the account's grants")
        pattern = EVERYWHERE if everywhere else _pattern(grant.database, held)
        wished[pattern] = wished.get(pattern, frozenset()) | privileges
    return {pattern: privileges for pattern, privileges in wished.items() if privileges}


def _pattern(database: str, held: Held) -> str:
    if database.lower() not in SYSTEM_DATABASES:
        check_database_name(database)
    pattern = pattern_of(_stored_name(database, held))
    if len(pattern) > DATABASE_NAME_CHARACTERS:
        # An underscore that is not escaped stands for any character: the grant would reach further than was wished.
        raise Impossible(
            f"privileges on {database} cannot be granted exactly: with its underscores escaped the name has more than "
            f"{DATABASE_NAME_CHARACTERS} characters; choose a shorter name or grant on all databases"
        )
    return pattern


def _grant_steps(
    name: str, host: str, seen: AccountSeen, wished: Mapping[str, frozenset[str]], held: Held
) -> Iterator[Step]:
    has = seen.grants
    for role in sorted(seen.roles):
        yield RevokeRole(name, host, role)
    strange = any(privileges - known.ON_DATABASES - known.EVERYWHERE_ONLY for privileges in has.values())
    if seen.finer_grants or strange:
        # Nothing that we could name one by one: all goes, and what was wished comes back a few milliseconds later.
        yield RevokeAll(name, host)
        has = {}
    # Grants first: an account that is to keep a privilege in another form never lacks it in between.
    for pattern, privileges in wished.items():
        every = held.all_everywhere if pattern == EVERYWHERE else held.all_on_databases
        missing = known.expand(privileges, every) - has.get(pattern, frozenset())
        if missing:
            words = {known.ALL} | (missing & {known.GRANT_OPTION}) if known.ALL in privileges else missing
            yield Grant(name, host, pattern, tuple(sorted(words)))
    for pattern, privileges in has.items():
        every = held.all_everywhere if pattern == EVERYWHERE else held.all_on_databases
        extra = privileges - known.expand(wished.get(pattern, frozenset()), every)
        if extra:
            yield Revoke(name, host, pattern, tuple(sorted(extra)))
