"""Whether every acknowledged write of a soak is there: judged while it goes on, in memory that does not grow.

Each setting has one writer, who counts: its n-th value holds the number n, and he begins with n + 1 when n was
acknowledged. So a node that tells of 1, 2, 3 … without a gap, up to what was acknowledged last, has lost none; and what
has to be remembered is one line for each setting, however many writes there were. Pure but for its lock.
"""

import threading
from collections import deque
from dataclasses import dataclass, field

REMEMBERED = 8
"""Acknowledgements of one setting that a node which lags is compared with."""
TOLD_MAX = 50


def value_of(number: int, *, keyed: bool, padding: str) -> str:
    return f"{number} {'keyed' if keyed else 'free'} {padding}"


def read_value(value: str) -> tuple[int, bool]:
    """Its number, and whether it had an idempotency key."""
    number, kind, _ = value.split(" ", 2)
    return int(number), kind == "keyed"


@dataclass(slots=True)
class _Seen:
    """What one node told of one setting last."""

    number: int = 0
    revisions: list[int] = field(default_factory=list)
    """One where there was a key; else one for each time that it was asked for again."""


class Promises:
    """What was acknowledged, and what nodes tell. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._acknowledged: dict[str, deque[tuple[int, int]]] = {}
        self._seen: dict[str, dict[str, _Seen]] = {}
        self.broken: list[str] = []
        """At most some; `violations` counts them all."""
        self.violations = 0
        self.acknowledged = 0

    def acknowledge(self, setting: str, number: int, revision: int) -> None:
        with self._lock:
            self.acknowledged += 1
            self._acknowledged.setdefault(setting, deque(maxlen=REMEMBERED)).append((number, revision))

    def tell(self, node: str, setting: str, value: str, revision: int) -> None:
        """That node accepted this write, and told of it in its turn."""
        number, keyed = read_value(value)
        with self._lock:
            seen = self._seen.setdefault(node, {}).setdefault(setting, _Seen())
            if number == seen.number + 1:
                self._compare(node, setting, seen)
                seen.number, seen.revisions = number, [revision]
            elif number == seen.number and not keyed:
                seen.revisions.append(revision)
            elif number == seen.number:
                self._break(f"{node}: {setting} {number} is at {seen.revisions} and again at {revision}")
            else:
                self._break(f"{node}: {setting} {number} follows {seen.number}, at {revision}")
                seen.number, seen.revisions = number, [revision]

    def complain(self, text: str) -> None:
        """A promise was broken in another way."""
        with self._lock:
            self._break(text)

    def conclude(self, nodes: list[str]) -> None:
        """Each of these nodes has told all: what was acknowledged last must be among it."""
        with self._lock:
            for node in nodes:
                told = self._seen.get(node, {})
                for setting, acknowledged in self._acknowledged.items():
                    seen = told.get(setting, _Seen())
                    if seen.number < acknowledged[-1][0]:
                        self._break(f"{node}: {setting} {acknowledged[-1][0]} is lost; {seen.number} is the last")
                    self._compare(node, setting, seen)

    def _compare(self, node: str, setting: str, seen: _Seen) -> None:
        """Where it stands is where it was said to be. A successor is written when this was acknowledged."""
        for number, revision in self._acknowledged.get(setting, ()):
            if number == seen.number and revision not in seen.revisions:
                self._break(f"{node}: {setting} {number} was acknowledged at {revision}, and is at {seen.revisions}")

    def _break(self, text: str) -> None:
        self.violations += 1
        if len(self.broken) < TOLD_MAX:
            self.broken.append(text)
