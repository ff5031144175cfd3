"""Would the model notice? Each variant here breaks one rule; the machine must find a broken promise in every one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar
from unittest import mock

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from provider.core import batch, replica
from provider.core import state as sm
from provider.core.entries import Change, Claim, Commit, Entry, LogRecord
from provider.core.replica import Append, Apply, Done, Instruction, NotPrimary, Now, Replica, Request
from provider.core.state import Accepted, Answer, Skipped, State
from shared.errors import LogUnavailable
from tests.model.hosts import Store
from tests.model.machine import ForgetfulMachine, Machine

PROFILE = settings(
    max_examples=1500,
    stateful_step_count=80,
    phases=[Phase.generate],
    derandomize=True,
    deadline=None,
    database=None,
    report_multiple_bugs=False,
    print_blob=False,
    suppress_health_check=list(HealthCheck),
)
_step = sm.step


# ── acceptance ───────────────────────────────────────────────────────────────────────────────────────────────────────


def epoch_not_checked(state: State, record: LogRecord) -> Accepted | Skipped:
    if isinstance(record, Entry):
        record = record.model_copy(update={"epoch": state.epoch})
    return _step(state, record)


def seq_not_checked(state: State, record: LogRecord) -> Accepted | Skipped:
    if isinstance(record, Entry):
        record = record.model_copy(update={"seq": state.revision + 1})
    return _step(state, record)


def gaps_accepted(state: State, record: LogRecord) -> Accepted | Skipped:
    if isinstance(record, Entry) and record.seq > state.revision:
        record = record.model_copy(update={"seq": state.revision + 1})
    return _step(state, record)


def generation_not_checked(state: State, record: LogRecord) -> Accepted | Skipped:
    return _step(state, record.model_copy(update={"generation": state.generation}))


def claim_of_any_epoch(state: State, record: LogRecord) -> Accepted | Skipped:
    if isinstance(record, Claim):
        record = record.model_copy(update={"ends": state.epoch})
    return _step(state, record)


def claim_of_a_stranger(state: State, record: LogRecord) -> Accepted | Skipped:
    if isinstance(record, Claim) and record.ends == state.epoch and state.get("node", record.node) is None:
        return Accepted(replace(state, epoch=state.epoch + 1, revision=state.revision + 1), record, sm.Delta())
    return _step(state, record)


def claim_counts_no_revision(state: State, record: LogRecord) -> Accepted | Skipped:
    outcome = _step(state, record)
    if isinstance(outcome, Accepted) and isinstance(record, Claim):
        return replace(outcome, state=replace(outcome.state, revision=state.revision))
    return outcome


def time_runs_back(state: State, record: LogRecord) -> Accepted | Skipped:
    return _step(replace(state, now=0), record)


def keys_not_kept(state: State, record: LogRecord) -> Accepted | Skipped:
    if isinstance(record, Entry):
        commits = tuple(commit.model_copy(update={"key": None}) for commit in record.commits)
        record = record.model_copy(update={"commits": commits})
    return _step(state, record)


def checksum_drifts(state: State, record: LogRecord) -> Accepted | Skipped:
    outcome = _step(state, record)
    if isinstance(outcome, Accepted) and outcome.delta.deleted:
        return replace(outcome, state=replace(outcome.state, checksum=outcome.state.checksum + 1))
    return outcome


def keys_forgotten_but_not_told(state: State, record: LogRecord) -> Accepted | Skipped:
    outcome = _step(state, record)
    if isinstance(outcome, Accepted):
        return replace(outcome, delta=replace(outcome.delta, keys_dropped=()))
    return outcome


STEPS = [
    epoch_not_checked,
    seq_not_checked,
    gaps_accepted,
    generation_not_checked,
    claim_of_any_epoch,
    claim_of_a_stranger,
    claim_counts_no_revision,
    time_runs_back,
    keys_not_kept,
    checksum_drifts,
]


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.__name__)
def test_finds_an_acceptance_rule_that_is_broken(step: Callable[..., Any]) -> None:
    with mock.patch.object(sm, "step", step):
        assert_found(Machine)


def test_finds_keys_that_the_store_is_not_told_to_forget() -> None:
    with mock.patch.object(sm, "step", keys_forgotten_but_not_told):
        assert_found(ForgetfulMachine)


# ── one node's conduct ───────────────────────────────────────────────────────────────────────────────────────────────


class AnswersBeforeReadBack(Replica):
    """A publisher's confirm taken for success: the answer is given with the append."""

    def _write(self, now: Now) -> list[Instruction]:
        out = super()._write(now)
        for instruction in list(out):
            if isinstance(instruction, Append) and isinstance(instruction.record, Entry):
                outcome = _step(self.state, instruction.record)
                flying, self._in_flight = self._in_flight, None
                assert isinstance(outcome, Accepted)
                assert flying is not None
                told = zip(flying.requests, outcome.answers, strict=True)
                out += [Done(request.ticket, answer) for request, answer in told if request is not None]
        return out


