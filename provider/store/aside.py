"""A store that cannot be used any more is kept: somebody may want to look at it."""

import time
from pathlib import Path

from sqlalchemy import inspect, text

from provider.store.connections import open_engine, parse_url, translated
from provider.store.tables import metadata


def set_store_aside(url: str) -> str:
    """Renames the database file and what belongs to it, or the tables; says what they are called now. Nothing else may
    have the file open; other nodes may use the tables, and find them gone (`StoreEmptied`). Raises a
    `BellwetherError`, `OSError`."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    parsed = parse_url(url)
    if parsed.drivername.startswith("sqlite"):
        path = Path(parsed.database or "")
        kept = path.with_name(f"{path.name}.torn-{stamp}")
        for end in ("", "-wal", "-shm"):
            part = path.with_name(path.name + end)
            if part.exists():
                part.rename(kept.with_name(kept.name + end))
        return str(kept)
    engine = open_engine(url)
    names = [*metadata.tables, "alembic_version"]
    with translated(engine), engine.begin() as connection:
        there = [name for name in names if inspect(connection).has_table(name)]
        # In one statement, which is done as a whole or not at all: without some of them it would be neither the old
        # store nor an empty one.
        if there:
            connection.execute(text("RENAME TABLE " + ", ".join(f"{n} TO {n}_torn_{stamp.lower()}" for n in there)))
    engine.dispose()
    return f"tables *_torn_{stamp.lower()}"
