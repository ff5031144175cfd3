"""`step`: which records count, what they change, and what is forgotten when."""

from dataclasses import replace
from typing import Any
from unittest import mock

import pytest

from provider.core import state as sm
from provider.core.documents import Document
from provider.core.entries import Barrier, Change, Claim, Commit, Entry, LogRecord
from provider.core.state import (
    KEYS_MAX,
    KEYS_MAX_AGE_MS,
    Accepted,
    Answer,
    KeyRecord,
    Skipped,
    State,
    Why,
    preview,
    step,
)

NOW = 1_700_000_000_000


def put(id_: str, value: Any = 1, *, kind: Any = "setting", wish: bool = True) -> Change:
    return Change(kind=kind, id=id_, spec={"value": value}, wish=wish)


def gone(id_: str, *, kind: Any = "setting") -> Change:
    return Change(kind=kind, id=id_)


def commit(*changes: Change, key: str | None = None, target: Any = None, principal: str = "ann") -> Commit:
    return Commit(principal=principal, action="a test", status=200, key=key, changes=changes, target=target)


def entry(*commits: Commit, seq: int = 2, epoch: int = 1, generation: str = "g", at: int = NOW) -> Entry:
    return Entry(id="e", generation=generation, epoch=epoch, seq=seq, node="p1", at=at, commits=commits)


def claim(ends: int = 1, *, node: str = "p2", generation: str = "g", at: int = NOW) -> Claim:
    return Claim(id="c", generation=generation, ends=ends, node=node, at=at)


MEMBERS = tuple(Change(kind="node", id=name, spec={"url": f"https://{name}:1"}) for name in ("p1", "p2", "p3"))


def genesis() -> State:
    return State.genesis(generation="g", primary="p1", now=NOW, changes=(put("user.a", 0), *MEMBERS))


def accepted(state: State, record: LogRecord) -> Accepted:
    outcome = step(state, record)
    assert isinstance(outcome, Accepted)
    again = restored(outcome.state)
    assert again == outcome.state
    assert again.digest == outcome.state.digest
    assert (again.families, again.key_chars) == (outcome.state.families, outcome.state.key_chars)
    return outcome


def restored(state: State) -> State:
    """The same state, made from what a store keeps."""
    return State.restored(
        generation=state.generation,
        epoch=state.epoch,
        primary=state.primary,
        revision=state.revision,
        now=state.now,
        next_key=state.next_key,
        documents=[Document.from_text(d.text) for collection in state.documents.values() for d in collection.values()],
        keys=[KeyRecord.from_text(record.text) for record in state.keys.values()],
    )


# ── which records count ──────────────────────────────────────────────────────────────────────────────────────────────

BARRIER = Barrier(id="b", generation="g", node="p1", at=NOW)
DECISIONS = [
    (entry(), None),
    (entry(epoch=0), Why.OTHER_EPOCH),
    (entry(epoch=2), Why.OTHER_EPOCH),
    (entry(seq=1), Why.REPEATED),
    (entry(seq=0), Why.REPEATED),
    (entry(seq=3), Why.GAP),
    (entry(generation="h"), Why.OTHER_GENERATION),
    (entry(generation="h", epoch=2, seq=3), Why.OTHER_GENERATION),
    (entry(epoch=2, seq=3), Why.OTHER_EPOCH),
    (claim(), None),
    (claim(node="p1"), None),
    (claim(0), Why.OTHER_EPOCH),
    (claim(2), Why.OTHER_EPOCH),
    (claim(generation="h"), Why.OTHER_GENERATION),
    (claim(node="p9"), Why.NO_MEMBER),
    (BARRIER, Why.BARRIER),
    (BARRIER.model_copy(update={"generation": "h"}), Why.OTHER_GENERATION),
]


@pytest.mark.parametrize(("record", "why"), DECISIONS, ids=range(len(DECISIONS)))
def test_the_table_of_decisions(record: LogRecord, why: Why | None) -> None:
    state = genesis()
    if why is None:
        assert accepted(state, record).state.revision == 2
    else:
        assert step(state, record) == Skipped(why)


def test_of_two_claims_the_first_in_the_log_wins() -> None:
    first = accepted(genesis(), claim(node="p2")).state
    assert (first.epoch, first.primary, first.revision) == (2, "p2", 2)
    assert step(first, claim(node="p3")) == Skipped(Why.OTHER_EPOCH)


def test_what_the_deposed_primary_sends_counts_no_longer() -> None:
    state = accepted(genesis(), claim(node="p2")).state
    assert step(state, entry(seq=3)) == Skipped(Why.OTHER_EPOCH)
    assert step(state, entry(seq=2)) == Skipped(Why.OTHER_EPOCH)


def test_an_empty_entry_counts_too() -> None:
    assert accepted(genesis(), entry()).state.revision == 2


