"""What is told of an instance. Pure."""

from collections.abc import Mapping, Sequence

from agent import privileges as known
from agent.mariadb import Look
from agent.plan import SYSTEM_ACCOUNTS, SYSTEM_DATABASES, AccountSeen, Held
from agent.settings import InstanceSettings
from agent.steps import EVERYWHERE, name_of
from shared.messages import Grant, ObservedAccount, ObservedDatabase, ObservedInstance, Result


def down(settings: InstanceSettings, message: str) -> ObservedInstance:
    """An instance that cannot be reached: why, and nothing else."""
    return ObservedInstance(**_address(settings), state="down", message=message)


def up(
    settings: InstanceSettings,
    look: Look,
    sizes: Mapping[str, int],
    database_results: Sequence[Result],
    account_results: Sequence[Result],
) -> ObservedInstance:
    """An instance as it was seen. The server's own databases are left out."""
    vitals, held = look.vitals, look.held
    databases = tuple(
        ObservedDatabase(name=name, charset=seen.charset, collation=seen.collation, size_bytes=sizes.get(name, 0))
        for name, seen in sorted(held.databases.items())
        if name.lower() not in SYSTEM_DATABASES
    )
    accounts = tuple(
        ObservedAccount(name=name, host=host, grants=_grants(seen, held), reserved=_reserved(name, held) or None)
        for (name, host), seen in sorted(held.accounts.items())
    )
    return ObservedInstance(
        **_address(settings),
        state="up",
        message=held.accounts_hidden,
        version=vitals.version,
        role=vitals.role,
        read_only=vitals.read_only,
        uptime_s=vitals.uptime_s,
        positions=dict(vitals.positions),
        databases=databases,
        accounts=accounts,
        database_results=tuple(database_results),
        account_results=tuple(account_results),
    )


def _reserved(name: str, held: Held) -> bool:
    return name.lower() in SYSTEM_ACCOUNTS or name == held.own_account


def essence(look: Look) -> tuple[object, ...]:
    """What matters of a look: two that are equal here need no report of their own.

    Left out is what changes by itself: uptime, positions in the log, how far a replica is behind.
    """
    vitals = look.vitals
    replication = {
        key: value
        for key, value in vitals.positions.items()
        if key.startswith("replication.") and not key.endswith("behind_s")
    }
    return (vitals.version, vitals.role, vitals.read_only, replication, look.held)


def _address(settings: InstanceSettings) -> dict[str, str | int | None]:
    return {
        "id": settings.id,
        "engine": settings.engine,
        "host": settings.host,
        "port": settings.port,
        "socket": str(settings.socket) if settings.socket else None,
    }


def _grants(seen: AccountSeen, held: Held) -> tuple[Grant, ...]:
    grants = []
    for pattern, privileges in sorted(seen.grants.items()):
        everywhere = pattern == EVERYWHERE
        every = held.all_everywhere if everywhere else held.all_on_databases
        words = (privileges - every) | {known.ALL} if every and every <= privileges else privileges
        # A pattern with wildcards (somebody else's) is shown as it is.
        database = EVERYWHERE if everywhere else name_of(pattern) or pattern
        grants.append(Grant(database=database, privileges=tuple(sorted(words))))
    return tuple(grants)
