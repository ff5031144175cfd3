"""What every store promises, whichever database it is in."""

import json
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from localcluster.mariadb import MariaDB
from sqlalchemy import create_engine, text

from provider.core.entries import Claim, Commit, decode
from provider.core.state import Accepted, State
from provider.store import (
    HistoryDamaged,
    HistoryRow,
    Store,
    StoreAhead,
    StoreCorrupt,
    StoreEmptied,
    StoreTooNew,
    StoreUnavailable,
)
from provider.store.tables import SCHEMA, metadata
from shared.errors import Invalid
from tests.support.history import accept_claim, accept_entry, accept_values, commit_of, drop, genesis, position, put
from tests.support.sql import sql

OpenStore = Callable[[], Store]

HOUR_MS = 3600 * 1000
AWKWARD = [
    "a",
    "A",
    "ä",
    "á",
    "a\u0301",
    "a ",
    " a",
    "a\x00",
    "ß",
    "ss",
    "'",
    '"',
    "`",
    "\\",
    "%s",
    ":id",
    "?",
    "--",
    "😀",
]


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


def change_rows(url: str, statement: str) -> None:
    """What somebody with a client could do to the rows behind our back."""
    engine = create_engine(url)
    with engine.begin() as connection:
        assert connection.execute(text(statement)).rowcount == 1
    engine.dispose()


# ── what is put in comes out ──


def test_a_new_store_is_empty_until_it_is_seeded(open_store: OpenStore) -> None:
    store = open_store()
    assert not store.exists()
    with pytest.raises(StoreCorrupt, match="no state"):
        store.load()
    state = seeded(store)
    assert store.exists()
    loaded, read = store.load()
    same(loaded, state)
    assert read is None
    assert store.oldest_history() is None


def test_seeding_replaces_everything(open_store: OpenStore) -> None:
    store = open_store()
    state = seeded(store)
    accepted = accept_values(state, range(3))
    store.commit(accepted, position(4))
    other = accept_entry(genesis(), commit_of(put("user.other"), key="other")).state
    store.seed(other, position(9))
    same(store.load()[0], other)
    assert store.load()[1] == position(9)
    assert store.history(0, 10) == []


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(AWKWARD), inner, max_size=3),
    max_leaves=8,
)
IDS = st.sampled_from(AWKWARD) | st.text(st.characters(codec="utf-8"), max_size=20)
CHANGES = st.one_of(
    st.builds(put, IDS, JSON, kind=st.sampled_from(["setting", "database"]), wish=st.booleans()),
    st.builds(drop, IDS, kind=st.sampled_from(["setting", "database"])),
)
COMMITS = st.builds(
    lambda changes, key: commit_of(*changes, key=key),
    st.lists(CHANGES, max_size=3),
    st.none() | st.sampled_from("abcd"),
)
LATER_MS = st.sampled_from([0, 1, -5000, HOUR_MS, 13 * HOUR_MS, 25 * HOUR_MS])
ENTRIES = st.tuples(st.lists(COMMITS, min_size=1, max_size=3), LATER_MS)
RECORDS = ENTRIES | st.sampled_from(["p1", "p2"])
Record = tuple[list[Commit], int] | str
TRANSACTIONS = st.lists(st.tuples(st.lists(RECORDS, max_size=4), st.booleans()), max_size=6)


def accept(state: State, record: Record) -> Accepted:
    if isinstance(record, str):
        return accept_claim(state, record)
    commits, later_ms = record
    return accept_entry(state, *commits, later_ms=later_ms)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(transactions=TRANSACTIONS)
def test_any_history_restarted_at_any_point_is_the_same(
    open_store: OpenStore, transactions: list[tuple[list[Record], bool]]
) -> None:
    """The state that only lived in memory, and the one that went through the store, never differ."""
    store = open_store()
    in_memory = stored = seeded(store)
    records = []
    for transaction, restart in transactions:
        accepted = []
        for record in transaction:
            in_memory = accept(in_memory, record).state
            accepted.append(accept(stored, record))
            stored = accepted[-1].state
        store.commit(accepted, position(stored.revision))
        records += [one.record for one in accepted]
        if restart:
            store.close()
            store = open_store()
            stored, read = store.load()
            same(stored, in_memory)
            assert read == position(stored.revision)
    same(store.load()[0], in_memory)
    rows = store.history(0, 1000)
    assert [decode(row.record.encode()) for row in rows] == records
    assert [row.revision for row in rows] == list(range(2, 2 + len(records)))
    store.close()


