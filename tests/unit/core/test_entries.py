"""Records: whatever can be made can be told again; whatever comes in is a record or `Unreadable`, and nothing else."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from provider.core import entries
from provider.core.entries import (
    INT_MAX_BITS,
    JSON_MAX_DEPTH,
    RECORD_MAX_BYTES,
    Attempt,
    Barrier,
    Change,
    Claim,
    Commit,
    Entry,
    Unreadable,
    decode,
    encode,
    size,
)
from provider.core.state import Accepted, State, step

STEADY = settings(derandomize=True)
"""The same examples in each run, however slow the machine."""
STATE = State.genesis(generation="g", primary="p1", now=1)


def entry(spec: Any = None, **other: Any) -> dict[str, Any]:
    """A record as it would stand in the log, to be spoilt."""
    change = {"kind": "setting", "id": "user.a", "spec": {"value": 1} if spec is None else spec}
    commit = {"principal": "ann", "action": "PUT", "status": 200, "changes": [change]}
    head = {"type": "entry", "v": 1, "id": "e", "generation": "g", "epoch": 1, "seq": 2, "node": "p1", "at": 5}
    return {**head, "commits": [commit], **other}


def raw(value: str, **other: Any) -> bytes:
    """An entry whose setting has this JSON text for a value."""
    return json.dumps(entry({"value": "HERE"}, **other)).replace('"HERE"', value).encode()


# ── made by us ───────────────────────────────────────────────────────────────────────────────────────────────────────

TEXT = st.text(max_size=20)
COUNT = st.integers(0, 2**63 - 1)
LEAF = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
JSON = st.recursive(
    LEAF,
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4),
    max_leaves=10,
)
OBJECT = st.dictionaries(st.text(), JSON, max_size=3)
CHANGES = st.builds(
    Change, kind=st.sampled_from(["setting", "database"]), id=TEXT, spec=st.none() | OBJECT, status=OBJECT
)
ATTEMPTS = st.builds(
    Attempt,
    at=COUNT,
    node=TEXT,
    principal=TEXT,
    source=st.none() | TEXT,
    action=TEXT,
    code=TEXT,
    status=st.integers(100, 599),
    count=st.integers(1, 2**63 - 1),
    detail=st.none() | TEXT,
)
COMMITS = st.builds(
    Commit,
    principal=TEXT,
    action=TEXT,
    source=st.none() | TEXT,
    key=st.none() | st.text(min_size=1, max_size=20),
    status=st.integers(100, 599),
    target=st.none() | st.tuples(st.just("setting"), TEXT),
    changes=st.lists(CHANGES, max_size=3).map(tuple),
    before=st.lists(COUNT, max_size=3).map(tuple),
    refused=st.lists(ATTEMPTS, max_size=3).map(tuple),
)
HEAD = {"id": TEXT, "generation": TEXT, "node": TEXT, "at": COUNT}
RECORDS = (
    st.builds(Barrier, **HEAD)
    | st.builds(Claim, ends=COUNT, principal=st.none() | TEXT, source=st.none() | TEXT, **HEAD)
    | st.builds(Entry, epoch=COUNT, seq=COUNT, commits=st.lists(COMMITS, max_size=3).map(tuple), **HEAD)
)


@STEADY
@given(RECORDS)
def test_what_is_encoded_is_decoded_to_the_same(record: entries.LogRecord) -> None:
    again = decode(encode(record))
    assert again == record
    assert encode(again) == encode(record)  # 1, 1.0 and True are equal to Python


@STEADY
@given(COMMITS)
def test_the_size_of_a_commit_is_what_it_adds(commit: Commit) -> None:
    def record(*commits: Commit) -> Entry:
        return Entry(id="e", generation="g", epoch=1, seq=2, node="p", at=1, commits=commits)

    assert size(commit) == len(encode(record(commit, commit))) - len(encode(record(commit)))


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def test_a_record_from_before_there_was_an_audit_is_read_and_told_again_as_it_was() -> None:
    text = json.dumps(entry(), separators=(",", ":"))
    commit = decode(text.encode()).commits[0]  # type: ignore[union-attr]
    assert (commit.before, commit.refused) == ((), ())
    assert b"before" not in encode(decode(text.encode()))
    assert b"refused" not in encode(decode(text.encode()))


UNWRITABLE = {
    "nan": float("nan"),
    "infinity": [float("inf")],
    "lone surrogate": "a\ud800",
    "lone surrogate in a key": {"\udfff": 1},
    "huge integer": 1 << INT_MAX_BITS,
    "too deep": nested(JSON_MAX_DEPTH),
    "deeper than any stack": nested(100_000),
    "no JSON": object(),
    "key that is no text": {1: 1},
}


@pytest.mark.parametrize("value", UNWRITABLE.values(), ids=UNWRITABLE)
def test_what_could_not_be_told_again_cannot_be_made(value: Any) -> None:
    with pytest.raises(ValidationError):
        Change(kind="setting", id="user.a", spec={"value": value})
    with pytest.raises(ValidationError):
        Change(kind="setting", id="user.a", spec={}, status={"value": value})


@pytest.mark.parametrize("value", [nested(JSON_MAX_DEPTH - 1), (1 << INT_MAX_BITS) - 1, -(1 << INT_MAX_BITS) + 1])
def test_what_is_just_within_the_limits_goes_all_the_way(value: Any) -> None:
    change = Change(kind="setting", id="user.a", spec={"value": value})
    commit = Commit(principal="ann", action="PUT", status=200, changes=(change,))
    record = decode(encode(Entry(id="e", generation="g", epoch=1, seq=2, node="p1", at=1, commits=(commit,))))
    outcome = step(STATE, record)
    assert isinstance(outcome, Accepted)
    assert outcome.delta.put[0].spec == {"value": value}
    assert json.loads(outcome.delta.put[0].text)


@pytest.mark.parametrize("field", ["principal", "action", "source", "key", "request"])
@pytest.mark.parametrize("text", ["\ud800", "x" * 1001], ids=["lone surrogate", "too long"])
def test_a_commits_own_words_can_be_written_down(field: str, text: str) -> None:
    with pytest.raises(ValidationError):
        Commit(**{"principal": "ann", "action": "PUT", "status": 200, field: text})


# ── made by others ───────────────────────────────────────────────────────────────────────────────────────────────────

FOREIGN = {
    "nothing": b"",
    "no UTF-8": b"\xff\xfe",
    "no object": b"[]",
    "unknown type": json.dumps(entry(type="order")).encode(),
    "unknown field": json.dumps(entry(more=1)).encode(),
    "unknown kind": json.dumps(entry()).replace("setting", "spaceship").encode(),
    "missing field": json.dumps({k: v for k, v in entry().items() if k != "seq"}).encode(),
    "newer format": json.dumps(entry(v=2)).encode(),
    "negative number": json.dumps(entry(seq=-1)).encode(),
    "number beyond 64 bits": json.dumps(entry(at=2**63)).encode(),
    "number of 400 digits": json.dumps(entry(at=10**400)).encode(),
    "NaN": raw("NaN"),
    "-Infinity": raw("-Infinity"),
    "a number too large for a float": raw("1e999"),
    "integer of 4250 digits": raw("9" * 4250),
    "integer of 5000 digits": raw("9" * 5000),
    "integer of 100000 digits": raw("9" * 100_000),
    "just too deep": raw("[" * 100 + "]" * 100),
    "deep": raw("[" * 1000 + "]" * 1000),
    "deeper than any stack": b'{"a":' * 200_000,
    "lone surrogate": raw('"\\ud800"'),
    "10 MB": raw('"' + "x" * 10_000_000 + '"'),
    "a hundred thousand errors": b'{"type":"entry",' + b",".join(b'"k%d":1' % i for i in range(100_000)) + b"}",
    "a million wrong commits": json.dumps(entry(commits=[1] * 1_000_000)).encode(),
}


@pytest.mark.parametrize("data", FOREIGN.values(), ids=FOREIGN)
def test_no_record_is_unreadable_and_says_briefly_why(data: bytes) -> None:
    with pytest.raises(Unreadable) as error:
        decode(data)
    assert 0 < len(str(error.value)) <= 300


def test_the_limit_of_a_records_size_leaves_room_for_the_largest_that_we_write() -> None:
    from provider.core.batch import ENTRY_MAX_BYTES

    assert 2 * ENTRY_MAX_BYTES < RECORD_MAX_BYTES


@STEADY
@given(st.binary())
def test_any_bytes_are_a_record_or_unreadable(data: bytes) -> None:
    apply(data)


SPOILT = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["entry", "claim", "barrier"]) | JSON,
        "v": st.just(1) | JSON,
        "id": st.just("x") | JSON,
        "generation": st.just("g") | JSON,
        "node": st.just("p1") | JSON,
        "at": COUNT | JSON,
        "epoch": st.just(1) | JSON,
        "ends": st.just(1) | JSON,
        "seq": st.just(2) | JSON,
        "commits": JSON | st.lists(JSON | st.just(entry()["commits"][0]), max_size=3),
    },
)


@STEADY
@given(SPOILT, st.floats() | st.integers() | JSON)
def test_almost_a_record_is_a_record_or_unreadable(record: dict[str, Any], value: Any) -> None:
    apply(json.dumps(record).encode())
    apply(json.dumps(entry({"value": value}, **record)).encode())


@STEADY
@given(st.data())
def test_a_record_with_a_few_bytes_changed_is_a_record_or_unreadable(data: st.DataObject) -> None:
    spoilt = bytearray(json.dumps(entry({"value": [1.5, None, "ü", {"a": 10**30}]})).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        spoilt[data.draw(st.integers(0, len(spoilt) - 1))] = data.draw(st.integers(0, 255))
    apply(bytes(spoilt))


def apply(data: bytes) -> None:
    """Whatever was read can be applied, stored, loaded and told again."""
    try:
        record = decode(data)
    except Unreadable:
        return
    assert decode(encode(record)) == record
    outcome = step(STATE, record)
    if isinstance(outcome, Accepted):
        for document in outcome.delta.put:
            document.text.encode()
            assert type(document).from_text(document.text).text == document.text
        assert len(outcome.state.digest) == 64
