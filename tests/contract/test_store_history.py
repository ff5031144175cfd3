"""The history in a store: read in pages, looked through, pruned, filled from before."""

import json
import threading
from dataclasses import replace
from typing import Any

import pytest

from provider.core.entries import Claim, decode
from provider.store import HistoryRow
from shared.errors import Invalid
from tests.support.history import accept_claim, accept_entry, accept_values, commit_of, position, put
from tests.support.stores import OpenStore, same, seeded


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
