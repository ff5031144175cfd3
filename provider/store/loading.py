"""Reading the whole state back, and seeing to it that it is what was written."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, inspect, select, text
from sqlalchemy.exc import IntegrityError

from provider.core.documents import Document, fingerprint
from provider.core.state import Answer, KeyRecord, State
from provider.log.port import Position
from provider.store.errors import StoreCorrupt, StoreTooNew, StoreUnavailable
from provider.store.tables import SCHEMA, documents, keys, meta, metadata

_STREAM = {"stream_results": True, "yield_per": 2000}


def has_tables(connection: Connection) -> bool:
    return inspect(connection).has_table(meta.name)


def schema(connection: Connection) -> str | None:
    """The migration that the tables are at; None where there are none."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return found


def migrate(connection: Connection) -> None:
    """See `Store.migrate`."""
    if schema(connection) == SCHEMA:
        # Where somebody dropped some of the tables, or renaming them was interrupted.
        metadata.create_all(connection)
        return
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    _refuse_newer(schema(connection), known)
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, SCHEMA)
    except (CommandError, IntegrityError) as error:
        raise StoreUnavailable(f"another node worked on the store's tables at the same moment: {error}") from error


def _refuse_newer(found: str | None, known: Iterable[str]) -> None:
    if found is not None and found not in known:
        raise StoreTooNew(
            f"the store has schema {found}, made by a newer version; this one knows {SCHEMA}: run the newer version"
        )


def load(connection: Connection) -> tuple[State, Position | None]:
    """See `Store.load`."""
    found = schema(connection)
    _refuse_newer(found, {SCHEMA})
    row = connection.execute(select(meta)).one_or_none() if found is not None else None
    if row is None:
        raise StoreCorrupt("the store holds no state: run `provider init` or `provider join`")
    try:
        state = _state(connection, row)
    except (ValueError, TypeError, KeyError) as error:
        raise StoreCorrupt(f"the store holds text that cannot be read: {error}") from error
    if f"{state.checksum:064x}" != row.checksum or state.digest != row.digest:
        raise StoreCorrupt(
            f"the store's content at revision {row.revision} does not have the digest that it was written with: rows "
            f"were changed or lost; join this node anew, or restore a backup"
        )
    position = Position(row.position_offset, row.position_digest) if row.position_offset is not None else None
    return state, position


def _state(connection: Connection, row: Row[Any]) -> State:
    with connection.execute(select(documents.c.text), execution_options=_STREAM).scalars() as texts:
        by_text = {stored: Document.from_text(stored) for stored in texts}
    with connection.execute(select(keys.c.text).order_by(keys.c.number), execution_options=_STREAM).scalars() as texts:
        # The row of a key that was used again is there until its turn comes to go. The later one counts.
        used = {record.key: record for record in (_key(stored, by_text) for stored in texts)}
    return State.restored(
        generation=row.generation,
        epoch=row.epoch,
        primary=row.primary_node,
        revision=row.revision,
        now=row.now_ms,
        next_key=row.next_key,
        documents=by_text.values(),
        keys=used.values(),
        checksum=sum(map(fingerprint, by_text)),
    )


def _key(stored: str, by_text: dict[str, Document]) -> KeyRecord:
    """As `KeyRecord.from_text`, but a document that is still the current one is shared, not built again."""
    number, at, key, request, status, revision, shown = json.loads(stored)
    document = None if shown is None else by_text.get(shown) or Document.from_text(shown)
    return KeyRecord(number, at, key, request, Answer(status, revision, document))
