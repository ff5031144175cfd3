"""The history for a node that joins: whole, or without a gap."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from provider.backfill import fetch_history
from provider.client import Unreachable
from provider.store import Store
from tests.support.apis import ApiNode
from tests.support.audits import write_some


@contextmanager
def joined(node: ApiNode, path: Path) -> Iterator[Store]:
    store = Store(f"sqlite:///{path / 'joined.db'}")
    store.migrate()
    store.seed(node.state, None)
    try:
        yield store
    finally:
        store.close()


def lines_of(node: ApiNode, until: int) -> list[str]:
    return node.ask("GET", f"/history?until={until}").body.decode().strip().split("\n")


def test_a_node_that_joins_gets_the_whole_history(p1: ApiNode, tmp_path: Path) -> None:
    p1.ask("PUT", "/settings/user.lines", {"value": "a\u2028b\x85c\nd"})
    newest = p1.state.revision
    with joined(p1, tmp_path) as store:
        assert fetch_history(store, lambda until: lines_of(p1, until), newest)
        assert store.history(0, 10_000) == [row for row in p1.host.store.history(0, 10_000) if row.revision <= newest]


def test_a_history_that_breaks_off_is_gone_on_with_and_has_no_gap(p1: ApiNode, tmp_path: Path) -> None:
    write_some(p1)
    newest = p1.state.revision
    asked = []

    def broken(until: int) -> Iterator[str]:
        asked.append(until)
        yield from lines_of(p1, until)[:3]
        raise Unreachable("the connection broke")

    with joined(p1, tmp_path) as store:
        assert not fetch_history(store, broken, newest)
        assert asked == [newest, newest - 3, newest - 6]
        assert [row.revision for row in store.history(0, 100)] == list(range(newest - 8, newest + 1))
        assert fetch_history(store, lambda until: lines_of(p1, until), newest - 9)
        assert len(store.history(0, 10_000)) == newest - 1


@pytest.mark.parametrize(
    "lines", [["x"], ["[1]"], ['["end", 5]'], ["{}"], ["[2, 1, 1]"], ['[1, 1, 1, "later"]'], ['["a", "b", "c", "d"]']]
)
def test_what_is_no_history_is_not_taken_for_one(p1: ApiNode, tmp_path: Path, lines: list[str]) -> None:
    """And the node has joined all the same."""
    with joined(p1, tmp_path) as store:
        assert not fetch_history(store, lambda _: lines, p1.state.revision)
        assert store.history(0, 10) == []
