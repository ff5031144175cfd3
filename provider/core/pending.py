"""What a replica has on its way, and what is said of it when time runs out."""

from dataclasses import dataclass

from provider.core.batch import Request
from provider.core.entries import Barrier, Claim, Entry
from provider.core.instructions import Asker, Done, Instruction, NotPrimary, Now, Progress
from provider.core.state import Answer, State
from shared.errors import Behind, BellwetherError, LogUnavailable, OutcomeUnknown

Result = Answer | BellwetherError | NotPrimary | Progress
"""What somebody who asked is told."""


@dataclass(slots=True)
class InFlight:
    """What is on its way: an entry, or a barrier where every request was refused."""

    record: Entry | Barrier
    requests: list[Request | None]
    """In the order of the entry's commits; None where the asker has given up."""
    refused: list[tuple[Request, BellwetherError]]
    revision: int
    """Of the state that all this was decided on."""
    sent_s: float

    @property
    def held(self) -> list[Request]:
        """Everyone who waits for it."""
        return [*(r for r in self.requests if r is not None), *(r for r, _ in self.refused)]


@dataclass(slots=True)
class Waiter:
    """Someone who waits for a barrier, and then perhaps for a claim."""

    ticket: int
    deadline_s: float
    record: Barrier | Claim
    promote: bool
    sent_s: float
    asked_by: Asker
    ends: int | None
    """The epoch that the promotion is meant to end: the one that whoever asked saw. None: whichever is there then."""
    force: bool = False
    """Claim without asking the other members."""
    vouched: int = 0
    """The connection for which the other members were asked about its claim."""


def unheard(waiter: Waiter) -> Done:
    """What is said to somebody whose barrier or claim was not read back in time."""
    claimed = isinstance(waiter.record, Claim)
    return Done(waiter.ticket, OutcomeUnknown(_CLAIM_UNKNOWN) if claimed else LogUnavailable(_NO_END))


def replaced(waiter: Waiter) -> Done:
    """What is said to somebody whose barrier or claim nobody will read any more: another state takes the place of the
    one that it was asked for."""
    return unheard(waiter) if isinstance(waiter.record, Claim) else Done(waiter.ticket, Behind(_REPLACED))


def overdue(flying: InFlight, now: Now) -> list[Instruction]:
    """Answers for those who cannot wait any longer for what is on its way."""
    out: list[Instruction] = []
    for index, request in enumerate(flying.requests):
        if request is not None and request.deadline_s <= now.mono_s:
            flying.requests[index] = None
            out.append(Done(request.ticket, OutcomeUnknown(UNKNOWN)))
    late = [r for r, _ in flying.refused if r.deadline_s <= now.mono_s]
    flying.refused = [(r, refusal) for r, refusal in flying.refused if r.deadline_s > now.mono_s]
    return out + [Done(request.ticket, LogUnavailable(NOT_WRITTEN)) for request in late]


NOT_WRITTEN = "the log cannot be written at the moment; nothing was done: try again"
UNKNOWN = (
    "the log has not confirmed this write; it may have happened or may yet: ask again with the same Idempotency-Key"
)
_NO_END = "the log could not be read to its end in time: is the broker there, with a majority of its members?"
_REPLACED = (
    "this node has just taken another state in the place of its own (what its store holds, or another member's), to go "
    "on from there; nothing was claimed: ask again"
)
_CLAIM_UNKNOWN = (
    "the claim was sent, but the log has not confirmed it in time: it may yet win; see `failover --operation status`"
)


def proven(result: Result, state: State) -> Result:
    """What is told of `result`, which waited for the store, where `state` has taken the place of what it came of. A
    success is one still where that state has what was written."""
    if isinstance(result, Progress) and result.step == "claimed":
        return OutcomeUnknown(_CLAIM_UNKNOWN)
    if not isinstance(result, Answer):
        return result
    written = result.document
    there = written is not None and state.get(written.kind, written.id) == written
    return result if there else OutcomeUnknown(UNKNOWN)


def left_over(flying: InFlight) -> list[Instruction]:
    """Answers for those who wait for what nobody will read any more."""
    out: list[Instruction] = [Done(r.ticket, OutcomeUnknown(UNKNOWN)) for r in flying.requests if r is not None]
    return out + [Done(r.ticket, LogUnavailable(NOT_WRITTEN)) for r, _ in flying.refused]
