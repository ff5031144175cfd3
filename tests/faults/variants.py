"""Systems with one rule broken, to see whether the checker notices. Applied in a daemon's own process, at its start.

Nothing of this is in what is shipped: a test starts a daemon through `tests.faults.child` to have it so.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Variant:
    """`says`: what it does wrong. `kinds`: faults under which it shows; `shows_as`: rules of the checker that tell of
    it."""

    says: str
    apply: Callable[[], None]
    kinds: tuple[str, ...]
    shows_as: tuple[str, ...]


def answer_before_read_back() -> None:
    """A publisher's confirm taken for success: the answer is given with the append."""
    from provider.core import state as sm
    from provider.core.entries import Entry
    from provider.core.replica import Append, Done, Replica
    from provider.core.state import Accepted

    original = Replica._write

    def write(self: Replica, now: Any) -> list[Any]:
        out = original(self, now)
        flying = self._in_flight
        if flying is not None and isinstance(flying.record, Entry) and any(isinstance(one, Append) for one in out):
            outcome = sm.step(self.state, flying.record)
            if isinstance(outcome, Accepted):
                told = zip(flying.requests, outcome.answers, strict=True)
                out += [Done(request.ticket, answer) for request, answer in told if request is not None]
                flying.requests = [None for _ in flying.requests]
        return out

    Replica._write = write  # type: ignore[method-assign]


def ignore_epoch() -> None:
    """Entries of an epoch that is over are accepted; so are claims that end one that is over."""
    from provider.core import state as sm
    from provider.core.entries import Claim, Entry
    from provider.core.state import Accepted

    original = sm.step

    def step(state: Any, record: Any) -> Any:
        current = record
        if isinstance(record, Entry):
            current = record.model_copy(update={"epoch": state.epoch})
        if isinstance(record, Claim):
            current = record.model_copy(update={"ends": state.epoch})
        outcome = original(state, current)
        return replace(outcome, record=record) if isinstance(outcome, Accepted) else outcome

    sm.step = step


def skip_fsync() -> None:
    """The store answers before what it was given is on the disk."""
    from sqlalchemy import event

    from provider.store import store

    original = store.open_engine

    def open_engine(url: str, **options: Any) -> Any:
        engine = original(url, **options)

        @event.listens_for(engine, "connect")
        def loosen(connection: Any, _: object) -> None:
            connection.execute("PRAGMA synchronous=OFF").close()

        return engine

    store.open_engine = open_engine


def apply_twice() -> None:
    """The second of two copies of an entry counts as well. A broker may make such copies, and seldom does: here each
    is sent twice."""
    from provider.core import state as sm
    from provider.core.entries import Entry
    from provider.log.stream import StreamLog

    original, append = sm.step, StreamLog.append

    def twice(self: StreamLog, data: bytes, token: object, deadline_s: float) -> None:
        append(self, data, token, deadline_s)
        append(self, data, token, deadline_s)

    def step(state: Any, record: Any) -> Any:
        if isinstance(record, Entry) and record.epoch == state.epoch and record.seq <= state.revision:
            record = record.model_copy(update={"seq": state.revision + 1})
        return original(state, record)

    sm.step, StreamLog.append = step, twice  # type: ignore[method-assign]


def forget_keys() -> None:
    """Idempotency keys are not kept: what is asked again is done again."""
    from provider.core import state as sm
    from provider.core.entries import Entry

    original = sm.step

    def step(state: Any, record: Any) -> Any:
        if isinstance(record, Entry):
            commits = tuple(commit.model_copy(update={"key": None}) for commit in record.commits)
            record = record.model_copy(update={"commits": commits})
        return original(state, record)

    sm.step = step


def begin_with_less() -> None:
    """A log that is begun by force lacks what was written last."""
    from provider.core import anew
    from provider.core import commands as c

    original = anew.tokens_over

    def less(state: Any, now: int) -> Any:
        yield from original(state, now)
        written = [one for one in state.of("setting") if one.id.startswith("user.")]
        yield c.delete("setting", max(written, key=lambda one: one.revision).id)

    anew.tokens_over = less


def obey_anybody() -> None:
    """Agents do what a deposed primary tells them."""
    from agent.session import Session

    original = Session._act_on

    def act_on(self: Session, envelope: Any, body: Any, key: str) -> Any:
        envelope = envelope.model_copy(update={"epoch": max(envelope.epoch, self.broker.epoch)})
        if getattr(body, "epoch", self.broker.epoch) < self.broker.epoch:
            body = body.model_copy(update={"epoch": self.broker.epoch})
        self._desired_at = (0, 0)
        return original(self, envelope, body, key)

    Session._act_on = act_on  # type: ignore[method-assign]


VARIANTS = {
    "answer before read-back": Variant(
        "answers when an entry is sent, not when it was read back",
        answer_before_read_back,
        ("asleep", "kill"),
        ("lost", "reads"),
    ),
    "ignore epoch": Variant(
        "accepts entries and claims of an epoch that is over", ignore_epoch, ("two at once", "asleep"), ("epochs",)
    ),
    "skip fsync": Variant(
        "does not sync its store", skip_fsync, ("power cut", "blackout"), ("reads", "lost", "healing")
    ),
    "apply twice": Variant("counts an entry that comes twice as two", apply_twice, ("stop", "promote"), ("once",)),
    "forget keys": Variant(
        "keeps no idempotency keys", forget_keys, ("kill", "broker killed", "broker stopped"), ("once", "refused")
    ),
    "begin with less": Variant(
        "loses a setting when a log is begun by force", begin_with_less, ("begin anew",), ("contents", "lost")
    ),
    "obey anybody": Variant("agents obey a deposed primary", obey_anybody, ("asleep",), ("agents",)),
}
