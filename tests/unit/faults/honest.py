"""Histories that keep every promise by construction: what clients of a faultless cluster would see, in ticks."""

from dataclasses import dataclass, replace

from hypothesis import strategies as st

from tests.faults.history import Attempt, Entry, History, Witness

NODES = ("p1", "p2", "p3")
SETTINGS = ("a", "b")
TICKS = 80

Held = dict[str, tuple[int, str]]


@dataclass(frozen=True)
class Wish:
    """A request: sent at tick `asked`, decided on `after` ticks later, answered `later` ticks after that, or never."""

    asked: int
    after: int
    later: int
    node: int
    setting: str
    kind: str
    answered: bool

    @property
    def decided(self) -> int:
        return self.asked + self.after

    def attempt(self, number: int) -> Attempt:
        action = "put" if self.kind == "match" else self.kind
        ended, setting = self.decided + self.later, None if self.kind in ("list", "look") else self.setting
        return Attempt("c", f"op{number}", action, NODES[self.node], self.asked, ended, setting=setting)  # type: ignore[arg-type]


wishes = st.lists(
    st.builds(
        Wish,
        asked=st.integers(0, 40),
        after=st.integers(0, 6),
        later=st.integers(0, 6),
        node=st.integers(0, 2),
        setting=st.sampled_from(SETTINGS),
        kind=st.sampled_from(["put", "match", "delete", "read", "list", "look"]),
        answered=st.booleans(),
    ),
    max_size=25,
)
claims = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 2)), max_size=3)
lags = st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 5))


class Cluster:
    """It has accepted one record when the history begins. `lags`: ticks by which each node is behind."""

    def __init__(self, lags: tuple[int, ...]) -> None:
        self._lags = lags
        self._log: list[Entry] = []
        self._held: dict[int, Held] = {1: {}}
        self._epochs = {1: 1}
        self._newest: list[int] = []
        """Tick → revision at its end."""
        self._primary = "p1"
        self._written: dict[int, tuple[int, int | None]] = {}
        """Wish → its revision, and the one that it replaced where it asked for that."""

    def history(self, wishes: list[Wish], claims: list[tuple[int, int]]) -> History:
        for tick in range(TICKS):
            for _, node in [claim for claim in claims if claim[0] == tick]:
                self._primary = NODES[node]
                self._accept("claim", self._epochs[self._revision] + 1)
            for number, wish in enumerate(wishes):
                if wish.decided == tick and wish.kind in ("put", "match", "delete"):
                    self._write(number, wish)
            self._newest.append(self._revision)
        attempts = [
            self._put(wish, number) if number in self._written else self._read(wish, number)
            for number, wish in enumerate(wishes)
        ]
        return History(1, 1, 1, "p1", tuple(attempts), tuple(map(self._witness, NODES)))

    @property
    def _revision(self) -> int:
        return max(self._held)

    def _accept(self, type_: str, epoch: int, *puts: tuple[str, str | None]) -> int:
        revision = self._revision + 1
        self._log.append(Entry(revision, epoch, type_, self._primary, puts))
        gone = {setting for setting, value in puts if value is None}
        held = self._held[revision - 1] | {setting: (revision, value) for setting, value in puts if value is not None}
        self._held[revision] = {setting: found for setting, found in held.items() if setting not in gone}
        self._epochs[revision] = epoch
        return revision

    def _write(self, number: int, wish: Wish) -> None:
        before = self._held[self._revision].get(wish.setting)
        if wish.kind == "delete":
            if before is not None:
                at = self._accept("entry", self._epochs[self._revision], (wish.setting, None))
                self._written[number] = at, None
            return
        match = before[0] if wish.kind == "match" and before is not None else None
        at = self._accept("entry", self._epochs[self._revision], (wish.setting, f"op{number}"))
        self._written[number] = at, match

    def _shown(self, node: int, tick: int) -> int:
        return self._newest[tick - self._lags[node]] if tick >= self._lags[node] else 1

    def _stamped(self, attempt: Attempt, wish: Wish, at_least: int = 0) -> Attempt:
        revision = max(at_least, self._shown(wish.node, wish.decided + wish.later))
        return replace(attempt, node=attempt.door, role="standby", epoch=self._epochs[revision], revision=revision)

    def _put(self, wish: Wish, number: int) -> Attempt:
        """A node that passes the primary's answer on waits for its own copy first: here, until it is not behind."""
        at, match = self._written[number]
        attempt = replace(wish.attempt(number), match=match)
        if not wish.answered:
            return attempt
        wish = replace(wish, later=wish.later + self._lags[wish.node])
        attempt = replace(attempt, answered_s=wish.decided + wish.later, status=200, document=at)
        if wish.kind == "delete":
            attempt = replace(attempt, status=204, document=None)
        return self._stamped(attempt, wish)

    def _read(self, wish: Wish, number: int) -> Attempt:
        if wish.kind == "delete":  # of what was not there
            attempt = wish.attempt(number)
            return replace(self._stamped(attempt, wish), status=404, code="not_found") if wish.answered else attempt
        seen = self._shown(wish.node, wish.decided)
        attempt = replace(self._stamped(wish.attempt(number), wish), status=200, document=seen)
        held = self._held[seen]
        match wish.kind:
            case "list":
                return replace(attempt, items=held)
            case "look":
                return replace(attempt, found=f"digest {seen}")
        if wish.setting not in held:
            return replace(attempt, status=404, document=None)
        return replace(attempt, document=held[wish.setting][0], found=held[wish.setting][1])

    def _witness(self, node: str) -> Witness:
        at = self._revision
        return Witness(node, "g", self._epochs[at], self._primary, at, f"digest {at}", tuple(self._log), self._held[at])
