"""The tables: few and plain. The canonical text of a document or key is all there is to it, so columns beside it exist
only where a statement looks for them."""

from hashlib import sha256
from typing import Any

from sqlalchemy import BigInteger, Column, Integer, MetaData, String, Table, Text
from sqlalchemy.dialects.mysql import LONGTEXT, VARBINARY

SCHEMA = "0002"
"""The newest migration. Kept here so that a start with nothing to migrate need not load alembic (a test compares)."""

LONG = Text().with_variant(LONGTEXT(), "mysql", "mariadb")
# Compared byte by byte: MySQL's collations for text, binary ones too, take "a" and "a " for the same.
ID = String(664).with_variant(VARBINARY(664 * 4), "mysql", "mariadb")
# Only a column of the type INTEGER is the rowid itself; any other would get an index of its own.
NUMBER = BigInteger().with_variant(Integer(), "sqlite")
OPTIONS: dict[str, Any] = {
    f"{dialect}_{option}": value
    for dialect in ("mysql", "mariadb")
    for option, value in {"engine": "InnoDB", "charset": "utf8mb4", "collate": "utf8mb4_bin"}.items()
}

metadata = MetaData()


def id_column(id_: str) -> str:
    """What the column `id` holds for a document's id. InnoDB's keys end at 3072 bytes; ids may be a little longer."""
    if len(id_) <= 600:
        return id_
    return id_[:600] + sha256(id_.encode()).hexdigest()  # longer than any that is kept whole, so never equal to one


meta = Table(
    "meta",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False, comment="always 1: there is one row"),
    Column("generation", String(1000), nullable=False, comment="identity of the log"),
    Column("epoch", BigInteger, nullable=False, comment="number of the current primary's reign"),
    Column("primary_node", String(1000), nullable=False, comment="name of the primary"),
    Column("revision", BigInteger, nullable=False, comment="count of accepted records"),
    Column("now_ms", BigInteger, nullable=False, comment="latest time in any accepted record, Unix ms"),
    Column("next_key", BigInteger, nullable=False, comment="number of the next idempotency key"),
    Column("checksum", String(64), nullable=False, comment="sum of all fingerprints modulo 2^256, hex"),
    Column("digest", String(64), nullable=False, comment="SHA-256 of the state, hex"),
    Column("position_offset", BigInteger, comment="last record read from the log; null: none was"),
    Column("position_digest", String(64), comment="SHA-256 of that record"),
    **OPTIONS,
)

documents = Table(
    "documents",
    metadata,
    Column("kind", String(32), primary_key=True, comment="setting, database, …"),
    Column("id", ID, primary_key=True, comment="as UTF-8; beyond 600 characters SHA-256"),
    Column("text", LONG, nullable=False, comment="canonical JSON of the whole document; times in Unix ms"),
    **OPTIONS,
    sqlite_with_rowid=False,  # one tree instead of two: half the pages to write
)

keys = Table(
    "idempotency_keys",
    metadata,
    Column("number", NUMBER, primary_key=True, autoincrement=False, comment="order of use"),
    Column("text", LONG, nullable=False, comment="canonical JSON of key and answer; times in Unix ms"),
    **OPTIONS,
)

history = Table(
    "history",
    metadata,
    Column("revision", NUMBER, primary_key=True, autoincrement=False, comment="that the record became"),
    Column("epoch", BigInteger, nullable=False, comment="after the record: a claim counts to its own"),
    Column("at_ms", BigInteger, nullable=False, comment="Unix ms; never lower than the row before"),
    Column("record", LONG, nullable=False, comment="the entry or claim as in the log, JSON"),
    Column("checksum", String(32), comment="of all the others; null: written by a version that made none"),
    **OPTIONS,
)
