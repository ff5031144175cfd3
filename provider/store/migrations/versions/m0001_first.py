"""The first tables."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.mysql import LONGTEXT, VARBINARY

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

LONG = sa.Text().with_variant(LONGTEXT(), "mysql", "mariadb")
ID = sa.String(664).with_variant(VARBINARY(664 * 4), "mysql", "mariadb")
NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
OPTIONS = {
    f"{dialect}_{option}": value
    for dialect in ("mysql", "mariadb")
    for option, value in {"engine": "InnoDB", "charset": "utf8mb4", "collate": "utf8mb4_bin"}.items()
}


def upgrade() -> None:
    # MySQL commits each of these by itself. If_not_exists: an interrupted migration is simply run again.
    op.create_table(
        "meta",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False, comment="always 1: there is one row"),
        sa.Column("generation", sa.String(1000), nullable=False, comment="identity of the log"),
        sa.Column("epoch", sa.BigInteger, nullable=False, comment="number of the current primary's reign"),
        sa.Column("primary_node", sa.String(1000), nullable=False, comment="name of the primary"),
        sa.Column("revision", sa.BigInteger, nullable=False, comment="count of accepted records"),
        sa.Column("now_ms", sa.BigInteger, nullable=False, comment="latest time in any accepted record, Unix ms"),
        sa.Column("next_key", sa.BigInteger, nullable=False, comment="number of the next idempotency key"),
        sa.Column("checksum", sa.String(64), nullable=False, comment="sum of all fingerprints modulo 2^256, hex"),
        sa.Column("digest", sa.String(64), nullable=False, comment="SHA-256 of the state, hex"),
        sa.Column("position_offset", sa.BigInteger, comment="last record read from the log; null: none was"),
        sa.Column("position_digest", sa.String(64), comment="SHA-256 of that record"),
        if_not_exists=True,
        **OPTIONS,
    )
    op.create_table(
        "documents",
        sa.Column("kind", sa.String(32), primary_key=True, comment="setting, database, …"),
        sa.Column("id", ID, primary_key=True, comment="as UTF-8; beyond 600 characters SHA-256"),
        sa.Column("text", LONG, nullable=False, comment="canonical JSON of the whole document; times in Unix ms"),
        sqlite_with_rowid=False,
        if_not_exists=True,
        **OPTIONS,
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("number", NUMBER, primary_key=True, autoincrement=False, comment="order of use"),
        sa.Column("text", LONG, nullable=False, comment="canonical JSON of key and answer; times in Unix ms"),
        if_not_exists=True,
        **OPTIONS,
    )
    op.create_table(
        "history",
        sa.Column("revision", NUMBER, primary_key=True, autoincrement=False, comment="that the record became"),
        sa.Column("epoch", sa.BigInteger, nullable=False, comment="after the record: a claim counts to its own"),
        sa.Column("at_ms", sa.BigInteger, nullable=False, comment="Unix ms; never lower than the row before"),
        sa.Column("record", LONG, nullable=False, comment="the entry or claim as in the log, JSON"),
        if_not_exists=True,
        **OPTIONS,
    )
