"""What a node had accepted and the others have gone on without: kept in a file, for people to look at."""

import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from provider.store import HistoryRow, Store
from shared.files import write_atomically

DIRECTORY = "set-aside"
PAGE = 500


def first_alone(store: Store, theirs: Iterable[str]) -> int:
    """The lowest revision in the history of `store` that is not known to be in that of another member, `theirs`: newest
    first, as `GET /history` tells it. Whoever has the same record at one revision has the same before it. Where nothing
    matches it is the first of all. Raises `Unavailable`, `ValueError` where it is no history."""
    for line in theirs:
        revision, *their = json.loads(line)
        if revision == "end":
            break
        ours = store.history(revision - 1, 1, checked=False)
        if not ours:
            continue
        if ours[0].revision == revision and _same(ours[0], *their):
            return int(revision) + 1
    return store.oldest_history() or 1


def _same(ours: HistoryRow, epoch: int, _at: int, record: str) -> bool:
    return ours.epoch == epoch and (ours.record == record or _parsed(ours.record) == _parsed(record))


def set_aside(store: Store, data_dir: Path, first: int) -> Path | None:
    """Writes the records of the history from revision `first` on, one a line, as `GET /events` tells them; None: there
    are none. Nobody but the provider may read the file. Raises `Unavailable`, `OSError`."""
    newest = store.history_back(2**62, first - 1, 1, checked=False)
    if not newest:
        return None
    directory = data_dir / DIRECTORY
    directory.mkdir(mode=0o700, exist_ok=True)
    name = time.strftime(f"revisions-{first}-{newest[0].revision}-%Y%m%dT%H%M%SZ.ndjson", time.gmtime())
    write_atomically(directory / name, _lines(store, first))
    return directory / name


def _lines(store: Store, first: int) -> Iterator[str]:
    after = first - 1
    while rows := store.history(after, PAGE, checked=False):
        for row in rows:
            record = {"revision": row.revision, "epoch": row.epoch, "record": _parsed(row.record)}
            yield json.dumps(record) + "\n"
        after = rows[-1].revision


def _parsed(record: str) -> Any:
    """As text, where it is damaged."""
    try:
        return json.loads(record)
    except ValueError:
        return record
