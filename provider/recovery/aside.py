"""What a node had accepted and the others have gone on without: kept in a file, for people to look at."""

import json
import time
from pathlib import Path

from provider.store import Store
from shared.files import write_atomically

DIRECTORY = "set-aside"
PAGE = 500


def set_aside(store: Store, data_dir: Path, first: int, last: int) -> Path | None:
    """Writes the records `first` to `last` of the history, one a line, as `GET /events` tells them; None: there are
    none. Nobody but the provider may read the file. Raises `Unavailable`, `OSError`."""
    lines: list[str] = []
    after = first - 1
    while after < last and (rows := store.history(after, PAGE)):
        rows = [row for row in rows if row.revision <= last]
        lines += [json.dumps({"revision": r.revision, "epoch": r.epoch, "record": json.loads(r.record)}) for r in rows]
        after = rows[-1].revision if rows else last
    if not lines:
        return None
    directory = data_dir / DIRECTORY
    directory.mkdir(mode=0o700, exist_ok=True)
    name = time.strftime(f"revisions-{first}-{last}-%Y%m%dT%H%M%SZ.ndjson", time.gmtime())
    write_atomically(directory / name, "\n".join(lines) + "\n")
    return directory / name
