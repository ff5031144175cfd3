"""The audit: what was asked, by whom, and what became of it, as the history of accepted records tells it.

Nothing is kept for it beside the history, which is a copy of the log: so it is the same on every node, and nobody can
change a line of it.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pydantic_core

from provider.api.views import time_text
from provider.core.commands import LATE_MAX_MS
from provider.store import HistoryRow

Holding = Sequence[Sequence[str]]
ReadBack = Callable[[int, int, int, Holding], list[HistoryRow]]
"""`Store.history_back`."""

SCANNED_MAX = 20_000
SCAN_S = 1.0
"""What one request may cost: so many records, or so long. Then it says what was found, and where to go on."""
CHUNK = 1000
ROWS = 50
"""Read at once. A record can have 2 MiB."""
BOOKKEEPING = frozenset({"RecordStatus", "RecordTokenUses"})
"""Actions of nodes that only write down what agents report, and when tokens were last used: most of what there is, and
of no interest here."""
DOCUMENTS_MAX = 20_000
"""Of all items on a page; one more item is begun with fewer. A report of many agents can name thousands."""
Item = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Filter:
    """What to show. Times are Unix milliseconds, both included."""

    principal: str | None = None
    source: str | None = None
    action: str | None = None
    kind: str | None = None
    id: str | None = None
    outcome: Literal["done", "refused"] | None = None
    code: str | None = None
    since: int | None = None
    until: int | None = None
    bookkeeping: bool = False

    def holding(self) -> list[tuple[str, ...]]:
        """Texts that a record must hold to have anything to show. They are as in its JSON; what else may hold them is
        sorted out later."""
        wanted: list[tuple[str, ...]] = []
        for name, value in (("principal", self.principal), ("source", self.source), ("code", self.code)):
            if value is not None:
                wanted.append((f'"{name}":"{_escaped(value)}"',))
        if self.action is not None:
            wanted.append((_escaped(self.action), '"type":"claim"'))  # whose action is not in its text
        document = [f'"{name}":"{_escaped(v)}"' for name, v in (("kind", self.kind), ("id", self.id)) if v is not None]
        if document:
            wanted.append((",".join(document),))
        if self.outcome == "refused":
            wanted.append(('"refused":[{',))
        return wanted

    def accepts(self, item: Item, at_ms: int) -> bool:
        """Whether `item`, of `at_ms`, is to be shown."""
        return (
            self.principal in (None, item["principal"])
            and self.source in (None, item["source"])
            and (self.action is None or self.action in item["action"])
            and self.outcome in (None, item["outcome"])
            and self.code in (None, item["code"])
            and (self.since is None or at_ms >= self.since)
            and (self.until is None or at_ms <= self.until)
            and (
                (self.kind is None and self.id is None)
                or any(self.kind in (None, d["kind"]) and self.id in (None, d["id"]) for d in item["documents"])
            )
        )


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the history to go on: with what is older than item `index` of this revision's."""

    revision: int
    index: int = 0

    def __str__(self) -> str:
        return f"{self.revision}.{self.index}"


@dataclass(slots=True)
class Page:
    items: list[Item] = field(default_factory=list)
    next: Place | None = None
    complete: bool = True
    """False: it took too long; there may be more before `next`, however many items there are."""


def search(read: ReadBack, what: Filter, *, start: Place, floor: int, limit: int) -> Page:
    """At most `limit` items, newest first, of revisions above `floor`. Reads the store: not for the event loop."""
    page, holding = Page(), what.holding()
    deadline_s, scanned, documents, below = time.monotonic() + SCAN_S, 0, 0, start.revision + 1
    while below > floor + 1:
        above = max(floor, below - CHUNK - 1)
        rows = read(below, above, ROWS, holding)
        for row in rows:
            for index, item, at_ms in reversed(list(items_of(row, bookkeeping=what.bookkeeping))):
                passed = row.revision == start.revision and index >= start.index
                if passed or not what.accepts(item, at_ms):
                    continue
                if len(page.items) == limit or documents >= DOCUMENTS_MAX:
                    return page
                page.items.append(item)
                documents += len(item["documents"])
                page.next = Place(row.revision, index)
        reached = rows[-1].revision if len(rows) == ROWS else above + 1
        scanned += below - reached
        below = reached
        if (scanned >= SCANNED_MAX or time.monotonic() >= deadline_s) and below > floor + 1:
            page.next, page.complete = Place(below), False
            return page
    page.next = None
    return page


def items_of(row: HistoryRow, *, bookkeeping: bool) -> Iterator[tuple[int, Item, int]]:
    """What one accepted record has for the audit, in its order, each with its number and its time (Unix ms)."""
    record = json.loads(row.record)
    if record["type"] == "claim":
        action = f"promotion of {record['node']}, epoch {row.epoch}"
        yield 0, _item(row, row.at, {**record, "principal": record.get("principal", "?"), "action": action}), row.at
        return
    index = 0
    for commit in record["commits"]:
        refused = commit.get("refused", ())
        for attempt in refused:
            yield index, _item(row, attempt["at"], attempt), attempt["at"]
            index += 1
        if not refused:
            if bookkeeping or not _is_bookkeeping(commit):
                yield index, _item(row, row.at, {**commit, "node": record["node"]}), row.at
            index += 1


def _item(row: HistoryRow, at_ms: int, said: dict[str, Any]) -> Item:
    code = said.get("code") or None
    return {
        "at": time_text(at_ms),
        "revision": row.revision,
        "node": said["node"],
        "principal": said["principal"],
        "source": said.get("source"),
        "action": said["action"],
        "outcome": "done" if code is None else "refused",
        "status": said.get("status", 200),
        "code": code,
        "detail": said.get("detail"),
        "count": said.get("count", 1),
        "documents": _documents(row.revision, said),
    }


def _documents(revision: int, said: dict[str, Any]) -> list[dict[str, Any]]:
    changes = said.get("changes", ())
    before = [*said.get("before", ()), *([None] * len(changes))]  # of older records it is not known
    return [
        {
            "kind": change["kind"],
            "id": change["id"],
            "change": "deleted" if change["spec"] is None else "put",
            "before": found or None,
            "after": None if change["spec"] is None else revision,
        }
        for change, found in zip(changes, before, strict=False)
    ]


def _is_bookkeeping(commit: dict[str, Any]) -> bool:
    return commit["action"] in BOOKKEEPING and str(commit["principal"]).startswith("node:")


def _escaped(text: str) -> str:
    """`text` as it stands between quotes in the JSON that the log holds."""
    return pydantic_core.to_json(text)[1:-1].decode()


def latest(until: int | None) -> int | None:
    """The last moment (Unix ms) at which something of `until` or before may have been accepted."""
    return None if until is None else until + LATE_MAX_MS
