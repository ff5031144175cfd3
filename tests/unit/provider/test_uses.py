"""When tokens were used, and which were refused: remembered within bounds."""

import time

import pytest

from provider.api.access import uses as module
from provider.api.access.refused import LINES_A_MINUTE, TokensRefused
from provider.api.access.uses import Uses
from provider.core.commands import USES_MAX, RecordTokenUses, TokenUse
from provider.core.entries import Change
from provider.core.state import State
from shared.errors import TokenRefused
from tests.support.history import accept_entry, commit_of, genesis

NOW_MS = int(time.time() * 1000)


def state(*ids: str, **status: int) -> State:
    spec = {"role": "viewer", "sha256": "x"}
    changes = [Change(kind="token", id=id_, spec=spec, status=status) for id_ in ids]
    return accept_entry(genesis(), commit_of(*changes)).state


def test_what_was_used_is_due_until_it_is_recorded() -> None:
    uses, known = Uses(), state("a", "b")
    uses.note("a", "192.0.2.1")
    (due,) = uses.due(known)
    assert (due.id, due.source) == ("a", "192.0.2.1")
    assert uses.due(known) == (due,), "asked again, where the first time came to nothing"
    (change,) = RecordTokenUses((due,)).plan(known, due.at).changes
    assert uses.due(accept_entry(known, commit_of(change)).state) == ()


def test_the_later_of_two_uses_counts_whoever_saw_it() -> None:
    uses, known = Uses(), state("a", last_used_at=5)
    token = known.get("token", "a")
    assert token is not None
    assert uses.last(token) == (5, None)
    uses.heard([TokenUse("a", 7, "there"), TokenUse("a", 6, "elsewhere"), TokenUse("a", 3, "long ago")])
    assert uses.last(token) == (7, "there")
    uses.heard([TokenUse("a", 4, "late news")])
    assert uses.last(token) == (7, "there")


def test_tokens_that_are_gone_are_forgotten_and_those_on_their_way_are_not() -> None:
    uses, now_ms = Uses(), int(time.time() * 1000)  # the module may have been imported long ago
    uses.heard([TokenUse("gone", now_ms - 120_000, None), TokenUse("young", now_ms, None)])
    assert uses.due(state()) == ()
    assert [due.id for due in uses.due(state("gone", "young"))] == ["young"]


def test_no_more_is_told_or_kept_than_is_good(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT_MAX", 300)
    ids = [f"t{number:04}" for number in range(500)]
    uses, known = Uses(), state(*ids)
    uses.heard(TokenUse(id_, NOW_MS + number, None) for number, id_ in enumerate(ids))
    told = uses.due(known)
    assert [use.id for use in told] == ids[:USES_MAX], "the oldest first"
    assert [use.id for use in uses.due(known)] == ids[200 : 200 + USES_MAX], "and of the rest the newest are kept"


def test_refusals_are_all_counted_and_not_all_logged(lines: list[str]) -> None:
    refused = TokensRefused()
    for number in range(10 * LINES_A_MINUTE):
        refused.note(TokenRefused("no", reason="unknown", token_id=f"id{number}"), "192.0.2.1")
    assert refused.counts == {"unknown": 10 * LINES_A_MINUTE}
    assert LINES_A_MINUTE < len(lines) <= 2 * (LINES_A_MINUTE + 1), "a minute may end in between"
    assert "id0" in lines[0]
    assert "192.0.2.1" in lines[0]


def test_what_may_be_a_secret_and_what_is_not_text_is_not_logged(lines: list[str]) -> None:
    refused = TokensRefused()
    refused.note(TokenRefused("no", reason="unknown", token_id="f" * 64), None)
    refused.note(TokenRefused("no", reason="unknown", token_id="a\nb\x1b[2J"), None)
    assert "f" * 64 not in lines[0]
    assert "\x1b" not in lines[1]
    assert lines[1].count("\n") == 1
