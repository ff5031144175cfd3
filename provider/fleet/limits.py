"""How much each user of the broker may say to us. What is over it is dropped unread; who goes on is cut off for a time.

A message costs its reader far more than its sender. So each broker user has two buckets that fill with time, one of
messages and one of bytes. Whoever finds them empty in several seconds on end, or in two by far, is suspended: its
broker user goes, and its connections with it, for half a minute first, twice as long each time, an hour at most.
"""

import threading
from collections.abc import Iterable
from dataclasses import dataclass

from immutables import Map

from provider.core.state import State
from shared import messages as m
from shared.bus import Delivery

DEATH = "x-death"
"""The header of a dead letter."""
DEAD_LETTERS = "?dead letters"
"""What counts as the sender of all of them: whoever the broker knows as theirs did not send them here."""

MESSAGES_PER_S, BYTES_PER_S = 50.0, 2.0 * 1024 * 1024
"""An agent says something every two seconds, and a few times a second while it carries out wishes. Can be set:
`agents.messages_per_s`, `agents.bytes_per_s`."""
MESSAGES_BURST_S, BYTES_BURST_S = 10.0, 16.0
"""Buckets hold what flows in in so many seconds. The largest message is two seconds' worth of bytes."""
CUT_AFTER = 5
"""Looks, one a second, that find somebody over the limit one after another."""
GROSS, GROSS_LOOKS = 20, 3
"""So many times over the limit in one second is no mistake, and counts for as many looks: before others are not heard
any more, and are taken for offline."""
FIRST_S, LONGEST_S = 30.0, 3600.0
FORGET_S = 3600.0
"""After so long without a fault the next suspension is a short one again."""


@dataclass(frozen=True, slots=True)
class Limited:
    """What others are shown of somebody who was over the limit. `until_s` (monotonic): suspended until then."""

    dropped: int
    until_s: float | None = None


@dataclass(slots=True)
class _Bucket:
    messages: float
    size: float
    at_s: float
    dropped: int = 0
    fresh: int = 0
    """Dropped since the last look."""
    fresh_bytes: int = 0
    looks: int = 0
    """Consecutive ones that found it over the limit."""
    fault_s: float = float("-inf")
    penalty_s: float = 0.0
    until_s: float | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a look found: who was over the limit for the first time, who is cut off now, who may come back."""

    warned: tuple[str, ...] = ()
    cut: tuple[str, ...] = ()
    back: tuple[str, ...] = ()


class Limiter:
    """`admit` is called by the link's thread, the rest by the hub's; `suspended` by any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._buckets: dict[str, _Bucket] = {}
        self._rates = (MESSAGES_PER_S, BYTES_PER_S)
        self.suspended: frozenset[str] = frozenset()
        self.shown: Map[str, Limited] = Map()
        """Everybody who was over the limit; replaced by `look`."""

    def admit(self, user: str, size: int, now_s: float) -> bool:
        """Whether a message of `size` bytes by this user is to be read."""
        with self._lock:
            bucket, (messages, bytes_) = self._buckets.get(user), self._rates
            if bucket is None:
                bucket = self._buckets[user] = _Bucket(messages * MESSAGES_BURST_S, bytes_ * BYTES_BURST_S, now_s)
            passed_s, bucket.at_s = max(0.0, now_s - bucket.at_s), now_s
            bucket.messages = min(messages * MESSAGES_BURST_S, bucket.messages + passed_s * messages)
            bucket.size = min(bytes_ * BYTES_BURST_S, bucket.size + passed_s * bytes_)
            if bucket.until_s is None and bucket.messages >= 1 and bucket.size >= size:
                bucket.messages -= 1
                bucket.size -= size
                return True
            bucket.dropped += 1
            bucket.fresh += 1
            bucket.fresh_bytes += size
            return False

    def look(self, state: State, now_s: float, *, cuts: bool) -> Verdict:
        """Once a second. `cuts`: this node leads, and may have agents cut off."""
        self._rates = (
            _setting(state, "agents.messages_per_s", MESSAGES_PER_S),
            _setting(state, "agents.bytes_per_s", BYTES_PER_S),
        )
        warned, cut, back = [], [], []
        with self._lock:
            for user, bucket in list(self._buckets.items()):
                if bucket.until_s is not None and (now_s >= bucket.until_s or not cuts):
                    bucket.until_s = None
                    back.append(user)
                elif bucket.fresh and bucket.until_s is None:
                    warned += [user] if bucket.dropped == bucket.fresh else []
                    gross = bucket.fresh > GROSS * self._rates[0] or bucket.fresh_bytes > GROSS * self._rates[1]
                    bucket.looks += GROSS_LOOKS if gross else 1
                    if bucket.looks >= CUT_AFTER and cuts and state.get("agent", user) is not None:
                        _suspend(bucket, now_s)
                        cut.append(user)
                    bucket.fault_s = now_s
                else:
                    bucket.looks = 0
                    if now_s - max(bucket.at_s, bucket.fault_s) > FORGET_S:
                        del self._buckets[user]
                bucket.fresh = bucket.fresh_bytes = 0
            shown = {user: Limited(b.dropped, b.until_s) for user, b in self._buckets.items() if b.dropped}
        if shown != dict(self.shown):
            self.shown = Map(shown)
        self.suspended = frozenset(user for user, limited in shown.items() if limited.until_s is not None)
        return Verdict(tuple(warned), tuple(cut), tuple(back))

    def forget(self, users: Iterable[str]) -> None:
        """They are no members any more."""
        with self._lock:
            for user in users:
                self._buckets.pop(user, None)


def _suspend(bucket: _Bucket, now_s: float) -> None:
    again = now_s - bucket.fault_s < FORGET_S and bucket.penalty_s > 0
    bucket.penalty_s = min(LONGEST_S, bucket.penalty_s * 2) if again else FIRST_S
    bucket.until_s, bucket.looks = now_s + bucket.penalty_s, 0


def _setting(state: State, key: str, default: float) -> float:
    found = state.get("setting", key)
    return float(found.spec["value"]) if found is not None else default


def said_by(delivery: Delivery) -> str:
    """The broker's user who counts as the sender, for whom the broker itself vouches: an agent may publish to exchanges
    of its own and, in `agents.up`, under keys with its own name. A dead letter's key is whatever its queue says."""
    if delivery.exchange not in (m.AGENTS_UP, m.PROVIDERS):  # one of an agent's own, that it has bound to ours
        return m.agent_of(delivery.exchange.rpartition(".")[0]) or "?"
    if DEATH in delivery.headers:
        return DEAD_LETTERS
    agent = m.agent_of(delivery.key) if delivery.exchange == m.AGENTS_UP else None
    return agent or delivery.user_id or "?"
