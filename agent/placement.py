"""At which broker the agent sits, and when it looks at another. Pure: events with their time in, instructions out.

The agent prefers the primary's broker, and stays at another one only while it must. It sits where it hears the primary.
A broker can be alive and cut off from the primary: then nothing comes, and no connection breaks. So the primary beats,
and who has missed three beats looks at the other brokers in turn, each time by a second connection while the first
stays in use, and moves to the first one at which the primary is heard. Where it is heard nowhere there is no primary:
then nothing moves, and the agent looks again ever more seldom. The way back to the preferred broker is the same: it is
looked at now and then, and moved to when the primary is heard there.

A primary of an older version does not beat. From one that was not heard beating in its epoch no beat is missed, and a
connection is good enough to move to. Only a broker at which nobody has said a word after `FIRST_WORD_S` is left then.

All times are monotonic seconds. Chance is a hash of the agent's name: agents differ, and each can be calculated.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from agent.endpoints import in_order, share
from agent.session import Note
from shared.messages import Beat

MISSED = 3.5
"""Intervals without a beat: three were missed, and the last one is not just late."""
LISTEN = 1.5
"""Intervals for which the primary is listened for at another broker."""
CONNECT_S = 6.0
"""For a look at another broker: a little longer than a link gives an attempt."""
FIRST_WORD_S = 30.0
"""For the first word of a primary that is not known to beat. It answers each hello; of 10,000 not at once."""
CHEAP_LONGEST = 3
"""Longest pause between looks at a broker that cannot be reached, times `return_s`: they cost next to nothing."""
LONGEST = 30
"""The same for looks that cost a connection each: at brokers which do not hear the primary."""
ROUND_SPREADS = 3.0
"""All agents of a broker miss the same beats. Should it be the primary that is gone, each looks at all brokers; over so
many times the fleet's spread, which leaves the brokers time for something else: for the next primary."""
CALM_AFTER_SPREADS = 2.0
CALM_SPREADS = 10.0
"""Who still hears the primary where it is has time: a fleet first says that it follows, then moves over so many times
its spread. In one spread, what connecting costs (TLS, a queue) came between a new primary and what it is told, and
connections that were not made in time were made again."""


@dataclass(frozen=True, slots=True)
class Seek:
    """Connect to this broker too, beside the connection in use."""

    endpoint: str


@dataclass(frozen=True, slots=True)
class Settle:
    """Use the connection that was sought from now on, close the one before."""


@dataclass(frozen=True, slots=True)
class Abandon:
    """Close the connection that was sought."""


Move = Seek | Settle | Abandon | Note


@dataclass(slots=True)
class _Look:
    """At another broker."""

    endpoint: str
    until_s: float
    up: bool = False


