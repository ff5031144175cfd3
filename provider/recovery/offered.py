"""States that were handed out lately, so that a snapshot which broke off can go on."""

import threading
from collections import OrderedDict

from provider.core.state import State
from provider.log.port import Position

KEPT = 3
"""States. They are versions of the same documents: each costs what has changed since."""


class Offered:
    """Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, tuple[State, Position | None]] = OrderedDict()

    def keep(self, state: State, position: Position | None) -> None:
        with self._lock:
            self._kept[state.digest] = (state, position)
            self._kept.move_to_end(state.digest)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)

    def get(self, digest: str) -> tuple[State, Position | None] | None:
        with self._lock:
            return self._kept.get(digest)
