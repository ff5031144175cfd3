"""A checksum for each record of the history. Those that are there are taken for what was written."""

import hashlib
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

AT_ONCE = 10_000
"""Revisions."""


def upgrade() -> None:
    connection = op.get_bind()
    # MySQL commits the column by itself, so an interrupted migration may find it.
    if "checksum" not in {column["name"] for column in sa.inspect(connection).get_columns("history")}:
        op.add_column(
            "history",
            # Null: a node of the version before, which shares the database until it is upgraded, knows nothing of it.
            sa.Column(
                "checksum", sa.String(32), comment="of all the others; null: written by a version that made none"
            ),
        )
    if connection.dialect.name == "sqlite":
        driver: Any = connection.connection.driver_connection
        driver.create_function("sha2", 2, _sha2, deterministic=True)
        text = "revision || char(10) || epoch || char(10) || at_ms || char(10) || record"
    else:
        text = "CONCAT(revision, '\n', epoch, '\n', at_ms, '\n', record)"
    compute = sa.text(
        f"UPDATE history SET checksum = substr(sha2({text}, 256), 1, 32) "  # noqa: S608 - it is made of constants
        "WHERE checksum IS NULL AND revision >= :first AND revision < :end"
    )
    first, last = connection.execute(sa.text("SELECT min(revision), max(revision) FROM history")).one()
    while first is not None and first <= last:
        connection.execute(compute, {"first": first, "end": first + AT_ONCE})  # a statement has its deadline
        above = sa.text("SELECT min(revision) FROM history WHERE revision >= :end")
        first = connection.execute(above, {"end": first + AT_ONCE}).scalar()


def _sha2(text: str, _bits: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
