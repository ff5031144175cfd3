"""Stores as tests begin them and compare them, and what somebody could do to a database behind their back."""

from collections.abc import Callable

from sqlalchemy import create_engine, text

from provider.core.state import State
from provider.store import Store
from tests.support.history import genesis

OpenStore = Callable[[], Store]
"""Opens the same database as often as asked, as a process does that starts."""


def seeded(store: Store) -> State:
    state = genesis()
    store.seed(state, None)
    return state


def same(loaded: State, state: State) -> None:
    """Equal in everything that a later record's outcome can depend on."""
    assert loaded.digest == state.digest
    assert loaded.keys == state.keys
    assert loaded.key_order == state.key_order
    for kind, collection in state.documents.items():
        assert loaded.documents.get(kind, {}) == collection
    assert sum(map(len, loaded.documents.values())) == sum(map(len, state.documents.values()))


def execute(url: str, *statements: str) -> int:
    """What somebody with a client could do to the database. How many rows the last statement changed."""
    engine = create_engine(url)
    with engine.begin() as connection:
        changed = [connection.execute(text(statement)).rowcount for statement in statements]
    engine.dispose()
    return changed[-1]


def change_row(url: str, statement: str) -> None:
    """The same; a statement that hits no row, or several, is a mistake of the test."""
    assert execute(url, statement) == 1, statement