class AnswersBeforeApply(Replica):
    def read(self, record: LogRecord, now: Now) -> list[Instruction]:
        return sorted(super().read(record, now), key=lambda instruction: isinstance(instruction, Apply))


class RefusesFromAnOldState(Replica):
    """A primary that was deposed and does not know it says "no such document"."""

    def _write(self, now: Now) -> list[Instruction]:
        out = super()._write(now)
        if self._in_flight is not None:
            refused, self._in_flight.refused = self._in_flight.refused, []
            out += [Done(request.ticket, refusal) for request, refusal in refused]
        return out


class TakesItsPlaceForItsEntry(Replica):
    """Whatever entry of this node is accepted next is taken for the one that it sent last."""

    def _in_flight_read(self, record: LogRecord, outcome: Accepted | Skipped) -> list[Instruction]:
        flying = self._in_flight
        if flying is not None and isinstance(outcome, Accepted) and record.node == self.node:
            flying.record = flying.record.model_copy(update={"id": record.id})
        return super()._in_flight_read(record, outcome)


class ForgetsWhatWasOnItsWay(Replica):
    def _resume(self) -> list[Instruction]:
        return []


class SendsAnewWithoutReadingFirst(Replica):
    """After a reconnect, what was on its way is planned again at once, although it may still arrive."""

    def log_up(self, now: Now) -> list[Instruction]:
        out = super().log_up(now)
        if self._in_flight is not None and isinstance(self._in_flight.record, Entry):
            record = self._in_flight.record.model_copy(update={"id": self.new_id(), "seq": self.state.revision + 2})
            out.append(Append(record))
        return out


class CallsWhatIsOnItsWayUndone(Replica):
    """When the connection is cut, those who wait are told that nothing was done."""

    def log_down(self) -> list[Instruction]:
        held = self._in_flight.held if self._in_flight is not None else []
        if self._in_flight is not None:
            self._in_flight.requests = [None for _ in self._in_flight.requests]
            self._in_flight.refused = []
        return [*super().log_down(), *(Done(request.ticket, LogUnavailable("not done")) for request in held)]


class StaysWhenDeposed(Replica):
    """The deposed primary keeps what it held."""

    def _step_down(self) -> list[Instruction]:
        return []


class HandsOnAndKeeps(Replica):
    """The deposed primary hands on what it held, and does it itself when it is primary again."""

    def _step_down(self) -> list[Instruction]:
        waiting = self._waiting.copy()
        out = super()._step_down()
        self._waiting = waiting
        return out


class ClaimsWithoutBarrier(Replica):
    """A barrier is taken for passed as soon as it is sent."""

    def barrier(self, ticket: int, deadline_s: float, now: Now, *, promote: bool = False) -> list[Instruction]:
        out = super().barrier(ticket, deadline_s, now, promote=promote)
        return out + self._waiters_read(self._waiters[-1].record, now)


class GivesUpSilently(Replica):
    def tick(self, now: Now) -> list[Instruction]:
        return [one for one in super().tick(now) if not isinstance(one, Done)]


class RepeatsItself(Replica):
    """Those who were told that the outcome is unknown are told the outcome as well."""

    def tick(self, now: Now) -> list[Instruction]:
        requests = list(self._in_flight.requests) if self._in_flight is not None else []
        out = super().tick(now)
        if self._in_flight is not None:
            self._in_flight.requests = requests
        return out


