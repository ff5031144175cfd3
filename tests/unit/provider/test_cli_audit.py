"""The audit on a terminal."""

from datetime import UTC, datetime
from typing import Any

import pytest
import typer

from provider.cli.audit import items, line, moment

NOW = datetime(2030, 1, 31, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, None),
        ("30m", "2030-01-31T11:30:00+00:00"),
        ("2d", "2030-01-29T12:00:00+00:00"),
        ("1w", "2030-01-24T12:00:00+00:00"),
        ("2030-01-01T00:00:00Z", "2030-01-01T00:00:00+00:00"),
        ("2030-01-01", "2030-01-01T00:00:00+00:00"),
        ("2030-01-01T02:00:00+02:00", "2030-01-01T02:00:00+02:00"),
    ],
)
def test_times_are_given_as_people_do(text: str | None, expected: str | None) -> None:
    assert moment(text, NOW) == expected


@pytest.mark.parametrize("text", ["", "1", "h", "1y", "-1h", "yesterday", "999999w"])
def test_a_time_that_is_none_is_wrong_usage(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        moment(text, NOW)


def item(**other: Any) -> dict[str, Any]:
    return {
        "at": "2030-01-31T12:00:00.000Z",
        "principal": "token:a",
        "source": "192.0.2.1",
        "action": "PUT /api/v1/x",
        "outcome": "done",
        "status": 200,
        "code": None,
        "detail": None,
        "count": 1,
        "documents": [],
        **other,
    }


def test_an_item_is_a_line() -> None:
    documents = [
        {"kind": "setting", "id": "user.a", "before": before, "after": after}
        for before, after in ((None, 7), (6, 7), (6, None))
    ]
    assert line(item(documents=documents)) == (
        "2030-01-31T12:00:00.000Z  token:a from 192.0.2.1  PUT /api/v1/x  200  "
        "[setting user.a r7, setting user.a r6→r7, setting user.a r6 deleted]"
    )
    refused = item(
        source=None, principal="?", outcome="refused", status=401, code="unauthenticated", count=9, detail="no token"
    )
    assert line(refused) == ("2030-01-31T12:00:00.000Z  ?  PUT /api/v1/x  REFUSED 401 unauthenticated ×9: no token")
    assert line(item(action="PUT /\x1b[2J\n")).endswith("PUT /\ufffd[2J\ufffd  200")


class Pages:
    """A client whose pages are these."""

    def __init__(self, *pages: tuple[int, str | None]) -> None:
        self.pages, self.asked = list(pages), []  # type: ignore[var-annotated]

    def get(self, _path: str, **parameters: str) -> Any:
        self.asked.append(parameters)
        many, following = self.pages.pop(0)
        return {"items": [item()] * many, "next": following}


def test_a_search_is_gone_on_with_also_where_a_page_is_empty() -> None:
    client = Pages((2, "9.0"), (0, "5.0"), (1, None))
    assert len(list(items(client, {"code": "forbidden"}, 10))) == 3  # type: ignore[arg-type]
    assert [asked.get("after") for asked in client.asked] == [None, "9.0", "5.0"]
    assert [asked["limit"] for asked in client.asked] == ["10", "8", "8"]


def test_no_more_is_asked_for_than_is_wanted() -> None:
    client = Pages((2, "9.0"))
    assert len(list(items(client, {}, 2))) == 2  # type: ignore[arg-type]
