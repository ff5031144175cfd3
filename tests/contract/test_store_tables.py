"""The tables of a store: how they are made and brought up to date, and which databases can hold them."""

from collections.abc import Callable

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from localcluster.mariadb import MariaDB
from sqlalchemy import create_engine, text

from provider.store import Store, StoreTooNew
from provider.store.tables import SCHEMA, metadata
from shared.errors import Invalid
from tests.support.history import accept_entry, commit_of, genesis, position, put
from tests.support.sql import sql
from tests.support.stores import OpenStore, change_row, same, seeded


def test_migrations_lead_to_the_tables_that_are_used(store_url: str, open_store: OpenStore) -> None:
    open_store().migrate()
    engine = create_engine(store_url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        assert compare_metadata(context, metadata) == []
    engine.dispose()
    assert ScriptDirectory("provider/store/migrations").get_current_head() == SCHEMA


def test_an_interrupted_migration_is_simply_run_again(store_url: str, open_store: OpenStore) -> None:
    """MySQL cannot undo the making of tables: they may be there when the migration is not yet marked as done."""
    open_store()
    change_row(store_url, "DELETE FROM alembic_version")
    same(genesis(), seeded(open_store()))


def test_a_checksum_is_given_to_what_was_there_before(store_url: str, open_store: OpenStore) -> None:
    store = open_store()
    accepted = accept_entry(seeded(store), commit_of(put("user.ä😀", "'\\\n")))
    store.commit([accepted], position(2))
    before = _checksums(store_url)
    store.close()
    change_row(store_url, "UPDATE history SET checksum = NULL")
    change_row(store_url, "UPDATE alembic_version SET version_num = '0001'")
    store = open_store()
    assert _checksums(store_url) == before
    assert len(store.history(0, 10)) == 1


def _checksums(url: str) -> list[str]:
    engine = create_engine(url)
    with engine.connect() as connection:
        found = list(connection.execute(text("SELECT checksum FROM history ORDER BY revision")).scalars())
    engine.dispose()
    return found


def test_a_store_of_a_newer_version_is_left_alone(store_url: str, open_store: OpenStore) -> None:
    store = open_store()
    state = seeded(store)
    store.close()
    change_row(store_url, "UPDATE alembic_version SET version_num = '9999'")
    newer = Store(store_url)
    with pytest.raises(StoreTooNew, match="9999"):
        newer.migrate()
    with pytest.raises(StoreTooNew, match="9999"):
        newer.load()
    newer.close()
    change_row(store_url, f"UPDATE alembic_version SET version_num = '{SCHEMA}'")
    same(open_store().load()[0], state)


@pytest.mark.parametrize("url", ["", "nonsense", "sqlite://", "sqlite:///:memory:", "postgresql://localhost/x"])
def test_a_url_that_cannot_be_used_is_refused(url: str) -> None:
    with pytest.raises(Invalid, match="store URL"):
        Store(url)


def test_a_database_that_forgets_what_it_confirmed_is_named(
    mariadb: MariaDB, new_mariadb_url: Callable[[], str]
) -> None:
    """The server here has MariaDB's defaults, and a binary log."""
    store = Store(new_mariadb_url())
    assert store.forgets() == "it writes a binary log, and sync_binlog is 0: set it to 1"
    sql(mariadb, "SET GLOBAL sync_binlog = 1")
    try:
        assert store.forgets() is None
    finally:
        sql(mariadb, "SET GLOBAL sync_binlog = 0")
        store.close()