class SendsStandbysNowhere(Replica):
    """A standby takes writes as if it were the primary, and keeps them."""

    def submit(self, request: Request, now: Now) -> list[Instruction]:
        out = super().submit(request, now)
        return [one for one in out if not (isinstance(one, Done) and isinstance(one.result, NotPrimary))]


class AnswersTheSameKeyAnew(Replica):
    """The answer to a repeated key shows the document as it is now, not as it was."""

    def _write(self, now: Now) -> list[Instruction]:
        out = super()._write(now)
        return [self._newest(one) for one in out]

    def _newest(self, one: Instruction) -> Instruction:
        if isinstance(one, Done) and isinstance(one.result, Answer) and one.result.document is not None:
            document = self.state.get(one.result.document.kind, one.result.document.id)
            return Done(one.ticket, replace(one.result, document=document))
        return one


REPLICAS = [
    AnswersBeforeReadBack,
    AnswersBeforeApply,
    RefusesFromAnOldState,
    TakesItsPlaceForItsEntry,
    ForgetsWhatWasOnItsWay,
    SendsAnewWithoutReadingFirst,
    CallsWhatIsOnItsWayUndone,
    StaysWhenDeposed,
    HandsOnAndKeeps,
    ClaimsWithoutBarrier,
    GivesUpSilently,
    RepeatsItself,
    SendsStandbysNowhere,
    AnswersTheSameKeyAnew,
]


@pytest.mark.parametrize("broken", REPLICAS, ids=lambda broken: broken.__name__)
def test_finds_a_replica_that_breaks_its_word(broken: type[Replica]) -> None:
    assert_found(Machine, make=broken)


# ── the rest ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class ChangesADocumentTwice(batch.Batch):
    """Two requests change one document in one entry."""

    def _take(self, waiting: batch.Waiting) -> bool:
        self._touched.clear()
        return super()._take(waiting)


class SharesAnEntryUnderOneKey(batch.Batch):
    """Two requests with one key go into one entry: neither has seen the other."""

    def _take(self, waiting: batch.Waiting) -> bool:
        self._touched = {touched for touched in self._touched if isinstance(touched, tuple)}
        return super()._take(waiting)


class AuditsFromBeforeTheEntry(batch.Batch):
    """What a change found is looked up only once in a while."""

    _seen: ClassVar[dict[tuple[str, str], int]] = {}

    def _before(self, changes: tuple[Change, ...]) -> tuple[int, ...]:
        found = zip(changes, super()._before(changes), strict=True)
        return tuple(self._seen.setdefault((change.kind, change.id), before) for change, before in found)


class ForgetsWhatWasRefused(batch.Batch):
    """Of what a node refused only the first is noted."""

    def _decide(self, request: Request) -> Any:
        decided, size = super()._decide(request)
        if isinstance(decided, Commit) and decided.refused:
            decided = decided.model_copy(update={"refused": decided.refused[:1]})
        return decided, size


BATCHES = [ChangesADocumentTwice, SharesAnEntryUnderOneKey, AuditsFromBeforeTheEntry, ForgetsWhatWasRefused]


@pytest.mark.parametrize("broken", BATCHES, ids=lambda broken: broken.__name__)
def test_finds_an_entry_that_is_put_together_wrongly(broken: type[batch.Batch]) -> None:
    with mock.patch.object(replica, "Batch", broken):
        assert_found(Machine)


class PositionFirst(Store):
    """The position is saved before the effects, in a transaction of its own; the crash comes between them."""

    def apply(self, accepted: Accepted, position: int) -> None:
        if position % 3:
            super().apply(accepted, position)
        else:
            self.position = position


def test_finds_a_store_that_moves_on_without_the_effects() -> None:
    assert_found(Machine, store=PositionFirst)


def test_finds_a_client_that_tries_again_under_a_new_key() -> None:
    assert_found(Machine, new_key_on_retry=True)


def assert_found(machine: type[Machine], **variant: Any) -> None:
    """Asserts that the machine sees a promise broken."""
    broken = type(machine.__name__, (machine,), {"variant": variant})
    with _quiet(), pytest.raises(AssertionError) as found:
        run_state_machine_as_test(broken, settings=PROFILE)
    print(found.value)


@contextmanager
def _quiet() -> Iterator[None]:
    """The steps that led to the failure are of no interest here."""
    with mock.patch("hypothesis.reporting.default", lambda _: None):
        yield