# ── what they change ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_putting_changing_and_deleting_a_document() -> None:
    first = accepted(genesis(), entry(commit(put("user.b"), target=("setting", "user.b"))))
    made = first.answers[0].document
    assert made is not None
    assert (made.revision, made.wish, made.created_at, made.updated_at) == (2, 2, NOW, NOW)
    second = accepted(first.state, entry(commit(put("user.b", 2, wish=False)), seq=3, at=NOW + 5)).state
    changed = second.get("setting", "user.b")
    assert changed is not None
    assert (changed.revision, changed.wish, changed.created_at, changed.updated_at) == (3, 2, NOW, NOW + 5)
    third = accepted(second, entry(commit(gone("user.b")), seq=4))
    assert third.state.get("setting", "user.b") is None
    assert third.delta.deleted == (("setting", "user.b"),)


def test_deleting_what_is_not_there_changes_nothing_else() -> None:
    state = genesis()
    after = accepted(state, entry(commit(gone("user.x"), gone("db1/x", kind="database")))).state
    assert after.documents == state.documents
    assert after.checksum == state.checksum


def test_each_commit_is_answered_with_what_it_left() -> None:
    outcome = accepted(
        genesis(),
        entry(commit(put("user.b", 1), target=("setting", "user.b")), commit(gone("user.a")), commit()),
    )
    shown = outcome.answers[0].document
    assert shown is not None
    assert shown.spec == {"value": 1}
    assert [answer.revision for answer in outcome.answers] == [2, 2, 2]
    assert outcome.answers[1].document is None


def test_the_delta_is_what_is_left_in_the_end() -> None:
    """A foreign log may change a document twice in an entry. The store must be told of the last change only."""
    outcome = accepted(
        genesis(), entry(commit(put("user.b"), gone("user.a")), commit(gone("user.b"), put("user.a", 7)))
    )
    assert [document.spec for document in outcome.delta.put] == [{"value": 7}]
    assert outcome.delta.deleted == (("setting", "user.b"),)


def test_time_never_runs_back() -> None:
    state = accepted(genesis(), entry(commit(put("user.b")), at=NOW - 99_999)).state
    made = state.get("setting", "user.b")
    assert made is not None
    assert (state.now, made.updated_at) == (NOW, NOW)
    assert accepted(state, claim(at=0)).state.now == NOW


def test_an_instances_documents_are_found_without_the_others() -> None:
    changes = [put(f"db{i}/{name}", kind="database") for i in (1, 10) for name in ("b", "a")]
    state = accepted(genesis(), entry(commit(*changes, put("db1/a", kind="account")))).state
    assert [d.id for d in state.within("database", "db1")] == ["db1/a", "db1/b"]
    assert [d.id for d in state.within("account", "db1")] == ["db1/a"]
    assert state.within("database", "db2") == []
    emptied = accepted(
        state, entry(commit(gone("db1/a", kind="database"), gone("db1/b", kind="database")), seq=3)
    ).state
    assert emptied.within("database", "db1") == []
    assert ("database", "db1") not in emptied.families
    assert restored(emptied).families == emptied.families


def test_an_instance_is_found_with_its_agent_also_after_it_has_moved() -> None:
    def instance(agent: str) -> Change:
        return Change(kind="instance", id="i1", spec={"agent": agent})

    state = accepted(genesis(), entry(commit(instance("db1")))).state
    assert [d.id for d in state.within("instance", "db1")] == ["i1"]
    moved = accepted(state, entry(commit(instance("db2")), seq=3)).state
    assert (moved.within("instance", "db1"), len(moved.within("instance", "db2"))) == ([], 1)
    assert accepted(moved, entry(commit(gone("i1", kind="instance")), seq=4)).state.families == moved.families.delete(
        ("instance", "db2")
    )


def test_a_preview_shows_the_documents_that_the_entry_will_leave() -> None:
    state, share = genesis(), commit(put("user.b"), gone("user.a"))
    shown = preview(state, share, NOW - 5)
    assert shown.documents == accepted(state, entry(share, at=NOW - 5)).state.documents
    assert (shown.revision, shown.now) == (state.revision, state.now)


@pytest.mark.parametrize(
    "change",
    [
        {"epoch": 2},
        {"revision": 2},
        {"primary": "p2"},
        {"now": NOW + 1},
        {"generation": "h"},
        {"next_key": 1},
        {"checksum": 1},
    ],
    ids=str,
)
def test_the_digest_covers_everything(change: dict[str, Any]) -> None:
    assert replace(genesis(), **change).digest != genesis().digest


# ── what is remembered ───────────────────────────────────────────────────────────────────────────────────────────────


def test_a_key_is_remembered_with_its_answer() -> None:
    outcome = accepted(genesis(), entry(commit(put("user.b"), key="k", target=("setting", "user.b"))))
    assert outcome.state.keys[sm.scoped_key("ann", "k")].answer == outcome.answers[0]


