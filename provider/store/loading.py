"""Reading the whole state back, and seeing to it that it is what was written."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from immutables import Map
from sqlalchemy import Connection, Row, inspect, select, text

from provider.core.documents import Document, fingerprint
from provider.core.state import Answer, KeyRecord, State
from provider.log.port import Position
from provider.store.errors import StoreCorrupt, StoreTooNew
from provider.store.tables import SCHEMA, documents, keys, meta

_WRAP = 1 << 256
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
        return
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    _refuse_newer(schema(connection), known)
    config.attributes["connection"] = connection
    command.upgrade(config, SCHEMA)


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
    by_text: dict[str, Document] = {}
    checksum = 0
    for stored in connection.execute(select(documents.c.text), execution_options=_STREAM).scalars():
        by_text[stored] = Document.from_text(stored)
        checksum += fingerprint(stored)
    used: dict[str, tuple[int, KeyRecord]] = {}
    for stored in connection.execute(select(keys.c.text).order_by(keys.c.number), execution_options=_STREAM).scalars():
        record = _key(stored, by_text)
        used[record.key] = (fingerprint(stored), record)  # a later use of the same key replaces the earlier one
    checksum += sum(mark for mark, _ in used.values())
    records = [record for _, record in used.values()]
    return State(
        generation=row.generation,
        epoch=row.epoch,
        primary=row.primary_node,
        revision=row.revision,
        now=row.now_ms,
        documents=_collections(by_text.values()),
        keys=Map({record.key: record for record in records}),
        key_order=_order(records, row.next_key),
        next_key=row.next_key,
        checksum=checksum % _WRAP,
    )


def _collections(found: Iterable[Document]) -> Map[str, Map[str, Document]]:
    collections: dict[str, dict[str, Document]] = {}
    for document in found:
        collections.setdefault(document.kind, {})[document.id] = document
    return Map({kind: Map(collection) for kind, collection in collections.items()})


def _order(records: Iterable[KeyRecord], next_key: int) -> Map[int, str]:
    """Numbers in use are consecutive; one whose key was used again later stands for nothing (see `State.key_order`)."""
    numbers = {record.number: record.key for record in records}
    return Map({number: numbers.get(number, "") for number in range(min(numbers, default=next_key), next_key)})


def _key(stored: str, by_text: dict[str, Document]) -> KeyRecord:
    """The key whose `KeyRecord.text` this is. A document that is still the current one is shared, not built again."""
    number, at, key, request, status, revision, shown = json.loads(stored)
    document = None if shown is None else by_text.get(shown) or Document.from_text(shown)
    return KeyRecord(number, at, key, request, Answer(status, revision, document))
