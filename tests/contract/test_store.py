"""What every store promises, whichever database it is in: what is put in comes out, and comes in once."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from provider.core.entries import Commit, decode
from provider.core.state import Accepted, State
from provider.store import StoreCorrupt, StoreEmptied
from tests.support.history import accept_claim, accept_entry, accept_values, commit_of, drop, genesis, position, put
from tests.support.stores import OpenStore, same, seeded

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


def test_an_empty_store_has_reached_nothing(open_store: OpenStore) -> None:
    assert open_store().reached() is None


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
