"""The writer's statements, compiled once for the database at hand: a commit then costs little more than the driver."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Dialect, Executable, Table, bindparam, delete, update
from sqlalchemy.dialects import mysql, sqlite

from provider.store import tables
from provider.store.tables import documents, history, keys, meta


class Statement:
    """SQL text with the order of its parameters."""

    def __init__(self, statement: Executable, dialect: Dialect) -> None:
        compiled = statement.compile(dialect=dialect)  # type: ignore[attr-defined]
        self._sql = str(compiled)
        self._order: Sequence[str] = compiled.positiontup or ()

    def run(self, connection: Connection, values: Mapping[str, Any]) -> int:
        """Run it once. Returns the number of rows that it found."""
        return connection.exec_driver_sql(self._sql, tuple(values[name] for name in self._order)).rowcount

    def run_all(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        """Run it for each of `rows`, in as few steps as the driver can."""
        order = self._order
        connection.exec_driver_sql(self._sql, [tuple(row[name] for name in order) for row in rows])


class Statements:
    """All that a commit needs. `dialect` is that of a database which was connected to before: it knows its version."""

    def __init__(self, dialect: Dialect) -> None:
        names = [column.name for column in meta.columns if column.name != "id"]
        self.put_document = Statement(_upsert(documents, "text", dialect), dialect)
        self.delete_document = Statement(
            delete(documents).where(documents.c.kind == bindparam("kind"), documents.c.id == bindparam("id")), dialect
        )
        self.add_key = Statement(keys.insert(), dialect)
        self.drop_keys = Statement(delete(keys).where(keys.c.number < bindparam("oldest")), dialect)
        self.add_history = Statement(history.insert(), dialect)
        self.set_meta = Statement(meta.insert(), dialect)
        self.advance = Statement(
            update(meta)
            .where(meta.c.generation == bindparam("of"), meta.c.revision == bindparam("before"))
            .values({name: bindparam(name) for name in names}),
            dialect,
        )
        self.clear_meta = Statement(delete(meta), dialect)
        self.clear = [
            Statement(delete(t), dialect) for t in tables.metadata.sorted_tables if t is not history and t is not meta
        ]
        self.clear_history = Statement(delete(history), dialect)


def _upsert(table: Table, column: str, dialect: Dialect) -> Executable:
    if dialect.name == "sqlite":
        put = sqlite.insert(table)
        return put.on_conflict_do_update(index_elements=list(table.primary_key), set_={column: put.excluded[column]})
    other = mysql.insert(table)
    return other.on_duplicate_key_update({column: other.inserted[column]})