def test_users_keys_do_not_meet() -> None:
    assert sm.scoped_key("ann", "k") != sm.scoped_key("bob", "k")
    assert sm.scoped_key("ann b", "k") != sm.scoped_key("ann", "b k")
    assert sm.scoped_key("1 a", "k") != sm.scoped_key("1", "a k")


def test_a_key_is_kept_for_a_day_and_not_a_moment_longer() -> None:
    state = accepted(genesis(), entry(commit(key="k"))).state
    on_the_day = accepted(state, entry(seq=3, at=NOW + KEYS_MAX_AGE_MS))
    assert len(on_the_day.state.keys) == 1
    after = accepted(on_the_day.state, entry(seq=4, at=NOW + KEYS_MAX_AGE_MS + 1))
    assert after.delta.keys_dropped == (sm.scoped_key("ann", "k"),)
    assert (len(after.state.keys), len(after.state.key_order)) == (0, 0)


def test_a_claim_forgets_nothing_yet() -> None:
    """Keys go with entries only, on all nodes alike."""
    state = accepted(genesis(), entry(commit(key="k"))).state
    assert len(accepted(state, claim(at=NOW + 2 * KEYS_MAX_AGE_MS)).state.keys) == 1


def test_beyond_the_limit_the_oldest_key_goes() -> None:
    with mock.patch.object(sm, "KEYS_MAX", 3):
        state = accepted(genesis(), entry(*(commit(key=f"k{i}") for i in range(3)))).state
        assert len(state.keys) == 3
        after = accepted(state, entry(commit(key="k3"), commit(key="k4"), seq=3))
    assert after.delta.keys_dropped == (sm.scoped_key("ann", "k0"), sm.scoped_key("ann", "k1"))
    assert sorted(record.number for record in after.state.keys.values()) == [2, 3, 4]


def test_the_real_limit() -> None:
    """A hundred thousand keys, and one more."""
    empty = genesis()
    state = State.restored(
        generation="g",
        epoch=1,
        primary="p1",
        revision=1,
        now=NOW,
        next_key=KEYS_MAX,
        documents=empty.of("setting"),
        keys=[KeyRecord(i, NOW, f"k{i}", "", Answer(200, 1, None)) for i in range(KEYS_MAX)],
    )
    last = step(state, entry(commit(key="one more")))
    assert isinstance(last, Accepted)
    assert last.delta.keys_dropped == ("k0",)
    assert len(last.state.keys) == len(last.state.key_order) == KEYS_MAX


def test_keys_that_hold_large_documents_do_not_fill_the_memory() -> None:
    """Each keeps what it was answered with: here some 1000 characters."""
    with mock.patch.object(sm, "KEYS_MAX_CHARS", 5000):
        state = genesis()
        for seq in range(2, 20):
            large = commit(put("user.b", "x" * 1000), key=f"k{seq}", target=("setting", "user.b"))
            state = accepted(state, entry(large, seq=seq)).state
    assert len(state.keys) == 4
    assert state.key_chars == sum(len(record.text) for record in state.keys.values()) <= 5000


def test_more_keys_in_one_entry_than_are_kept() -> None:
    """The store is told only of those that stay."""
    with mock.patch.object(sm, "KEYS_MAX", 2):
        outcome = accepted(genesis(), entry(*(commit(key=f"k{i}") for i in range(5))))
    assert [record.number for record in outcome.delta.keys_added] == [3, 4]
    assert outcome.delta.keys_dropped == ()


def test_a_key_that_is_used_again_counts_from_its_last_use() -> None:
    """Our planner does not do that; a foreign log may, and all nodes must agree on it."""
    state = accepted(genesis(), entry(commit(key="k"), commit(key="other"), commit(key="k"))).state
    assert {record.number for record in state.keys.values()} == {1, 2}
    with mock.patch.object(sm, "KEYS_MAX", 2):
        after = accepted(state, entry(commit(key="third"), seq=3))
    assert after.delta.keys_dropped == (sm.scoped_key("ann", "other"),)


def test_restoring_notices_what_is_missing_or_changed() -> None:
    state = accepted(genesis(), entry(commit(put("user.b"), key="k"))).state
    parts: dict[str, Any] = {
        "generation": "g",
        "epoch": 1,
        "primary": "p1",
        "revision": 2,
        "now": NOW,
        "next_key": 1,
        "documents": [*state.of("setting"), *state.of("node")],
        "keys": list(state.keys.values()),
    }
    assert State.restored(**parts).digest == state.digest
    spoilt: dict[str, Any]
    for spoilt in ({"documents": state.of("setting")}, {"keys": []}, {"next_key": 2}, {"revision": 3}):
        assert State.restored(**{**parts, **spoilt}).digest != state.digest