def test_names_that_look_alike_are_different(open_store: OpenStore) -> None:
    store = open_store()
    accepted = accept_entry(seeded(store), *[commit_of(put(id_, id_), key=id_) for id_ in AWKWARD])
    store.commit([accepted], position(2))
    loaded = store.load()[0]
    same(loaded, accepted.state)
    assert {document.id: document.spec["value"] for document in loaded.of("setting")} == {id_: id_ for id_ in AWKWARD}


def test_long_names_keys_and_values_are_kept_whole(open_store: OpenStore) -> None:
    store = open_store()
    ids = ["😀" * 999 + end for end in "aA "] + ["😀" * 600, "😀" * 601, "x" * 63 + "/" + "ﷺ" * 80]
    large = put(ids[0], "v" * 3_000_000, kind="database")
    commits = [commit_of(large, key="😀" * 255), *[commit_of(put(id_, id_)) for id_ in ids]]
    accepted = accept_entry(seeded(store), *commits)
    store.commit([accepted], position(2))
    same(store.load()[0], accepted.state)
    gone = accept_entry(accepted.state, *[commit_of(drop(id_)) for id_ in ids[1:]])
    store.commit([gone], position(3))
    same(store.load()[0], gone.state)


def test_a_full_entry_and_many_entries_in_one_transaction(open_store: OpenStore) -> None:
    store = open_store()
    state, accepted = seeded(store), []
    for number in range(5):
        commits = [commit_of(put(f"user.{number % 2}.{n}", number), key=f"{number}-{n}") for n in range(256)]
        gone = [commit_of(drop(f"user.{number % 2}.{n}")) for n in range(0, 256, 5)]
        accepted.append(accept_entry(state, *commits, *gone))
        state = accepted[-1].state
    store.commit(accepted, position(state.revision))
    same(store.load()[0], state)


def test_idempotency_keys_that_are_used_again_or_forgotten_are_restored_as_they_were(open_store: OpenStore) -> None:
    """A later use of a key counts, and leaves a hole in their order, which decides when the next ones are forgotten."""
    store = open_store()
    state = seeded(store)
    uses = [
        ("a", 0),
        ("b", HOUR_MS),
        ("c", 0),
        ("b", HOUR_MS),
        ("a", 21 * HOUR_MS),
        ("d", 2 * HOUR_MS),
        ("c", 22 * HOUR_MS),
    ]
    for key, later_ms in [*uses, ("e", 25 * HOUR_MS)]:
        accepted = accept_entry(state, commit_of(put("user.x", key), key=key), later_ms=later_ms)
        state = accepted.state
        store.commit([accepted], position(state.revision))
        same(store.load()[0], state)
    assert len(state.keys) == 1


# ── repeating ──


def test_a_repeated_commit_is_not_applied_twice(open_store: OpenStore) -> None:
    """Its outcome was unknown, so it comes again: as it was, or with what was read meanwhile."""
    store = open_store()
    a, b, c = accept_values(seeded(store), "abc")
    store.commit([a, b], position(3))
    store.commit([a, b], position(3))
    same(store.load()[0], b.state)
    store.commit([a, b, c], position(4))
    store.commit([a], position(2))
    loaded, read = store.load()
    same(loaded, c.state)
    assert read == position(4)
    assert [row.revision for row in store.history(0, 10)] == [2, 3, 4]


def test_the_position_moves_alone_and_never_back(open_store: OpenStore) -> None:
    store = open_store()
    state = seeded(store)
    for wanted, expected in [(3, 3), (8, 8), (5, 8)]:
        store.commit([], position(wanted))
        loaded, read = store.load()
        assert read == position(expected)
        same(loaded, state)


def test_a_commit_that_does_not_follow_what_is_stored_is_refused(open_store: OpenStore) -> None:
    """Two processes on one store, or a backup restored under a running one, must not mix their states."""
    store, other = open_store(), open_store()
    state = seeded(store)
    mine, theirs = accept_values(state, "ab"), accept_values(state, "xy")
    with pytest.raises(StoreEmptied, match="back at revision 1"):
        store.commit(mine[1:], position(3))  # a gap
    other.commit(theirs[:1], position(2))
    for wrong in (mine[:1], mine):
        with pytest.raises(StoreCorrupt, match="another process"):
            store.commit(wrong, position(3))
    same(store.load()[0], theirs[0].state)
    other.commit(theirs, position(3))
    same(store.load()[0], theirs[1].state)


