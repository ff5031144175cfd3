"""States that were handed out lately, so that a snapshot which broke off can go on."""

import threading
from collections import OrderedDict

from provider.core.state import State
from provider.log.port import Position

KEPT = 3
"""States. They are versions of the same documents: each costs what has changed since."""
KEPT_S = 600.0
"""By then a snapshot that broke off is gone on with, or never will be; and what has changed may be nearly all."""


class Offered:
    """Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, tuple[State, Position | None]] = OrderedDict()
        self._numbers: dict[str, int] = {}
        self._number = 0

    def keep(self, state: State, position: Position | None) -> int:
        """A number for `forget`."""
        with self._lock:
            self._number += 1
            self._numbers[state.digest] = self._number
            self._kept[state.digest] = (state, position)
            self._kept.move_to_end(state.digest)
            while len(self._kept) > KEPT:
                gone, _ = self._kept.popitem(last=False)
                del self._numbers[gone]
            return self._number

    def forget(self, digest: str, number: int) -> None:
        """After `KEPT_S`: that state, unless it was handed out again since."""
        with self._lock:
            if self._numbers.get(digest) == number:
                del self._kept[digest], self._numbers[digest]

    def get(self, digest: str) -> tuple[State, Position | None] | None:
        with self._lock:
            return self._kept.get(digest)
