"""Invariant: the checker finds every kind of broken promise, and nothing in a history that keeps them all."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings

from tests.faults.checker import check, check_again
from tests.faults.history import Attempt, Entry, Fault, Followed, History, Obeyed, Saved, Witness
from tests.unit.faults import honest
from tests.unit.faults.honest import NODES


@settings(max_examples=200, deadline=None)
@given(honest.wishes, honest.claims, honest.lags)
def test_nothing_is_found_where_every_promise_is_kept(
    wishes: list[honest.Wish], claims: list[tuple[int, int]], lags: tuple[int, ...]
) -> None:
    assert check(honest.Cluster(lags).history(wishes, claims)) == []


# ── one broken promise each ──────────────────────────────────────────────────────────────────────────────────────────


def wrote(op: str, asked: float, answered: float, at: int | None = None, **more: object) -> Attempt:
    base = Attempt("c1", op, "put", "p1", asked, answered, setting="a")
    if at is not None:
        base = replace(base, status=200, node="p1", role="primary", epoch=1, revision=at, document=at)
    return replace(base, **more)  # type: ignore[arg-type]


def read(op: str, asked: float, answered: float, revision: int, found: tuple[int, str] | None) -> Attempt:
    base = Attempt("c2", op, "read", "p2", asked, answered, setting="a", node="p2", role="standby", epoch=1)
    if found is None:
        return replace(base, revision=revision, status=404)
    return replace(base, revision=revision, status=200, document=found[0], found=found[1])


ENTRIES = (
    Entry(11, 1, "entry", "p1", (("a", "one"),)),
    Entry(12, 1, "entry", "p1", (("a", "two"),)),
    Entry(13, 2, "claim", "p2"),
    Entry(14, 2, "entry", "p2", (("a", "three"),)),
)
ATTEMPTS = (
    wrote("one", 0, 1, 11),
    wrote("two", 2, 3, 12, match=11),
    wrote("lost", 2, 3),
    wrote("three", 4, 5, 14, node="p2", epoch=2),
    read("r1", 1.5, 1.6, 11, (11, "one")),
    read("r2", 3.2, 3.5, 12, (12, "two")),
)


def sworn(entries: tuple[Entry, ...] = ENTRIES) -> tuple[Witness, ...]:
    held = {s: (entry.revision, v) for entry in entries for s, v in entry.puts if v is not None}
    last = entries[-1]
    return tuple(Witness(name, "g", 2, "p2", last.revision, "d", entries, held) for name in NODES)


GOOD = History(7, 10, 1, "p1", ATTEMPTS, sworn(), (Obeyed("db1", 1, 1, "desired"),), (Fault("kill", "p1", 1, 2),))


def logged(*entries: Entry) -> History:
    return replace(GOOD, witnesses=sworn(entries))


def also(*attempts: Attempt) -> History:
    return replace(GOOD, attempts=GOOD.attempts + attempts)


def other(**changes: object) -> History:
    """The last node testifies something else."""
    *rest, last = GOOD.witnesses
    return replace(GOOD, witnesses=(*rest, replace(last, **changes)))  # type: ignore[arg-type]


def again(number: int, **changes: object) -> History:
    """One attempt was another."""
    attempts = list(GOOD.attempts)
    attempts[number] = replace(attempts[number], **changes)  # type: ignore[arg-type]
    return replace(GOOD, attempts=tuple(attempts))


def earlier(now: tuple[int, str] | None) -> History:
    """On an earlier day all nodes held something; the last one holds this by now."""
    held = {"user.f1.m.s0": (5, "m.writer0.3")}
    *rest, last = (replace(one, earlier=held) for one in GOOD.witnesses)
    changed = replace(last, earlier={} if now is None else {"user.f1.m.s0": now})
    return replace(GOOD, witnesses=(*rest, changed), earlier=held)


def refused(status: int, code: str) -> History:
    return also(wrote("four", 8, 9, status=status, code=code, node="p1", role="primary", epoch=1, revision=12))


def gone(*at: int, told: tuple[int, ...] = (), written: int | None = None, **refused: object) -> History:
    """The setting is deleted so in the log; so it was told, each by an op of its own; `written`: an op before that."""
    asked = [wrote(f"d{n}", 10, 11, to, action="delete", document=None, status=204) for n, to in enumerate(told)]
    if refused:
        asked.append(wrote("d", 10, 11, action="delete", **refused))
    entries = [*ENTRIES, *(Entry(one, 2, "entry", "p2", (("a", None),)) for one in at)]
    if written is not None:
        entries += [Entry(16, 2, "entry", "p2"), Entry(written, 2, "entry", "p2", (("a", "six"),))]
        asked.append(wrote("six", 8, 9, written, node="p2", epoch=2))
    held = {} if written is None and at else {"a": (14, "three")} if written is None else {"a": (written, "six")}
    sworn_to = tuple(replace(one, settings=held) for one in sworn(tuple(entries)))
    asked = [replace(one, node="p2", epoch=2) if one.status == 204 else one for one in asked]
    return replace(GOOD, attempts=(*ATTEMPTS, *asked), witnesses=sworn_to)


def then_read(history: History, found: tuple[int, str] | None) -> History:
    return replace(history, attempts=(*history.attempts, replace(read("r4", 12, 13, 15, found), epoch=2)))


def wished(at: int | None, *, logged_at: int | None, **more: object) -> History:
    """A database was asked for, and made; where the log has it."""
    entries = tuple(replace(one, wishes=("db1/x",) if one.revision == logged_at else ()) for one in ENTRIES)
    asked = wrote("five", 2, 3, at, action="wish", setting="db1/x", **more)
    return replace(GOOD, attempts=(*ATTEMPTS, asked), witnesses=sworn(entries), databases=("db1/x",))


def followed(*entries: Entry) -> History:
    told = tuple(replace(entry, puts=()) for entry in entries)
    return replace(GOOD, followed=(Followed("p1", 10, told), Followed("p2", 14, ())))


def broker_away(since: float, role: str, *, again: float) -> History:
    """A broker was killed, or all of them; the next write succeeded at that time."""
    entries = (*ENTRIES, Entry(15, 2, "entry", "p2", (("a", "five"),)))
    five = wrote("five", again - 1, again, 15, node="p2", epoch=2)
    faults = (Fault("broker killed", "broker-p2", since, again + 1, role=role),)
    return replace(GOOD, attempts=(*ATTEMPTS, five), witnesses=sworn(entries), faults=faults)


FIVE = Entry(15, 2, "entry", "p2", (("a", "one"),))
BROKEN: dict[str, tuple[str, Callable[[], History]]] = {
    "nobody testifies": ("equal", lambda: replace(GOOD, witnesses=())),
    "another digest": ("equal", lambda: other(digest="e")),
    "another epoch": ("equal", lambda: other(epoch=3)),
    "another record": ("one log", lambda: other(entries=(*ENTRIES[:3], Entry(14, 2, "entry", "p2", (("a", "x"),))))),
    "a gap": ("one log", lambda: other(entries=(ENTRIES[0], *ENTRIES[2:]))),
    "a history that ends early": ("one log", lambda: other(entries=ENTRIES[:3])),
    "a state that its log does not explain": ("contents", lambda: other(settings={"a": (14, "two")})),
    "a setting that is in no log": ("contents", lambda: other(settings={"a": (14, "three"), "b": (9, "x")})),
    "two primaries in one epoch": ("epochs", lambda: logged(*ENTRIES[:3], replace(ENTRIES[3], node="p1"))),
    "an entry of an epoch that is over": ("epochs", lambda: logged(*ENTRIES[:3], replace(ENTRIES[3], epoch=1))),
    "two claims that end the same epoch": ("epochs", lambda: logged(*ENTRIES[:3], Entry(14, 2, "claim", "p3"))),
    "an acknowledged write that is gone": (
        "lost",
        lambda: also(wrote("four", 8, 9, 15, revision=14, node="p2", epoch=2)),
    ),
    "an answer from a state that is gone": ("lost", lambda: also(read("r3", 8, 9, 15, (14, "three")))),
    "a write that was done twice": ("once", lambda: logged(*ENTRIES, FIVE)),
    "a write that is elsewhere": ("once", lambda: again(0, document=12, revision=12)),
    "one that was told twice, differently": ("once", lambda: also(wrote("one", 1.1, 1.2, 12))),
    "a write that nobody asked for": ("once", lambda: logged(*ENTRIES, replace(FIVE, puts=(("a", "nobody's"),)))),
    "a refused write that is there": ("refused", lambda: again(3, status=412, code="stale_revision", document=None)),
    "a write that was not done, and is there": (
        "refused",
        lambda: again(3, status=503, code="no_primary", document=None),
    ),
    "a later write before an earlier one": ("real time", lambda: again(0, asked_s=3.5, answered_s=4)),
    "a node that goes back": ("reads", lambda: also(read("r3", 8, 9, 11, (11, "one")))),
    "a node behind what was asked for": ("reads", lambda: again(5, minimum=13)),
    "an own write that is not seen": ("reads", lambda: again(3, revision=13)),
    "a value that was replaced already": (
        "contents",
        lambda: also(read("r0", 7.5, 7.6, 14, (14, "three")), read("r3", 8, 9, 14, (11, "one"))),
    ),
    "a value that was never there": ("contents", lambda: again(4, found="x")),
    "a setting that was not found": (
        "contents",
        lambda: also(read("r0", 7.5, 7.6, 14, (14, "three")), read("r3", 8, 9, 14, None)),
    ),
    "a list that lacks one": (
        "contents",
        lambda: also(replace(read("r3", 8, 9, 14, None), action="list", status=200, document=14, items={})),
    ),
    "an epoch that was not yet": ("epochs", lambda: again(4, epoch=2)),
    "two who call themselves primary": ("epochs", lambda: again(4, role="primary")),
    "different digests on the way": (
        "equal",
        lambda: also(
            replace(read("l1", 8, 9, 12, (12, "d1")), action="look"),
            replace(read("l2", 8, 9, 12, (12, "d2")), action="look", node="p3"),
        ),
    ),
    "an update that was lost": ("If-Match", lambda: again(3, match=11)),
    "a refusal without a reason": (
        "If-Match",
        lambda: also(wrote("four", 8, 9, match=14, status=412, code="stale_revision")),
    ),
    "a database that nobody made": (
        "agents",
        lambda: also(wrote("five", 8, 9, 14, action="wish", setting="db1/x", node="p2", epoch=2)),
    ),
    "a database that is in no log": ("lost", lambda: wished(12, logged_at=None)),
    "a database that was asked for elsewhere": ("once", lambda: wished(12, logged_at=14)),
    "a database that was refused, and is there": (
        "refused",
        lambda: wished(None, logged_at=12, status=409, code="refused"),
    ),
    "a database that was not asked for, as was said": (
        "refused",
        lambda: wished(None, logged_at=12, status=503, code="no_primary"),
    ),
    "a deletion that is in no log": ("lost", lambda: gone(told=(16,))),
    "a deletion from before it was asked for": ("lost", lambda: gone(15, told=(16,), written=17)),
    "one deletion for two": ("lost", lambda: gone(15, told=(15, 15))),
    "a deletion that nobody asked for": ("once", lambda: gone(15)),
    "a deletion that was refused": ("once", lambda: gone(15, status=404, code="not_found")),
    "a setting that is there, though it was deleted": (
        "contents",
        lambda: then_read(gone(15, told=(15,)), (14, "three")),
    ),
    "an earlier day's setting that is gone": ("lost", lambda: earlier(None)),
    "an earlier day's setting that is an older one": ("lost", lambda: earlier((4, "m.writer0.1"))),
    "an earlier day's setting that somebody else wrote": ("lost", lambda: earlier((12, "x.writer0.9"))),
    "a client that is told that he is nobody": ("answers", lambda: refused(401, "unauthenticated")),
    "a client that may not": ("answers", lambda: refused(403, "forbidden")),
    "a setting that cannot be written": ("answers", lambda: refused(404, "not_found")),
    "a write that is called nonsense": ("answers", lambda: refused(422, "invalid")),
    "a condition that nobody named": ("answers", lambda: refused(412, "stale_revision")),
    "a stream with a gap": ("events", lambda: followed(ENTRIES[0], *ENTRIES[2:])),
    "a stream that repeats itself": ("events", lambda: followed(*ENTRIES[:2], *ENTRIES[1:])),
    "a stream in another order": ("events", lambda: followed(ENTRIES[1], ENTRIES[0])),
    "a stream of other records": ("events", lambda: followed(replace(ENTRIES[0], node="p3"))),
    "a stream of what is gone": ("lost", lambda: followed(*ENTRIES, FIVE)),
    "a backup that lacks a write": ("contents", lambda: replace(GOOD, backups=(Saved("b", 12, {"a": (11, "one")}),))),
    "a backup of a state that is gone": ("lost", lambda: replace(GOOD, backups=(Saved("b", 19, {}),))),
    "writes that wait for one of several brokers": ("minority", lambda: broker_away(8, "one", again=45)),
    "an agent that obeys the old": (
        "agents",
        lambda: replace(GOOD, obeyed=(Obeyed("db1", 2, 1, "desired"), Obeyed("db1", 1, 2, "advice"))),
    ),
}


def test_the_history_that_the_others_are_made_from_is_good() -> None:
    assert check(GOOD) == []


@pytest.mark.parametrize("what", BROKEN)
def test_finds(what: str) -> None:
    rule, make = BROKEN[what]
    found = check(make())
    assert rule in {one.rule for one in found}, found


def test_two_agents_need_not_obey_at_the_same_time() -> None:
    obeyed = (Obeyed("db1", 1, 2, "advice"), Obeyed("db2", 2, 1, "desired"), Obeyed("db2", 3, 2, "desired"))
    assert check(replace(GOOD, obeyed=obeyed)) == []


def test_a_history_is_the_same_after_it_was_written(tmp_path: Path) -> None:
    history = also(
        replace(read("r3", 8, 9, 14, None), action="list", status=200, document=14, items={"a": (14, "three")})
    )
    saved = (Saved("b", 12, {"a": (12, "two")}),)
    history = replace(history, witnesses=earlier(None).witnesses, earlier=earlier(None).earlier, backups=saved)
    history = replace(history, followed=followed(*ENTRIES).followed)
    history.write(tmp_path / "history.json")
    assert History.read(tmp_path / "history.json") == history


def test_a_key_may_be_forgotten_by_a_clock_that_is_a_day_off_and_only_then() -> None:
    again = Entry(15, 2, "entry", "p2", (("a", "three"),))
    twice = replace(
        GOOD,
        witnesses=sworn((*ENTRIES, again)),
        attempts=(*ATTEMPTS, wrote("three", 6, 7, 15, node="p2", epoch=2)),
    )
    assert "once" in {found.rule for found in check(twice)}
    assert check(replace(twice, faults=(Fault("clock far off", "p2", 4.5, 5.5),))) == []
    assert check(replace(twice, faults=(Fault("clock", "p2", 4.5, 5.5),))) != []
    # The keys live by the time in the log: the clock of one who never was primary makes nobody forget them.
    assert check(replace(twice, faults=(Fault("clock far off", "p3", 4.5, 5.5),))) != []


def test_what_a_client_of_an_earlier_day_no_longer_waited_for_may_have_been_written_since() -> None:
    assert check(earlier((5, "m.writer0.3"))) == []
    assert check(earlier((11, "m.writer0.4"))) == []


def test_a_node_that_was_removed_may_know_nobody() -> None:
    assert check(replace(refused(401, "unauthenticated"), faults=(Fault("remove", "p1", 7, 8),))) == []


def test_a_database_that_was_asked_for_where_that_was_said_is_good() -> None:
    assert check(wished(12, logged_at=12)) == []
    assert check(wished(None, logged_at=12)) == [], "it was not answered"
    assert check(wished(None, logged_at=None, status=503, code="no_primary")) == []


def test_deletions_that_are_where_they_were_said_to_be_are_good() -> None:
    assert check(gone(15, told=(15,))) == []
    assert check(gone(15, 16, told=(15, 16))) == []
    assert check(gone(status=404, code="not_found")) == []
    assert check(then_read(gone(15, told=(15,)), None)) == []


def test_streams_that_tell_all_in_order_are_good() -> None:
    assert check(followed(*ENTRIES)) == []
    assert check(replace(GOOD, followed=(Followed("p1", 12, (replace(ENTRIES[2], puts=()),)),))) == []


def test_writes_may_wait_for_the_brokers_majority_and_for_a_while_where_one_is_away() -> None:
    assert check(broker_away(8, "most", again=45)) == []
    assert check(broker_away(8, "one", again=12)) == []


def test_a_backup_that_has_what_the_log_says_is_good() -> None:
    saved = (Saved("b", 12, {"a": (12, "two")}), Saved("c", 14, {"a": (14, "three")}))
    assert check(replace(GOOD, backups=saved)) == []


def test_what_nodes_testify_from_their_disks_is_what_they_had_testified() -> None:
    assert check_again(GOOD, sworn((*ENTRIES, Entry(15, 2, "entry", "p2")))) == []
    assert check_again(GOOD, sworn()) == []
    assert {one.rule for one in check_again(GOOD, sworn(ENTRIES[:3]))} >= {"lost"}
    altered = (*ENTRIES[:1], Entry(12, 1, "entry", "p1"), *ENTRIES[2:])
    assert {one.rule for one in check_again(GOOD, sworn(altered))} >= {"lost"}
    assert {one.rule for one in check_again(GOOD, tuple(replace(one, digest="e") for one in sworn()))} == {"equal"}