# ── what is not as it was written ──


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
    change_rows(store_url, damage)
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
    change_rows(store_url, damage)
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
    change_rows(store_url, "UPDATE history SET checksum = NULL")
    assert store.history(0, 10) == rows


def test_a_checksum_is_given_to_what_was_there_before(store_url: str, open_store: OpenStore) -> None:
    store = open_store()
    accepted = accept_entry(seeded(store), commit_of(put("user.ä😀", "'\\\n")))
    store.commit([accepted], position(2))
    before = _checksums(store_url)
    store.close()
    change_rows(store_url, "UPDATE history SET checksum = NULL")
    change_rows(store_url, "UPDATE alembic_version SET version_num = '0001'")
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
    change_rows(store_url, "UPDATE alembic_version SET version_num = '9999'")
    newer = Store(store_url)
    with pytest.raises(StoreTooNew, match="9999"):
        newer.migrate()
    with pytest.raises(StoreTooNew, match="9999"):
        newer.load()
    newer.close()
    change_rows(store_url, f"UPDATE alembic_version SET version_num = '{SCHEMA}'")
    same(open_store().load()[0], state)


# ── the tables ──


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
    change_rows(store_url, "DELETE FROM alembic_version")
    same(genesis(), seeded(open_store()))


@pytest.mark.parametrize("url", ["", "nonsense", "sqlite://", "sqlite:///:memory:", "postgresql://localhost/x"])
def test_a_url_that_cannot_be_used_is_refused(url: str) -> None:
    with pytest.raises(Invalid, match="store URL"):
        Store(url)


# ── history ──


def test_history_is_read_in_pages_and_pruned_from_its_old_end(open_store: OpenStore) -> None:
    store = open_store()
    state, accepted = seeded(store), []
    for number in range(1200):
        one = accept_claim(state, "p2") if number == 600 else accept_entry(state, commit_of(put("user.x", number)))
        accepted.append(one)
        state = one.state
    store.commit(accepted, position(state.revision))

    pages, after = [], 0
    while page := store.history(after, 500):
        pages.append(page)
        after = page[-1].revision
    assert [len(page) for page in pages] == [500, 500, 200]
    rows = [row for page in pages for row in page]
    assert [row.revision for row in rows] == list(range(2, 1202))
    assert [row.at for row in rows] == [one.state.now for one in accepted]
    assert [row.epoch for row in rows] == [1] * 600 + [2] * 600
    assert isinstance(decode(rows[600].record.encode()), Claim)
    assert json.loads(rows[0].record)["commits"][0]["changes"][0]["spec"] == {"value": 0}

    assert store.oldest_history() == 2
    assert store.prune_history(accepted[0].state.now) == 0
    assert store.prune_history(state.now + 1, keep=1200) == 0
    assert store.prune_history(accepted[1100].state.now) == 1100
    assert store.oldest_history() == 1102
    assert [row.revision for row in store.history(0, 2)] == [1102, 1103]
    assert store.prune_history(state.now + 1) == 100
    assert store.oldest_history() is None
    same(store.load()[0], state)


def test_history_is_read_by_other_threads_while_commits_go_on(open_store: OpenStore) -> None:
    """Each reader sees a beginning of the history, without a gap, and never less than was committed before it asked."""
    store = open_store()
    accepted = accept_values(seeded(store), range(300))
    committed = [1]
    done = threading.Event()
    problems: list[Any] = []
    looks = [0, 0, 0]

    def read(number: int) -> None:
        try:
            while not done.is_set():
                least = committed[0]
                seen = [row.revision for row in store.history(0, 1000)]
                if seen != list(range(2, len(seen) + 2)) or len(seen) + 1 < least:
                    problems.append((least, seen))
                looks[number] += 1
        except Exception as error:
            problems.append(error)
            raise

    readers = [threading.Thread(target=read, args=(number,)) for number in range(len(looks))]
    for reader in readers:
        reader.start()
    for one in accepted:
        store.commit([one], position(one.state.revision))
        committed[0] = one.state.revision
    store.prune_history(0)
    done.set()
    for reader in readers:
        reader.join()
    assert problems == []
    assert all(looks)


