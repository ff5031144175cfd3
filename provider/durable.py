"""What the engine has read and keeps: not yet durable, and then in the store. On the engine's thread."""

import time

from provider.core.state import Accepted, State
from provider.log.port import Position
from provider.store import HistoryRow, Store
from shared.backoff import Backoff
from shared.errors import Unavailable
from shared.logs import log

IDLE_SAVE_S = 5.0
"""Barriers move the position only this often: they change nothing, and reading them again is free."""


class Durable:
    """`shown` is what the store has; `problem`: why it cannot be written."""

    def __init__(self, store: Store, loaded: tuple[State, Position | None]) -> None:
        self.store, self.shown = store, loaded
        self.unsaved: list[Accepted] = []
        """Read but not yet durable; and what has become durable, until `take` is called."""
        self.problem: Unavailable | None = None
        self._position: Position | None = None
        self._anew = False
        self._retry = Backoff(first_s=0.1, longest_s=1.0)
        self._retry_at_s = self._saved_s = 0.0

    def read_up_to(self, position: Position, *, anew: bool = False) -> None:
        """The log was read up to there; with `anew` from its beginning once more."""
        self._position, self._anew = position, anew or self._anew

    def forget_position(self) -> None:
        """It was in a log that is not read any more."""
        if not self.unsaved:
            self._position = None

    def save(self, *, force: bool) -> bool:
        """Make durable what was read; whether all of it is. While the store fails it is tried again now and then."""
        now_s = time.monotonic()
        quiet = not self.unsaved and self.problem is None
        idle = quiet and not force and not self._anew and now_s - self._saved_s < IDLE_SAVE_S
        if self._position is None or idle:
            return True
        if self.problem is not None and now_s < self._retry_at_s and not force:
            return False
        try:
            self.store.commit(self.unsaved, self._position, anew=self._anew)
        except Unavailable as error:
            if self.problem is None:
                log(why=error.detail).error("the store cannot be written; writes are refused until it can")
            self.problem = error
            self._retry_at_s = now_s + self._retry.next_s()
            return False
        if self.problem is not None:
            log().info("the store can be written again")
            self.problem = None
            self._retry.reset()
        self.shown = (self.unsaved[-1].state if self.unsaved else self.shown[0], self._position)
        self._saved_s, self._position, self._anew = now_s, None, False
        return True

    def take(self) -> list[Accepted]:
        """What has become durable since this was last called; `save` has said so."""
        taken, self.unsaved = self.unsaved, []
        return taken

    def replace(
        self, state: State, position: Position | None, *, stored: bool, goes_on: HistoryRow | None = None
    ) -> None:
        """Another state in the place of this one; `stored`: the store holds it; with `goes_on` it begins another log,
        and the history stays. Raises a `BellwetherError`."""
        if not stored:
            self.store.seed(state, position, goes_on)
        self.unsaved.clear()
        self._position, self._anew, self.problem = None, False, None
        self.shown = (state, position)
