"""How the audit is asked for and shown on a terminal."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import typer

from provider.client import Client

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
PAGE = 200


def moment(text: str | None, now: datetime) -> str | None:
    """`1h`, `30m`, `2d` before `now`, or a time as in RFC 3339, for the API. Raises `typer.BadParameter`."""
    if text is None:
        return None
    ago = re.fullmatch(r"([0-9]{1,6})([smhdw])", text)
    try:
        span = None if ago is None else timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        then = datetime.fromisoformat(text) if span is None else now - span
    except (ValueError, OverflowError):
        raise typer.BadParameter(f"{text!r}: expected 30m, 1h, 2d, or a time such as 2030-01-31T12:00:00Z") from None
    return (then if then.tzinfo is not None else then.replace(tzinfo=UTC)).isoformat()


def items(client: Client, asked: dict[str, str], limit: int) -> Iterator[dict[str, Any]]:
    """At most `limit` items, newest first, as they come: a search may take several pages without finding anything."""
    after: dict[str, str] = {}
    while limit > 0:
        page = client.get("/audit", limit=str(min(limit, PAGE)), **asked, **after)
        yield from page["items"]
        limit -= len(page["items"])
        if page["next"] is None:
            return
        after = {"after": page["next"]}


def line(item: dict[str, Any]) -> str:
    """One item for people: when, who from where, what, what became of it, on which documents."""
    who = item["principal"] + (f" from {item['source']}" if item["source"] else "")
    outcome = str(item["status"]) if item["outcome"] == "done" else f"REFUSED {item['status']} {item['code']}"
    times = f" ×{item['count']}" if item["count"] > 1 else ""
    changed = ", ".join(map(_document, item["documents"]))
    detail = f": {item['detail']}" if item["detail"] else ""
    text = f"{item['at']}  {who}  {item['action']}  {outcome}{times}{detail}{f'  [{changed}]' if changed else ''}"
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


def _document(document: dict[str, Any]) -> str:
    before, after = document["before"], document["after"]
    change = f"r{after}" if before is None else f"r{before} deleted" if after is None else f"r{before}→r{after}"
    return f"{document['kind']} {document['id']} {change}"