def test_history_is_looked_through_from_its_new_end(open_store: OpenStore) -> None:
    """Texts mean themselves: no letter stands for others, and upper case is not lower case."""
    store = open_store()
    texts = ["plain", "Plain", "100%", "a_b", "axb", "back\\slash", "ü", "u"]
    state, accepted = seeded(store), []
    for number, text_ in enumerate(texts * 3):
        commit = commit_of(put("user.x", number)).model_copy(update={"action": text_})
        accepted.append(accept_entry(state, commit))
        state = accepted[-1].state
    store.commit(accepted, position(state.revision))

    def found(*holding: tuple[str, ...], below: int = 1000, above: int = 0, limit: int = 1000) -> list[int]:
        return [row.revision for row in store.history_back(below, above, limit, holding)]

    assert found() == list(range(25, 1, -1))
    assert found(below=10, above=6) == [9, 8, 7]
    assert found(limit=3) == [25, 24, 23]
    for place, text_ in enumerate(texts):
        wanted = json.dumps(text_, ensure_ascii=False)
        assert found((wanted,)) == [place + 2 + 16, place + 2 + 8, place + 2], text_
    assert found(('"plain"', '"Plain"'), ('"u"', '"plain"')) == [18, 10, 2]
    assert found(("nowhere",)) == []


def test_a_time_is_found_in_the_history(open_store: OpenStore) -> None:
    store = open_store()
    state, accepted = seeded(store), []
    assert store.history_at(0) is None
    for pause_ms in (10, 0, 0, 1, 5, 0, 7, 1000):
        accepted.append(accept_entry(state, commit_of(put("user.x", pause_ms)), later_ms=pause_ms))
        state = accepted[-1].state
    store.commit(accepted, position(state.revision))
    times = {one.state.revision: one.state.now for one in accepted}
    for moment in (0, *sorted({t + d for t in times.values() for d in (-1, 0, 1)})):
        expected = min((revision for revision, at in times.items() if at >= moment), default=None)
        assert store.history_at(moment) == expected


def test_another_log_begins_behind_the_history_of_the_one_before(open_store: OpenStore) -> None:
    store = open_store()
    state = seeded(store)
    accepted = accept_values(state, range(5))
    store.commit(accepted, position(5))
    last = accepted[-1].state
    anew = replace(last, generation="another", revision=last.revision + 1000, epoch=9)
    store.seed(anew, None, HistoryRow(anew.revision, anew.epoch, anew.now, "{}"))
    same(store.load()[0], anew)
    revisions = [row.revision for row in store.history(0, 10)]
    assert revisions == [one.state.revision for one in accepted] + [anew.revision]
    assert store.history_of_epoch(9) == anew.revision
    following = accept_values(anew, [6])
    store.commit(following, position(0))
    assert store.history(anew.revision, 10)[0].revision == anew.revision + 1


def test_a_store_that_begins_later_is_given_what_was_before(open_store: OpenStore) -> None:
    store = open_store()
    accepted = accept_values(seeded(store), range(20))
    store.commit(accepted, position(21))
    rows = store.history(0, 1000)

    store.seed(accepted[14].state, position(16))
    with pytest.raises(Invalid, match="revision 16"):
        store.add_history(rows[:14])
    store.add_history([])
    store.add_history(rows[10:15])
    with pytest.raises(Invalid):
        store.add_history(rows[10:15])
    with pytest.raises(Invalid):
        store.add_history([rows[8], rows[9]][::-1])
    store.add_history(rows[5:10])
    assert store.history(0, 1000) == rows[5:15]
    store.commit(accepted[15:], position(21))
    store.add_history(rows[:5])
    assert store.history(0, 1000) == rows
    same(store.load()[0], accepted[-1].state)


# ── nodes that share a database ──────────────────────────────────────────────────────────────────────────────────────


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
    for statement in statements:
        _run(store_url, statement)
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
    _run(store_url, "DELETE FROM meta")
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


def _run(url: str, statement: str) -> None:
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text(statement))
    engine.dispose()


def test_an_empty_store_has_reached_nothing(open_store: OpenStore) -> None:
    assert open_store().reached() is None


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
