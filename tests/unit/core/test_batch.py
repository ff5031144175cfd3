"""What goes into the next entry: order, limits, and requests that mean harm."""

import json
from collections import deque
from dataclasses import dataclass
from typing import Any

import pytest

from provider.core.batch import ENTRY_MAX_BYTES, PLANS_MAX, Batch, Request, Waiting
from provider.core.commands import DeleteSetting, Plan, Precondition, PutSetting, RecordRefusals
from provider.core.entries import Attempt, Change, size
from provider.core.state import State
from shared.errors import BellwetherError, Invalid, NotFound, TooLarge

STATE = State.genesis(
    generation="g", primary="p1", now=1, changes=(Change(kind="setting", id="user.a", spec={"value": 0}),)
)


def request(ticket: int, command: Any, **other: Any) -> Request:
    return Request(ticket, command, **{"principal": "ann", "action": "a test", "deadline_s": 9.0, **other})


def fill(*requests: Request, state: State = STATE) -> tuple[Batch, list[int]]:
    """The batch made of `requests`, and the tickets that must wait."""
    queue = deque(Waiting(one) for one in requests)
    batch = Batch(state, 5)
    batch.fill(queue)
    return batch, [waiting.request.ticket for waiting in queue]


def tickets(decided: list[tuple[Request, Any]]) -> list[int]:
    return [one.ticket for one, _ in decided]


@dataclass(frozen=True)
class PutMany:
    keys: tuple[str, ...]
    value: Any = 1

    def plan(self, state: State, now: int) -> Plan:
        return Plan(200, None, tuple(Change(kind="setting", id=key, spec={"value": self.value}) for key in self.keys))


@dataclass(frozen=True)
class NoteOne:
    def plan(self, state: State, now: int) -> Plan:
        attempt = Attempt(at=now, node="p1", principal="?", action="PUT /x", code="forbidden", status=403)
        return RecordRefusals((attempt,)).plan(state, now)


@dataclass
class Counted:
    key: str
    plans: int = 0

    def plan(self, state: State, now: int) -> Plan:
        self.plans += 1
        return PutSetting(self.key, 1).plan(state, now)


@dataclass(frozen=True)
class Faulty:
    def plan(self, state: State, now: int) -> Plan:
        raise ZeroDivisionError


# ── order ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_requests_for_different_documents_share_an_entry() -> None:
    batch, waiting = fill(request(1, PutSetting("user.a", 1)), request(2, PutSetting("user.b", 1)))
    assert (tickets(batch.planned), waiting) == ([1, 2], [])


def test_a_document_changes_once_in_an_entry() -> None:
    batch, waiting = fill(request(1, PutSetting("user.a", 1)), request(2, PutSetting("user.a", 2)))
    assert (tickets(batch.planned), waiting) == ([1], [2])


def test_who_must_wait_holds_back_those_behind_that_touch_the_same() -> None:
    """Two reports of one agent: the first must wait because of another document in it. If the second went ahead, the
    older report would be written over the newer one."""
    batch, waiting = fill(
        request(1, PutMany(("user.a",))),
        request(2, PutMany(("user.a", "user.b"), "older")),
        request(3, PutMany(("user.b",), "newer")),
        request(4, PutMany(("user.c",))),
    )
    assert (tickets(batch.planned), waiting) == ([1, 4], [2, 3])


def test_each_request_sees_those_before_it() -> None:
    batch, _ = fill(
        request(1, DeleteSetting("user.a")),
        request(2, DeleteSetting("user.a")),
        request(3, PutSetting("user.b", 1, Precondition(absent=True))),
    )
    assert tickets(batch.planned) == [1, 3]
    assert [(one.ticket, type(error)) for one, error in batch.refused] == [(2, NotFound)]


def test_of_two_with_one_key_the_second_waits_for_the_first_ones_answer() -> None:
    batch, waiting = fill(
        request(1, PutSetting("user.a", 1), key="k"),
        request(2, PutSetting("user.b", 1), key="k"),
        request(3, PutSetting("user.b", 1), key="k", principal="bob"),
    )
    assert (tickets(batch.planned), waiting) == ([1, 3], [2])


def test_one_with_a_key_keeps_its_place_although_it_must_wait() -> None:
    batch, waiting = fill(
        request(1, PutSetting("user.a", 1)),
        request(2, PutSetting("user.a", 2), key="k"),
        request(3, PutSetting("user.b", 2), key="k"),
    )
    assert (tickets(batch.planned), waiting) == ([1], [2, 3])


