"""How often somebody may try to log in. Pure: time is passed in, nothing is done here but deciding.

Failures are counted for an account from one address, for an address, and for an account. Up to a number of them nobody
waits; then each further attempt waits twice as long as the one before. Someone who guesses at one account from one
address soon waits a quarter of an hour for each guess, while its owner logs in from elsewhere as always: what one
address can do to an account does not come near the account's own limit.

An attempt counts as failed from the moment that it is let through until it is known to be good: a thousand at once are
not a thousand free ones.
"""

from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address

WINDOW_S = 15 * 60.0
"""Failures are forgotten when there was none for this long, counted from when the next attempt was allowed."""
LONGEST_S = 15 * 60.0
ENTRIES_MAX = 10_000
"""In each table: some 2 MB at most. What was quiet for the longest time goes first."""


@dataclass(frozen=True, slots=True)
class Limit:
    """`free` failures cost nothing; the wait after them begins with 1 s, doubles, and ends at `longest_s`."""

    free: int
    longest_s: float = LONGEST_S

    def wait_s(self, failures: int) -> float:
        """How long after the last of so many failures the next attempt is allowed."""
        over = failures - self.free
        return min(2.0 ** min(over, 20), self.longest_s) if over >= 0 else 0.0


PAIR = Limit(free=5)
ADDRESS = Limit(free=50)
ACCOUNT = Limit(free=200, longest_s=30.0)
"""Many addresses together slow each other down, and the owner with them, but not for long."""


@dataclass(slots=True)
class _Record:
    failures: int
    last_s: float


@dataclass(slots=True)
class _Table:
    limit: Limit
    records: dict[str, _Record] = field(default_factory=dict)
    """In the order of their last failures."""

    def free_at(self, key: str, now: float) -> float:
        record = self._fresh(key, now)
        return record.last_s + self.limit.wait_s(record.failures) if record is not None else now

    def failed(self, key: str, now: float) -> None:
        record = self._fresh(key, now)
        self.records.pop(key, None)
        if len(self.records) >= ENTRIES_MAX:
            del self.records[next(iter(self.records))]
        self.records[key] = _Record(record.failures + 1 if record is not None else 1, now)

    def taken_back(self, key: str) -> None:
        record = self.records.get(key)
        if record is not None:
            record.failures -= 1
            if record.failures <= 0:
                del self.records[key]

    def _fresh(self, key: str, now: float) -> _Record | None:
        record = self.records.get(key)
        if record is not None and now >= record.last_s + self.limit.wait_s(record.failures) + WINDOW_S:
            del self.records[key]
            return None
        return record


class Throttle:
    """Not for many threads. Times are seconds of any clock that does not go back."""

    def __init__(self) -> None:
        self._pairs, self._addresses, self._accounts = _Table(PAIR), _Table(ADDRESS), _Table(ACCOUNT)

    def attempt(self, account: str, address: str, now: float) -> float:
        """0.0: go on, and the attempt counts as failed until `succeeded` or `withdrawn` says otherwise. Else the
        seconds to wait; then it is not to be looked at, and is not counted."""
        keys = self._keys(account, address)
        wait_s = max(table.free_at(key, now) for table, key in keys) - now
        if wait_s > 0:
            return wait_s
        for table, key in keys:
            table.failed(key, now)
        return 0.0

    def succeeded(self, account: str, address: str) -> None:
        """The attempt was good: this account's failures from this address are forgotten."""
        self.withdrawn(account, address)
        self._pairs.records.pop(_pair(account, address), None)

    def withdrawn(self, account: str, address: str) -> None:
        """The attempt was not looked at after all."""
        for table, key in self._keys(account, address):
            table.taken_back(key)

    def _keys(self, account: str, address: str) -> tuple[tuple[_Table, str], ...]:
        return (
            (self._pairs, _pair(account, address)),
            (self._addresses, network(address)),
            (self._accounts, account),
        )

    def __len__(self) -> int:
        """Records kept."""
        return sum(len(table.records) for table in (self._pairs, self._addresses, self._accounts))


def _pair(account: str, address: str) -> str:
    return f"{network(address)} {account}"


def network(address: str) -> str:
    """What counts as one address: with IPv6 its /64, since whoever has one address has all of those."""
    try:
        found = ip_address(address)
    except ValueError:
        return address[:64]
    if isinstance(found, IPv6Address) and found.ipv4_mapped is None:
        return f"{found.packed[:8].hex()}::/64"
    return str(found.ipv4_mapped if isinstance(found, IPv6Address) else found)
