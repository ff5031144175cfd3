"""What earlier versions wrote can be read, and means what it meant: a file of each format, as that version wrote it.

A new format gets a new file; these are never written anew. All hold the same story: a founding, an entry, a claim, and
another entry.
"""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from provider.core.entries import Barrier, decode, encode
from provider.core.state import State
from provider.log.port import Position
from provider.snapshot import read_snapshot, write_snapshot
from provider.store import HistoryDamaged, Store

FIXTURES = Path(__file__).parents[2] / "fixtures"
DIGEST = "ed7c30e4acedad033930f6d54917558471e4a996ecdf494838a68671f8d7cdf8"
POSITION = Position(41, "ab" * 32)
NODES = ["p1", "p2"]


def check(state: State) -> None:
    assert state.digest == DIGEST
    assert (state.epoch, state.revision, state.primary) == (2, 4, "p2")
    assert [node.id for node in state.of("node")] == NODES
    shop = state.get("database", "db1/shop")
    assert shop is not None
    assert (shop.status, shop.wish, shop.revision) == ({"phase": "ready"}, 2, 4)
    assert len(state.keys) == 2


def test_a_snapshot_of_format_1() -> None:
    lines = (FIXTURES / "snapshot-1.ndjson").read_text(encoding="utf-8").split("\n")[:-1]
    state, position = read_snapshot(lines)
    check(state)
    assert position == POSITION
    assert sorted(write_snapshot(state, position)) == sorted(lines), "it is still written like that"


def test_records_of_format_1() -> None:
    lines = (FIXTURES / "log-1.ndjson").read_bytes().splitlines()
    records = [decode(line) for line in lines]
    assert [encode(record) for record in records] == lines, "they are still written like that"
    assert [record.type for record in records] == ["entry", "barrier", "claim", "entry"]


@pytest.mark.parametrize("schema", ["0001", "0002"])
def test_a_store_of_each_schema(tmp_path: Path, schema: str) -> None:
    shutil.copy(FIXTURES / f"store-{schema}.db", tmp_path / "state.db")
    with closing(Store(f"sqlite:///{tmp_path / 'state.db'}")) as store:
        store.migrate()
        state, position = store.load()
        check(state)
        assert position == POSITION
        rows = store.history(0, 10)
        assert [(row.revision, row.epoch) for row in rows] == [(2, 1), (3, 2), (4, 2)]
        written = [record for record in map(decode, _lines()) if not isinstance(record, Barrier)]
        assert [decode(row.record.encode()) for row in rows] == written
        with sqlite3.connect(tmp_path / "state.db") as connection:
            connection.execute("UPDATE history SET record = replace(record, 'shop', 'shot')")
        connection.close()
        with pytest.raises(HistoryDamaged):
            store.history(0, 10)


def _lines() -> list[bytes]:
    return (FIXTURES / "log-1.ndjson").read_bytes().splitlines()