def test_nobody_waits_for_ever() -> None:
    """Each entry decides at least on the first in the queue."""
    queue = deque(Waiting(request(ticket, PutMany(("user.a", f"user.{ticket % 3}")))) for ticket in range(20))
    order = []
    while queue:
        batch = Batch(STATE, 5)
        batch.fill(queue)
        order += tickets(batch.planned)
    assert order == list(range(20))


def test_each_change_says_which_revision_it_found() -> None:
    """Of the state that the entry will be applied to: also where others of the same entry come before it."""
    batch, _ = fill(
        request(1, PutMany(("user.new", "user.a"))), request(2, PutMany(("user.c",))), request(3, NoteOne())
    )
    assert [commit.before for _, commit in batch.planned] == [(0, 1), (0,), ()]


def test_what_was_refused_is_noted_beside_writes_and_changes_nothing() -> None:
    batch, waiting = fill(request(1, PutSetting("user.a", 1)), request(2, NoteOne()), request(3, NoteOne()))
    assert (tickets(batch.planned), waiting) == ([1, 2, 3], [])
    assert [len(commit.refused) for _, commit in batch.planned] == [0, 1, 1]
    assert [len(commit.changes) for _, commit in batch.planned] == [1, 0, 0]


# ── limits ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_crowd_at_one_document_is_not_planned_again_for_every_entry() -> None:
    commands = [Counted("user.a") for _ in range(50)]
    queue = deque(Waiting(request(ticket, command)) for ticket, command in enumerate(commands))
    while queue:
        Batch(STATE, 5).fill(queue)
    assert max(command.plans for command in commands) <= 2


def test_an_entry_takes_a_limited_number_of_requests() -> None:
    requests = [request(ticket, PutSetting(f"user.{ticket}", 1)) for ticket in range(PLANS_MAX + 5)]
    batch, waiting = fill(*requests)
    assert len(batch.planned) == PLANS_MAX
    assert waiting == list(range(PLANS_MAX, PLANS_MAX + 5))


def test_refusals_count_too() -> None:
    batch, waiting = fill(*[request(ticket, DeleteSetting("user.none")) for ticket in range(PLANS_MAX + 1)])
    assert (len(batch.refused), waiting) == (PLANS_MAX, [PLANS_MAX])


def test_an_entry_is_closed_when_it_is_full() -> None:
    large = "x" * (60 * 1024)
    batch, waiting = fill(*[request(ticket, PutSetting(f"user.{ticket}", large)) for ticket in range(30)])
    assert sum(size(commit) for _, commit in batch.planned) < ENTRY_MAX_BYTES + 64 * 1024
    assert len(batch.planned) + len(waiting) == 30
    assert waiting


# ── harm ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


HARMFUL = {
    "larger than an entry may be": (PutMany(("user.b",), "x" * ENTRY_MAX_BYTES), {}, TooLarge),
    "contents that cannot be written": (PutMany(("user.b",), "\ud800"), {}, Invalid),
    "contents too deep to be read again": (PutMany(("user.b",), json.loads("[" * 120 + "]" * 120)), {}, Invalid),
    "an action that cannot be written": (PutSetting("user.b", 1), {"action": "\udc00"}, Invalid),
    "a key that is too long": (PutSetting("user.b", 1), {"key": "k" * 256}, Invalid),
    "an empty key": (PutSetting("user.b", 1), {"key": ""}, Invalid),
    "a fault of ours": (Faulty(), {}, BellwetherError),
    "one document twice": (PutMany(("user.b", "user.b")), {}, BellwetherError),
}


@pytest.mark.parametrize(("command", "other", "kind"), HARMFUL.values(), ids=HARMFUL)
def test_a_harmful_request_is_refused_and_harms_nobody(command: Any, other: Any, kind: type[BellwetherError]) -> None:
    """Else it would fell this primary, be tried again with the next one, and fell that too."""
    batch, waiting = fill(
        request(1, PutSetting("user.a", 1)), request(2, command, **other), request(3, PutSetting("user.c", 1))
    )
    assert (tickets(batch.planned), waiting) == ([1, 3], [])
    ((refused, error),) = batch.refused
    assert (refused.ticket, type(error)) == (2, kind)
    error.detail.encode()


def test_a_fault_of_ours_can_be_traced() -> None:
    ((_, error),) = fill(request(1, Faulty()))[0].refused
    assert (error.code, error.status) == ("internal", 500)
    assert isinstance(error.__cause__, ZeroDivisionError)
