"""What is not as it was written is noticed, whichever database it is in."""

import pytest

from provider.store import HistoryDamaged, StoreCorrupt
from tests.support.history import accept_entry, accept_values, commit_of, position, put
from tests.support.stores import OpenStore, change_row, same, seeded


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE documents SET text = REPLACE(text, '127.0.0.1', '127.0.0.2') WHERE kind = 'node' AND id = 'p1'",
        "DELETE FROM documents WHERE kind = 'node' AND id = 'p1'",
        "UPDATE documents SET text = 'no JSON' WHERE kind = 'node' AND id = 'p1'",
        "UPDATE documents SET text = '[]' WHERE kind = 'node' AND id = 'p1'",
        "UPDATE documents SET text = '7' WHERE kind = 'node' AND id = 'p1'",
        "UPDATE idempotency_keys SET text = '[]'",
        "DELETE FROM idempotency_keys",
        "UPDATE meta SET revision = revision + 1",
        "UPDATE meta SET epoch = epoch + 1",
        "UPDATE meta SET now_ms = now_ms + 1",
        "UPDATE meta SET primary_node = 'p2'",
        "UPDATE meta SET checksum = '0'",
        "DELETE FROM meta",
    ],
)
def test_rows_that_were_changed_or_lost_are_noticed(store_url: str, open_store: OpenStore, damage: str) -> None:
    store = open_store()
    store.commit(accept_values(seeded(store), "a"), position(2))
    store.close()
    change_row(store_url, damage)
    with pytest.raises(StoreCorrupt):
        open_store().load()


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE history SET record = REPLACE(record, 'user.x', 'user.y') WHERE revision = 4",
        "UPDATE history SET record = '{}' WHERE revision = 4",
        "UPDATE history SET epoch = epoch + 1 WHERE revision = 4",
        "UPDATE history SET at_ms = at_ms + 1 WHERE revision = 4",
        "UPDATE history SET checksum = 'x' WHERE revision = 4",
    ],
)
def test_a_record_of_the_history_that_was_changed_is_not_shown_until_it_is_mended(
    store_url: str, open_store: OpenStore, damage: str
) -> None:
    store = open_store()
    state, accepted = seeded(store), []
    for number in range(5):
        accepted.append(accept_entry(state, commit_of(put("user.x", number))))
        state = accepted[-1].state
    store.commit(accepted, position(6))
    rows = store.history(0, 10)
    change_row(store_url, damage)
    for read in (lambda: store.history(0, 10), lambda: store.history_back(10, 0, 10)):
        with pytest.raises(HistoryDamaged, match="revision 4"):
            read()
    assert store.damaged == 4
    assert store.history(4, 10) == rows[3:]
    assert len(store.history(0, 10, checked=False)) == 5
    same(store.load()[0], state)
    store.mend_history(rows[2])
    assert store.history(0, 10) == rows
    assert store.damaged is None


def test_records_of_a_node_that_makes_no_checksum_yet_are_read(store_url: str, open_store: OpenStore) -> None:
    """It shares the database, and is upgraded after the others."""
    store = open_store()
    store.commit(accept_values(seeded(store), "a"), position(2))
    rows = store.history(0, 10)
    change_row(store_url, "UPDATE history SET checksum = NULL")
    assert store.history(0, 10) == rows
