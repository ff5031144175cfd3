"""What the log holds: entries, claims, barriers. `decode` is the only way in."""

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from provider.core.documents import Kind

FORMAT = 1


class Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Change(Record):
    """Put one document (`spec` given) or delete it (`spec` None)."""

    kind: Kind
    id: str
    spec: dict[str, Any] | None = None
    status: dict[str, Any] = Field(default_factory=dict)
    wish: bool = Field(default=True, description="whether what is asked for changed, not only what became of it")


class Commit(Record):
    """One request's share of an entry."""

    principal: str
    action: str = Field(description='what was asked, for people: "PUT /settings/user.x"')
    source: str | None = Field(default=None, description="the client's address")
    key: str | None = Field(default=None, description="idempotency key")
    request: str = Field(default="", description="hash of what was asked: the same key must come with the same request")
    status: int = Field(description="HTTP status of the answer")
    target: tuple[Kind, str] | None = Field(default=None, description="the document that the answer shows")
    changes: tuple[Change, ...] = ()


class Entry(Record):
    """Changes proposed by the primary of `epoch`, to become revision `seq`. `at` is Unix milliseconds."""

    type: Literal["entry"] = "entry"
    v: int = FORMAT
    id: str
    generation: str
    epoch: int
    seq: int
    node: str
    at: int
    commits: tuple[Commit, ...]


class Claim(Record):
    """`node` ends epoch `ends` and begins the next one as its primary."""

    type: Literal["claim"] = "claim"
    v: int = FORMAT
    id: str
    generation: str
    ends: int
    node: str
    at: int


class Barrier(Record):
    """Changes nothing. Whoever reads its own barrier back has read everything that was in the log before it."""

    type: Literal["barrier"] = "barrier"
    v: int = FORMAT
    id: str
    generation: str
    node: str
    at: int


LogRecord = Entry | Claim | Barrier
_RECORD: TypeAdapter[LogRecord] = TypeAdapter(Annotated[LogRecord, Field(discriminator="type")])


class Unreadable(Exception):
    """These bytes are no record of ours. Every node skips them alike."""


def encode(record: LogRecord) -> bytes:
    """The record as UTF-8 JSON."""
    return record.model_dump_json(exclude_defaults=False).encode("utf-8", "surrogatepass")


def decode(data: bytes) -> LogRecord:
    """The record in `data`. Raises `Unreadable`, and nothing else, for anything that is none, or of a newer format."""
    try:
        record = _RECORD.validate_json(data)
    except (ValidationError, ValueError, RecursionError) as error:
        raise Unreadable(" ".join(str(error).split())[:300]) from None
    if record.v != FORMAT:
        raise Unreadable(f"format {record.v}; this program reads {FORMAT}")
    return record


def size(commit: Commit) -> int:
    """Roughly what `commit` adds to an entry, in bytes."""
    return len(json.dumps([change.spec for change in commit.changes])) + 500
