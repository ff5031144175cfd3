"""The next entry: which of the waiting requests go into it, and what is to be said to the others.

Requests are taken in the order of their arrival, and planned one upon the other: each sees the changes of those before
it. Three rules:

1. **Each document changes at most once in an entry.** Two changes would share a revision, and the first writer's
   `If-Match` could not tell that the second one came between.
2. A request that must wait for the entry after this one holds back everything behind it that touches the same
   documents or bears the same key: writes to one document are done in the order in which they came.
3. No request can do harm to others: not by its size, not by contents that no entry can hold, not by a fault in our own
   code for it. It would fell this primary, be retried with the next one, and fell that too.
"""

from collections import deque
from dataclasses import dataclass

from pydantic import ValidationError

from provider.core import state as sm
from provider.core.commands import Command
from provider.core.entries import Change, Commit, size
from provider.core.state import Answer, State, scoped_key
from shared.errors import BellwetherError, Invalid, Refusal, TooLarge

ENTRY_MAX_BYTES = 1024 * 1024
"""A batch is closed once it has this much; and no single commit may be larger."""
PLANS_MAX = 256
"""Plans made for one entry: planning holds up everything else; at some 20 µs each this is 5 ms."""


@dataclass(frozen=True, slots=True)
class Request:
    """A write to be committed. `ticket` names it in the answer; it is given up at `deadline_s` (monotonic)."""

    ticket: int
    command: Command
    principal: str
    action: str
    deadline_s: float
    key: str | None = None
    fingerprint: str = ""
    source: str | None = None


@dataclass(slots=True)
class Waiting:
    """A request in the queue."""

    request: Request
    touches: frozenset[object] = frozenset()
    """What it was found to touch when it last had to wait. While others before it touch that, it is not planned again:
    a crowd at one document would be planned as a whole for every entry."""


class Batch:
    """One entry in the making, on top of `state`. `now_ms` is the time that will be in the entry."""

    def __init__(self, state: State, now_ms: int) -> None:
        self._state, self._now_ms = state, now_ms
        self._plans = self._bytes = 0
        self._touched: set[object] = set()
        self.planned: list[tuple[Request, Commit]] = []
        self.refused: list[tuple[Request, BellwetherError]] = []
        self.answered: list[tuple[Request, Answer]] = []
        """Those whose key was used before, with what it was answered then."""

    def fill(self, queue: deque[Waiting]) -> None:
        """Take from `queue` what fits. What must wait stays there, in its order."""
        later: deque[Waiting] = deque()
        while queue and self._plans < PLANS_MAX and self._bytes < ENTRY_MAX_BYTES:
            waiting = queue.popleft()
            if not self._take(waiting):
                later.append(waiting)
        queue.extendleft(reversed(later))

    def _take(self, waiting: Waiting) -> bool:
        request = waiting.request
        key: object = scoped_key(request.principal, request.key) if request.key is not None else None
        if key in self._touched or not waiting.touches.isdisjoint(self._touched):
            self._touched |= waiting.touches
            return False
        known = self._state.keys.get(key) if isinstance(key, str) else None
        if known is not None:
            self._repeat(known, request)
            return True
        self._plans += 1
        decided, bytes_ = self._decide(request)
        touches = frozenset[object]() if key is None else frozenset((key,))
        if isinstance(decided, Commit):
            refs = {(change.kind, change.id) for change in decided.changes}
            touches |= refs
            if not refs.isdisjoint(self._touched):
                waiting.touches = touches
                self._touched |= touches
                return False
            self.planned.append((request, decided))
            self._bytes += bytes_
            self._state = sm.preview(self._state, decided, self._now_ms)
        else:
            self.refused.append((request, decided))
        self._touched |= touches
        return True

    def _repeat(self, known: sm.KeyRecord, request: Request) -> None:
        if known.request == request.fingerprint:
            self.answered.append((request, known.answer))
        else:
            text = "this Idempotency-Key was used for another request: choose a new key for a new request"
            self.refused.append((request, Invalid(text)))

    def _decide(self, request: Request) -> tuple[Commit | BellwetherError, int]:
        """What becomes of it, and how many bytes that is in the log."""
        try:
            plan = request.command.plan(self._state, self._now_ms)
            if len({(change.kind, change.id) for change in plan.changes}) < len(plan.changes):
                raise AssertionError(f"{type(request.command).__name__} changes a document twice")  # noqa: TRY301
            commit = Commit(
                principal=request.principal,
                action=request.action,
                source=request.source,
                key=request.key,
                request=request.fingerprint,
                status=plan.status,
                target=plan.target,
                changes=plan.changes,
                before=self._before(plan.changes),
                refused=plan.refused,
            )
        except Refusal as refusal:
            return refusal, 0
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            return Invalid(f"{where or error.title}: {first['msg']}"), 0
        except Exception as error:  # noqa: BLE001  rule 3
            return _fault(error), 0
        bytes_ = size(commit)
        if bytes_ > ENTRY_MAX_BYTES:
            return TooLarge(f"this would be {bytes_} bytes in the log; at most {ENTRY_MAX_BYTES} are allowed"), 0
        return commit, bytes_

    def _before(self, changes: tuple[Change, ...]) -> tuple[int, ...]:
        """The revision that each document has now, 0 where it is not there. What is planned here is applied to just
        these documents or not at all, so it is true wherever it is accepted."""
        found = [self._state.get(change.kind, change.id) for change in changes]
        return tuple([0 if document is None else document.revision for document in found])


def _fault(error: Exception) -> BellwetherError:
    fault = BellwetherError(f"this request met a fault in the program and was not done: {type(error).__name__}")
    fault.__cause__ = error
    return fault
