"""What the log holds: entries, claims, barriers. `decode` is the only way in.

Whatever can be built here can be encoded, and what was encoded can be decoded again to something equal: a record that
fails half-way would stop the primary, or every node at once. Hence the limits on numbers, lengths and JSON values.
"""

from collections.abc import Iterable
from math import isfinite
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    FailFast,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
)

from provider.core.documents import Kind

FORMAT = 1
RECORD_MAX_BYTES = 4 * 1024 * 1024
"""Of what is read; twice the largest that a primary writes (`batch.ENTRY_MAX_BYTES` and one commit of that size)."""


JSON_MAX_DEPTH = 100
"""The parser's own limit is near 200 levels, of which an entry takes eight."""
INT_MAX_BITS = 14_000
"""Python and the parser read integers of up to 4300 decimal digits, which is a little more."""


def sound(value: object, room: int = JSON_MAX_DEPTH) -> bool:
    """Whether `value` stays what it is when it is encoded, decoded, stored and loaded."""
    if isinstance(value, str):
        return _writable(value)
    if isinstance(value, float):
        return isfinite(value)
    if isinstance(value, int):
        return value.bit_length() <= INT_MAX_BITS
    if isinstance(value, dict):
        return all(type(key) is str and _writable(key) for key in value) and _all_sound(value.values(), room - 1)
    if isinstance(value, list):
        return _all_sound(value, room - 1)
    return value is None


def _all_sound(values: Iterable[object], room: int) -> bool:
    if room < 0:
        return False
    for value in values:  # noqa: SIM110  a plain loop: every value in every record comes through here
        if not sound(value, room):
            return False
    return True


def _writable(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= c <= "\udfff" for c in text)


def _json(value: dict[str, Any]) -> dict[str, Any]:
    if not sound(value):
        raise ValueError("NaN, infinity, lone surrogates, huge integers and very deep nesting are not allowed")
    return value


Count = Annotated[int, Field(ge=0, le=2**63 - 1)]
"""Revisions, epochs and times: what fits a 64-bit column, so that no record can be applied but not stored."""
# A length limit also has pydantic look inside: a lone surrogate, which could not be encoded, is refused.
Text = Annotated[str, StringConstraints(max_length=1000)]
IdempotencyKey = Annotated[str, StringConstraints(min_length=1, max_length=255)]
JsonObject = Annotated[dict[str, Any], AfterValidator(_json)]


def _is_none(value: object) -> bool:
    return value is None


def _is_empty(value: tuple[object, ...]) -> bool:
    return not value


class Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Change(Record):
    """Put one document (`spec` given) or delete it (`spec` None)."""

    kind: Kind
    id: Text
    spec: JsonObject | None = None
    status: JsonObject = Field(default_factory=dict)
    wish: bool = Field(default=True, description="whether what is asked for changed, not only what became of it")


class Attempt(Record):
    """Something that was asked for and refused, as often as `count` says; or done without a commit (a login), and then
    `code` is empty. Nothing of it changes the state."""

    at: Count = Field(description="of the first, Unix milliseconds")
    node: Text = Field(description="that refused it")
    principal: Text = Field(description='whose it was; "?" where nobody was authenticated')
    source: Text | None = Field(default=None, description="the client's address")
    action: Annotated[str, StringConstraints(max_length=300)] = Field(description="as in `Commit`, without the query")
    code: Annotated[str, StringConstraints(max_length=60)] = Field(description="of the error")
    status: Annotated[int, Field(ge=100, le=599)] = Field(description="HTTP status of the answer")
    count: Annotated[int, Field(ge=1, le=2**63 - 1)] = 1
    detail: Annotated[str, StringConstraints(max_length=300)] | None = None


class Commit(Record):
    """One request's share of an entry."""

    principal: Text
    action: Text = Field(description='what was asked, for people: "PUT /settings/user.x"')
    source: Text | None = Field(default=None, description="the client's address")
    key: IdempotencyKey | None = Field(default=None, description="idempotency key")
    request: Text = Field(default="", description="hash of what was asked: the same key comes with the same request")
    status: Annotated[int, Field(ge=100, le=599)] = Field(description="HTTP status of the answer")
    target: tuple[Kind, Text] | None = Field(default=None, description="the document that the answer shows")
    changes: Annotated[tuple[Change, ...], FailFast()] = ()
    before: Annotated[tuple[Count, ...], FailFast()] = Field(
        default=(),
        exclude_if=_is_empty,
        description="for each change the revision of its document before it, 0 where there was none. For the audit",
    )
    refused: Annotated[tuple[Attempt, ...], FailFast()] = Field(
        default=(), exclude_if=_is_empty, description="what a node refused and notes here: the audit reads the log"
    )


class Entry(Record):
    """Changes proposed by the primary of `epoch`, to become revision `seq`. `at` is Unix milliseconds."""

    type: Literal["entry"] = "entry"
    v: int = FORMAT
    id: Text
    generation: Text
    epoch: Count
    seq: Count
    node: Text
    at: Count
    commits: Annotated[tuple[Commit, ...], FailFast()]


class Claim(Record):
    """`node` ends epoch `ends` and begins the next one as its primary, asked by `principal` from `source`."""

    type: Literal["claim"] = "claim"
    v: int = FORMAT
    id: Text
    generation: Text
    ends: Count
    node: Text
    at: Count
    principal: Text | None = Field(default=None, exclude_if=_is_none)
    source: Text | None = Field(default=None, exclude_if=_is_none)


class Barrier(Record):
    """Changes nothing. Whoever reads its own barrier back has read everything that was in the log before it."""

    type: Literal["barrier"] = "barrier"
    v: int = FORMAT
    id: Text
    generation: Text
    node: Text
    at: Count


LogRecord = Entry | Claim | Barrier
_COMMIT = TypeAdapter(Commit)
_RECORD: TypeAdapter[LogRecord] = TypeAdapter(Annotated[LogRecord, Field(discriminator="type")])


class Unreadable(Exception):
    """These bytes are no record of ours. Every node skips them alike."""


def encode(record: LogRecord) -> bytes:
    """The record as UTF-8 JSON."""
    return record.model_dump_json().encode()


def decode(data: bytes) -> LogRecord:
    """The record in `data`. Raises `Unreadable`, and nothing else, for anything that is none, or of a newer format."""
    if len(data) > RECORD_MAX_BYTES:
        raise Unreadable(f"{len(data)} bytes; a record has at most {RECORD_MAX_BYTES}")
    try:
        record = _RECORD.validate_json(data)
    except ValidationError as error:
        raise Unreadable(_reason(error)) from None
    if record.v != FORMAT:
        raise Unreadable(f"format {record.v}; this program reads {FORMAT}")
    return record


def _reason(error: ValidationError) -> str:
    if error.error_count() > 20:  # a text of a hundred thousand errors takes a second to write
        return f"{error.error_count()} errors"
    return " ".join(str(error).split())[:300]


def size(commit: Commit) -> int:
    """What `commit` adds to an entry, in bytes."""
    return len(_COMMIT.dump_json(commit)) + 1