class Placement:
    """One agent's. `due` is to be called now and then; what it returns is to be done."""

    def __init__(self, agent: str, endpoints: Sequence[str], *, epoch: int, stagger_s: float, return_s: float) -> None:
        """`stagger_s`: what the whole fleet does at once waits up to this, or longer where the primary says so.
        `return_s`: the first pause before a preferred broker that was lost is looked at, and between rounds."""
        self._agent, self._stagger_s, self._return_s = agent, stagger_s, return_s
        self._endpoints, self._epoch = tuple(endpoints), epoch
        self._order = in_order(endpoints, agent)
        self._unreachable: frozenset[str] = frozenset()
        """Those where the last look found nobody."""
        self._here: str | None = None
        self._since_s = 0.0
        self._heard_s: float | None = None
        """When the primary was last heard on the connection in use."""
        self._heard_there_s: float | None = None
        """... on the one that was to be used next."""
        self._interval_s: float | None = None
        self._spread_s = 0.0
        self._silent = False
        self._look: _Look | None = None
        self._round: list[str] = []
        """Brokers to be looked at next."""
        self._next_round_s = float("inf")
        self._failures = 0
        """Rounds in which nothing was found."""
        self._unheard_moves = 0
        """Moves since the primary was last heard."""
        self._chances = 0

    # ── for others to see ────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def preferred(self) -> str:
        return self._order[0]

    @property
    def why(self) -> str:
        """Why the agent is where it is, for people."""
        if self._here is None:
            return "no broker can be reached"
        if self._silent:
            nowhere = ": none of the other brokers hears it either" if self._failures else ", looking elsewhere"
            return f"nothing heard of the primary{nowhere if len(self._order) > 1 else ''}"
        if self._here == self.preferred:
            return "the preferred broker, the primary's"
        if self.preferred in self._unreachable:
            return f"{self.preferred} is preferred and cannot be reached"
        if self._failures:
            return f"{self.preferred} is preferred and does not hear the primary"
        return f"{self.preferred} is preferred; to be looked at soon"

    # ── what happens ─────────────────────────────────────────────────────────────────────────────────────────────────

    def told(self, endpoints: Sequence[str], epoch: int, now_s: float) -> None:
        """What broker.json says now."""
        if epoch != self._epoch:
            self._epoch, self._interval_s = epoch, None  # whether this primary beats is not known yet
        if tuple(endpoints) == self._endpoints:
            return
        self._endpoints, self._order = tuple(endpoints), in_order(endpoints, self._agent)
        self._unreachable, self._round, self._failures = frozenset(), [], 0
        self._next_round_s = now_s + self._calm_s()

    def order(self, *, stay: bool = False, last: str | None = None) -> tuple[str, ...]:
        """The brokers as they are to be tried. `stay`: first where the agent is. Those that nobody answered at come
        late, `last` very last."""

        def rank(endpoint: str) -> int:
            if stay and endpoint == self._here:
                return 0
            return 3 if endpoint == last else 2 if endpoint in self._unreachable else 1

        return tuple(sorted(self._order, key=rank))

    def stagger_s(self) -> float:
        """How long to wait with what the whole fleet does at once."""
        return self.chance() * max(self._stagger_s, self._spread_s)

    def connected(self, endpoint: str, now_s: float) -> None:
        """The connection in use is at `endpoint`, and is a new one."""
        self._here, self._since_s = endpoint, now_s
        self._heard_s, self._heard_there_s = self._heard_there_s, None
        self._unheard_moves += 1
        self._unreachable -= {endpoint}
        self._look, self._silent = None, False
        self._rest(now_s)

    def disconnected(self) -> list[Move]:
        """There is no connection in use."""
        self._here, self._silent = None, False
        if self._look is not None and self._look.up:
            return self._settle("the one before was lost")
        return self._give_up()

    def reached(self, now_s: float) -> list[Move]:
        """The connection that was sought is up."""
        look = self._look
        if look is None or look.up:
            return []
        look.up = True
        self._unreachable -= {look.endpoint}
        if self._interval_s is None or self._here is None:
            return self._settle("it can be reached")
        look.until_s = now_s + LISTEN * self._interval_s + 1.0
        return []

    def heard(self, beat: Beat | None, *, here: bool, there: bool, now_s: float) -> list[Move]:
        """The primary has spoken (`beat` where that is what it said) on the connection in use (`here`), or on the one
        that was sought (`there`)."""
        if beat is not None:
            self._interval_s, self._spread_s = beat.interval_s, beat.spread_s
        self._unheard_moves = 0
        first_word = here and self._heard_s is None
        if there and self._look is not None and self._look.up:
            self._heard_there_s = now_s
            return self._settle("the primary is heard there")
        if not here:
            return []
        self._heard_s = now_s
        if not self._silent:
            if first_word:
                self._rest(now_s)
            return []
        self._silent = False
        self._rest(now_s)
        return [*self._give_up(), Note("INFO", "the primary is heard again", {"endpoint": self._here})]

    def due(self, now_s: float) -> list[Move]:
        """What time has brought about."""
        if self._here is None:
            return []
        told = self._notice_silence(now_s)
        if self._look is not None:
            if now_s < self._look.until_s and self._look.endpoint in self._order:
                return told
            if not self._look.up:
                self._unreachable |= {self._look.endpoint}
            told += self._give_up()
            if not self._round:
                told += self._found_nothing(now_s)
        if not self._round and now_s >= self._next_round_s:
            self._round = self._targets()
            if not self._round:
                self._next_round_s = float("inf")
        if self._round:
            self._look = _Look(self._round.pop(0), now_s + CONNECT_S)
            told.append(Seek(self._look.endpoint))
        return told

    # ── how ──────────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def _deadline_s(self) -> float:
        """When nothing of the primary was heard for too long."""
        since_s = self._since_s if self._heard_s is None else self._heard_s
        if self._interval_s is not None:
            return since_s + MISSED * self._interval_s
        if self._heard_s is not None:
            return float("inf")
        return since_s + min(10 * FIRST_WORD_S, FIRST_WORD_S * 2.0 ** min(10, max(0, self._unheard_moves - 1)))

    def _notice_silence(self, now_s: float) -> list[Move]:
        if self._silent or now_s < self._deadline_s:
            return []
        self._silent, self._round, self._failures = True, [], 0
        self._next_round_s = now_s + self.chance() * max(self._stagger_s, ROUND_SPREADS * self._spread_s)
        silent_s = now_s - (self._since_s if self._heard_s is None else self._heard_s)
        fields = {"endpoint": self._here, "silent_s": round(silent_s, 1)}
        return [*self._give_up(), Note("WARNING", "nothing is heard of the primary through this broker", fields)]

    def _targets(self) -> list[str]:
        if self._silent:
            return [one for one in self.order() if one != self._here]
        return [] if self._here == self.preferred else [self.preferred]

    def _rest(self, now_s: float) -> None:
        """Nothing is to be done here but, where the primary is heard, to look whether the preferred broker is back."""
        self._round, self._failures = [], 0
        content = self._here == self.preferred or self._heard_s is None
        self._next_round_s = float("inf") if content else now_s + self._pause_s()

    def _calm_s(self) -> float:
        """How long to wait with a move that is not pressing; the broker where the agent is may be one to leave."""
        if self._silent or self._here not in self._endpoints:
            return self.stagger_s()
        chance = self.chance()
        return max(chance * self._stagger_s, (CALM_AFTER_SPREADS + chance * CALM_SPREADS) * self._spread_s)

    def _found_nothing(self, now_s: float) -> list[Move]:
        """A round has ended."""
        self._failures += 1
        self._next_round_s = now_s + self._pause_s()
        if not self._silent or self._failures > 1:
            return []
        text = "no other broker hears the primary: staying here, and looking again ever more seldom"
        return [Note("WARNING", text, {"endpoint": self._here})]

    def _pause_s(self) -> float:
        cheap = not self._silent and (not self._failures or self.preferred in self._unreachable)
        first_s = max(self._return_s, 2 * self._spread_s)
        wait_s = first_s * min(CHEAP_LONGEST if cheap else LONGEST, 2.0 ** min(self._failures, 20))
        return wait_s * (0.5 + self.chance())

    def _settle(self, reason: str) -> list[Move]:
        look, self._look = self._look, None
        endpoint = look.endpoint if look is not None else None
        fields = {"from": self._here, "to": endpoint, "reason": reason}
        return [Note("INFO", "moving to another broker", fields), Settle()]

    def _give_up(self) -> list[Move]:
        if self._look is None:
            return []
        self._look = None
        return [Abandon()]

    def chance(self) -> float:
        """A number in [0, 1), another one each time."""
        self._chances += 1
        return share(self._agent, f"#{self._chances}")
