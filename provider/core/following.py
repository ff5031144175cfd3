"""How a node has followed the log: since when without a break, and whether the log had lost nothing by then. Pure.

A log that loses its end breaks the connection of everybody who reads it. So who has read it over one connection knows
of whatever was in it meanwhile, and that it is still there; of what was before it knows nothing: the end may have been
lost, and with it what others had accepted. A primary that writes says how much there was (`Chain.heard`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from provider.core.entries import Barrier, LogRecord

MARKS = 64
"""Barriers that are remembered: of the last quarter of a minute at the least."""
AWAY_S = 30.0
"""Who was silent for so long when this node lost the log was not there, nor is his connection any more: he asks before
he writes. Nodes speak each second, and brokers hang up on who is silent for two heartbeats, 20 s."""
GAP_S = 20.0
"""For how long this node may have been without the log for that to hold still. Less than the patience of a primary that
was away itself, and begins alone."""

PAUSE_S = AWAY_S - GAP_S
"""Who has read nothing for so long may have been stopped: what it reads then is old, and seems new to it. Or the log
was gone; brokers elect within less, and no host that lost its power is back so soon."""

_NEVER = float("-inf")


@dataclass(slots=True)
class Chain:
    """The log as it was read over one connection, from its end at `since_s` on. Times are monotonic seconds."""

    since_s: float
    heard_s: float
    """When anything was last read."""
    whole: bool = False
    """It is known that up to `since_s` the log had lost nothing that was acknowledged, or that it is too late for that:
    others have written in its place."""
    marks: tuple[str, ...] = ()
    """Ids of the last barriers that were read. Two chains that share one are links to the same log, at that moment."""
    steady_s: float = _NEVER
    """Since when something was read all the time."""
    paused: bool = False
    """Since it was known to be whole, nothing was read for so long that hosts may have lost their power and be back."""
    broken_s: float | None = None
    """When the chain before this one, which was whole, last heard anything; None: too long before `since_s`."""

    def read(self, record: LogRecord, now_s: float) -> None:
        if now_s - self.heard_s > PAUSE_S:
            self.steady_s, self.paused = now_s, True
        self.heard_s = now_s
        if isinstance(record, Barrier):
            self.marks = (*self.marks[1 - MARKS :], record.id)

    def heard(self, said_s: float, revision: int, own_revision: int) -> None:
        """At `said_s` the primary of our epoch, which wrote then, had `revision`, and we have `own_revision` now: what
        it acknowledged until then we have, and what came later came through this chain."""
        if said_s >= self.since_s and revision <= own_revision:
            self.whole = True
            self.paused = self.paused and said_s < self.steady_s


@dataclass(slots=True)
class Following:
    """The present chain. What others may keep of it is the chain itself: it is another one when this one is broken."""

    chain: Chain | None = None
    """None: the end of the log was not reached since the log was lost."""
    _broken_s: float = _NEVER
    _wrote_s: dict[str, float] = field(default_factory=dict)
    """When each node's last record was read."""

    def reached(self, barrier: str, now_s: float) -> None:
        """The end of the log was reached, with a barrier of our own; perhaps the reading was not interrupted before."""
        if self.chain is None:
            near = now_s - self._broken_s <= GAP_S
            self.chain = Chain(now_s, now_s, marks=(barrier,), broken_s=self._broken_s if near else None)

    def read(self, record: LogRecord, now_s: float) -> None:
        self._wrote_s[record.node] = now_s
        if self.chain is not None:
            self.chain.read(record, now_s)

    def away(self, heard_s: Mapping[str, float | None]) -> frozenset[str]:
        """Of these members, and when each was last heard of, those that were gone before this node lost a log of which
        it knew all, for a moment: they had no time to come, ask, write and be gone again."""
        broken_s = self.chain.broken_s if self.chain is not None else None
        if broken_s is None:
            return frozenset()
        last_s = {name: max(at_s or _NEVER, self._wrote_s.get(name, _NEVER)) for name, at_s in heard_s.items()}
        return frozenset(name for name, at_s in last_s.items() if at_s + AWAY_S <= broken_s)

    def settled(self) -> None:
        """The other members were asked, and nothing is missing; or this node writes in its place."""
        if self.chain is not None:
            self.chain.whole, self.chain.paused = True, False

    def broken(self) -> None:
        chain = self.chain
        if chain is not None and chain.whole:
            self._broken_s = chain.heard_s if chain.heard_s - chain.steady_s >= AWAY_S else _NEVER
        self.chain = None
