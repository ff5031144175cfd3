"""What the engine has read and keeps: not yet durable, and then in the store. On the engine's thread."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from provider.core.state import Accepted, State
from provider.inbox import Replace
from provider.log.port import Position
from provider.store import Store, StoreAhead, StoreEmptied, StoreUnavailable
from shared.backoff import Backoff
from shared.errors import OutcomeUnknown, Refused, Unavailable
from shared.logs import log

IDLE_SAVE_S = 5.0
"""Barriers move the position only this often: they change nothing, and reading them again is free."""
HANGS_S = 3.0
"""A store that has not answered for so long is called hanging. Anybody else is told so; the engine's thread waits."""


class Durable:
    """`shown` is what the store has; `problem`: why it cannot be written."""

    def __init__(self, store: Store, loaded: tuple[State, Position | None]) -> None:
        self.store, self.shown = store, loaded
        self.unsaved: list[Accepted] = []
        """Read but not yet durable; and what has become durable, until `take` is called."""
        self.problem: Unavailable | None = None
        self.emptied = False
        """What the store had is gone from it. Set on any thread; then it is written back."""
        self._asked_s: float | None = None
        """Since when the store is waited for."""
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

    @property
    def trouble(self) -> Unavailable | None:
        """`problem`; and that the store hangs, which the engine's thread only knows when it is over. Any thread."""
        asked_s = self._asked_s
        if self.problem is not None or asked_s is None or (waits_s := time.monotonic() - asked_s) < HANGS_S:
            return self.problem
        return StoreUnavailable(f"the store has not answered for {waits_s:.0f} s; asked again, it may")

    def save(self, *, force: bool, writes_back: bool = True) -> bool:
        """Make durable what was read; whether all of it is. While the store fails it is tried again now and then. One
        that was emptied is given back what it had, where this node `writes_back`."""
        now_s = time.monotonic()
        restores = self.emptied and writes_back
        quiet = not self.unsaved and self.problem is None and not restores
        idle = quiet and not force and not self._anew and now_s - self._saved_s < IDLE_SAVE_S
        if (self._position is None and not restores) or idle:
            return True
        if self.problem is not None and now_s < self._retry_at_s and not force:
            return False
        try:
            with self._asking():
                if restores:
                    self._write_back()
                if self._position is not None:
                    self.store.commit(self.unsaved, self._position, anew=self._anew, held=self.shown[0])
        except Unavailable as error:
            if self.problem is None:
                log(why=error.detail).error("the store cannot be written; writes are refused until it can")
            self.problem = error
            self.emptied = self.emptied or isinstance(error, StoreEmptied)
            self._retry_at_s = now_s + self._retry.next_s()
            return False
        if self.problem is not None:
            log().info("the store can be written again")
            self.problem = None
            self._retry.reset()
        self.shown = (self.unsaved[-1].state if self.unsaved else self.shown[0], self._position or self.shown[1])
        self._saved_s, self._position, self._anew = now_s, None, False
        return True

    def _write_back(self) -> None:
        state, position = self.shown
        if self.store.write_back(state, position):
            log(revision=state.revision).critical(
                "the store had lost what it held: this node has put its state there again. The history before is gone"
            )
        self.emptied = False

    @contextmanager
    def _asking(self) -> Iterator[None]:
        self._asked_s = time.monotonic()
        try:
            yield
        finally:
            self._asked_s = None

    def take(self) -> list[Accepted]:
        """What has become durable since this was last called; `save` has said so."""
        taken, self.unsaved = self.unsaved, []
        return taken

    def replace(self, event: Replace) -> None:
        """Another state in the place of this one. Raises a `BellwetherError`: the store then has what it had; or
        `OutcomeUnknown`."""
        if not event.stored:
            with self._asking():
                self._seed(event)
        self.unsaved.clear()
        self._position, self._anew, self.problem, self.emptied = None, False, None, False
        self.shown = (event.state, event.position)

    def _seed(self, event: Replace) -> None:
        own, _ = self.shown
        begins = event.goes_on is not None
        over = (own.epoch, own.revision) if event.unless_ahead or begins else None
        try:
            self.store.seed(event.state, event.position, event.goes_on, over=over)
        except StoreAhead as error:
            if not begins:
                raise
            raise Refused(
                f"{error.detail}. Others keep their state in the same database, and have put that there: this node "
                "takes it from there within seconds; then ask again what would be lost"
            ) from error
        except Unavailable as error:
            if not begins or not self._has_arrived(event.state, error):
                raise

    def _has_arrived(self, state: State, error: Unavailable) -> bool:
        """Whether the store has taken it, although its answer was lost. Raises `OutcomeUnknown` where it is silent."""
        try:
            found = self.store.reached(settled=True)
        except Unavailable as silent:
            raise OutcomeUnknown(
                f"{error.detail}. Whether log {state.generation} was begun is not known, as the store does not answer "
                f"({silent.detail}): mend it first. If it was begun, this node goes on with it by itself, and "
                "`failover --operation status` tells of it"
            ) from error
        return found == (state.generation, state.epoch, state.revision)
