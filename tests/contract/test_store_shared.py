"""Stores of several nodes in one database: what anybody has stored is there once, and who has more writes it back."""

import threading
from contextlib import suppress
from dataclasses import replace

import pytest

from provider.core.state import Accepted
from provider.store import Store, StoreAhead, StoreEmptied, StoreUnavailable
from tests.support.history import accept_values, position
from tests.support.stores import OpenStore, execute, same, seeded


def test_what_several_nodes_commit_at_once_is_stored_once_whoever_comes_first(open_store: OpenStore) -> None:
    """Each takes together what it likes; afterwards all is there, in order, once, and what was written is loaded."""
    first, second = open_store(), open_store()
    state = seeded(first)
    accepted = accept_values(state, range(60))

    def commit(store: Store, at_once: int) -> None:
        for start in range(0, len(accepted), at_once):
            batch = accepted[start : start + at_once]
            store.commit(batch, position(batch[-1].state.revision))

    threads = [threading.Thread(target=commit, args=(store, size)) for store, size in ((first, 1), (second, 7))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    loaded, at = first.load()
    same(loaded, accepted[-1].state)
    assert at == position(accepted[-1].state.revision)
    assert [row.revision for row in second.history(0, 100)] == [one.state.revision for one in accepted]
    assert second.reached() == (loaded.generation, loaded.epoch, loaded.revision)


@pytest.mark.parametrize("revision", [19, 20])
def test_a_state_that_is_put_there_replaces_nothing_newer(open_store: OpenStore, revision: int) -> None:
    """A snapshot of another member, which was on its way while others stored more."""
    store = open_store()
    accepted = accept_values(seeded(store), range(20))
    store.commit(accepted, position(21))
    older, newest = accepted[revision - 2].state, accepted[-1].state
    with pytest.raises(StoreAhead, match="nothing was changed"):
        store.seed(older, position(2), over=(0, 0))
    same(store.load()[0], newest)
    assert len(store.history(0, 100)) == 20
    claimed = replace(older, epoch=older.epoch + 1)  # by whoever the others have gone on with
    store.seed(claimed, position(2), over=(0, 0))
    same(store.load()[0], claimed)
    store.seed(older, position(2), over=(claimed.epoch, claimed.revision))  # it is what this very node had
    same(store.load()[0], older)


def test_who_takes_over_what_is_there_already_leaves_the_history_to_all_who_share_it(open_store: OpenStore) -> None:
    store = open_store()
    accepted = accept_values(seeded(store), range(4))
    store.commit(accepted, position(5))
    held = accepted[-1].state
    for at in (position(3), None):
        store.seed(held, at, over=(held.epoch, held.revision))
        loaded, read = store.load()
        same(loaded, held)
        assert read == at
        assert [row.revision for row in store.history(0, 10)] == [2, 3, 4, 5]


EMPTIED = [
    ("DELETE FROM meta",),
    ("DROP TABLE meta",),
    ("DROP TABLE meta", "DROP TABLE documents", "DROP TABLE idempotency_keys", "DROP TABLE history"),
    ("DROP TABLE alembic_version", "DROP TABLE meta", "DROP TABLE documents", "DROP TABLE history"),
]


@pytest.mark.parametrize("statements", EMPTIED)
def test_what_was_dropped_is_written_back_by_who_has_it_in_memory(
    store_url: str, open_store: OpenStore, statements: tuple[str, ...]
) -> None:
    store, other = open_store(), open_store()
    accepted = accept_values(seeded(store), range(4))
    store.commit(accepted[:2], position(3))
    held = accepted[1].state
    execute(store_url, *statements)
    for commit in ([], accepted[2:3]):
        with pytest.raises(StoreEmptied):
            store.commit(commit, position(4))
    assert store.write_back(held, position(3))
    assert not other.write_back(accepted[0].state, position(2))
    same(store.load()[0], held)
    for one in (store, other):
        one.commit(accepted[2:], position(5))
    same(store.load()[0], accepted[-1].state)
    assert [row.revision for row in store.history(0, 10)] == [4, 5]


def test_of_several_that_write_back_at_once_who_has_most_counts(store_url: str, open_store: OpenStore) -> None:
    stores = [open_store() for _ in range(4)]
    accepted = accept_values(seeded(stores[0]), range(4))
    execute(store_url, "DELETE FROM meta")
    failed: list[Exception] = []

    def write_back(store: Store, one: Accepted) -> None:
        done = False
        while not done:
            try:
                with suppress(StoreUnavailable):  # another one is at it: again
                    store.write_back(one.state, position(one.state.revision))
                    done = True
            except Exception as error:
                failed.append(error)
                raise

    threads = [threading.Thread(target=write_back, args=pair) for pair in zip(stores, accepted, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    same(open_store().load()[0], accepted[-1].state)


def test_an_older_state_never_gets_the_position_of_a_newer_one(open_store: OpenStore) -> None:
    """A backup of the database is put back while nothing is written: what is between would not be read again."""
    store = open_store()
    accepted = accept_values(seeded(store), range(4))
    store.commit(accepted, position(5))
    held = accepted[-1].state
    store.seed(accepted[1].state, position(3))
    with pytest.raises(StoreEmptied, match=f"had revision {held.revision}"):
        store.commit([], position(6), held=held)
    assert store.load()[1] == position(3)
    assert store.write_back(held, position(5))
    store.commit([], position(6), held=held)
    store.commit([], position(7), held=accepted[0].state)  # who has less, and shares it
    loaded, read = store.load()
    same(loaded, held)
    assert read == position(6)


def test_a_backup_of_the_database_that_was_put_in_its_place_is_brought_up_to_date(
    store_url: str, open_store: OpenStore
) -> None:
    store = open_store()
    accepted = accept_values(seeded(store), range(6))
    store.commit(accepted[:4], position(5))
    store.seed(accepted[1].state, position(3))
    with pytest.raises(StoreEmptied, match="back at revision 3"):
        store.commit(accepted[4:], position(7))
    assert store.write_back(accepted[3].state, position(5))
    store.commit(accepted[4:], position(7))
    same(store.load()[0], accepted[-1].state)


def test_who_is_behind_a_newer_state_that_somebody_put_there_has_nothing_to_add(open_store: OpenStore) -> None:
    store = open_store()
    accepted = accept_values(seeded(store), range(6))
    store.seed(accepted[3].state, position(5))
    store.commit(accepted[:2], position(3))
    same(store.load()[0], accepted[3].state)
    store.commit(accepted[1:5], position(6))
    store.commit(accepted[2:4], position(5))
    same(store.load()[0], accepted[4].state)
    assert [row.revision for row in store.history(0, 10)] == [6]
