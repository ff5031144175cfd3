"""What is shown: times that people read, pages without gaps, and nothing that is secret."""

import json
from datetime import UTC, datetime
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider.api import views
from provider.core.documents import CONTENTS, SECRETS, Document, Kind
from shared.errors import BellwetherError, NotFound, OutcomeUnknown


def document(kind: Kind, spec: dict[str, Any]) -> Document:
    return Document(kind, "x", 7, 7, 1_700_000_000_000, 1_700_000_000_123, spec, {})


def test_times_are_rfc_3339_in_utc_with_milliseconds() -> None:
    assert views.time_text(1_700_000_000_123) == "2023-11-14T22:13:20.123Z"
    assert views.time_text(1_700_000_000_000) == "2023-11-14T22:13:20.000Z"
    assert views.time_text(None) is None


@given(st.integers(0, 4_000_000_000_000))
def test_times_keep_their_milliseconds(at: int) -> None:
    text = views.time_text(at)
    assert text is not None
    assert round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000) == at


@pytest.mark.parametrize("kind", [kind for kind in get_args(Kind) if SECRETS.get(kind)])
def test_no_view_and_no_event_tells_a_secret(kind: Kind) -> None:
    secret = {name: f"the {name}" for name in SECRETS[kind]}
    assert secret.keys() <= CONTENTS[kind][0].model_fields.keys(), "a field that does not exist hides nothing"
    shown = views.document_view(document(kind, secret | {"role": "kept"}))
    assert shown["spec"] == {"role": "kept"}
    change = {"kind": kind, "id": "x", "spec": secret | {"role": "kept"}, "status": {}}
    entry = {"type": "entry", "at": 0, "node": "p1", "epoch": 1, "commits": [{"principal": "ann", "changes": [change]}]}
    event = views.event_view(entry, 7)
    assert event["changes"][0]["spec"] == {"role": "kept"}
    assert not any(value in json.dumps([shown, event]) for value in secret.values())


def test_events_tell_who_did_what_and_when() -> None:
    gone: dict[str, Any] = {"kind": "setting", "id": "user.x", "spec": None, "status": {}}
    entry = {"type": "entry", "at": 0, "node": "p1", "epoch": 3, "commits": [{"principal": "ann", "changes": [gone]}]}
    assert views.event_view(entry, 7) == {
        "revision": 7,
        "type": "entry",
        "at": "1970-01-01T00:00:00.000Z",
        "node": "p1",
        "epoch": 3,
        "changes": [{"op": "delete", "kind": "setting", "id": "user.x", "principal": "ann"}],
    }
    claim = views.event_view({"type": "claim", "at": 0, "node": "p2", "ends": 3}, 8)
    assert (claim["epoch"], claim["primary"], claim["changes"]) == (4, "p2", [])


def test_a_problem_says_what_it_is_and_whether_to_ask_again() -> None:
    assert views.problem(NotFound("there is no x")) == {
        "type": "about:blank",
        "title": "not found",
        "status": 404,
        "detail": "there is no x",
        "code": "not_found",
        "retryable": False,
    }
    assert views.problem(OutcomeUnknown("?"))["retryable"] is True
    assert views.problem(BellwetherError("?"))["status"] == 500
    assert views.problem(NotFound("?"), 405)["status"] == 405


@given(st.sets(st.text("abc", min_size=1, max_size=4)), st.integers(1, 5))
def test_pages_hold_everything_once_and_in_order(ids: set[str], limit: int) -> None:
    items = [{"id": id_} for id_ in sorted(ids)]
    found: list[str] = []
    after: str | None = None
    while True:
        page = views.page(items, 9, limit, after)
        assert len(page["items"]) <= limit
        assert page["revision"] == 9
        found += [item["id"] for item in page["items"]]
        after = page["next"]
        if after is None:
            break
        assert after == found[-1]
    assert found == sorted(ids)
