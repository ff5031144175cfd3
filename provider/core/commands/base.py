"""What every command is made of: a plan, preconditions, and the making of changes."""

from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

from pydantic import TypeAdapter, ValidationError

from provider.core.documents import CONTENTS, Content, Document, Kind
from provider.core.entries import Attempt, Change
from provider.core.state import State
from shared.errors import Invalid, NotFound, StaleRevision

Ref = tuple[Kind, str]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a command becomes: the answer's HTTP status, the document that it shows, and the changes. `refused` is what
    it only notes."""

    status: int
    target: Ref | None = None
    changes: tuple[Change, ...] = ()
    refused: tuple[Attempt, ...] = ()


class Command(Protocol):
    def plan(self, state: State, now: int) -> Plan:
        """Changes to `state` at `now` (Unix ms). Pure. Raises `Refusal`."""


@dataclass(frozen=True, slots=True)
class Precondition:
    """`If-Match: <revision>` or `*`, and `If-None-Match: *`."""

    revision: int | None = None
    absent: bool = False
    present: bool = False

    def check(self, what: str, current: Document | None) -> None:
        """Raises `StaleRevision` (412) where the condition does not hold."""
        if self.absent and current is not None:
            raise StaleRevision(f"{what} exists already, at revision {current.revision}")
        if self.present and current is None:
            raise StaleRevision(f"{what} does not exist")
        if self.revision is not None and (current is None or current.revision != self.revision):
            found = "does not exist" if current is None else f"is at revision {current.revision}"
            raise StaleRevision(f"{what} {found}, not at revision {self.revision}: read it again and decide anew")


ALWAYS = Precondition()


@cache
def _adapter(type_: Any) -> TypeAdapter[Any]:
    return TypeAdapter(type_)  # to make one costs fifty times as much as to use it


def check_name(kind: str, value: str, type_: Any) -> None:
    """Raises `Invalid` where `value` is no name of this type."""
    try:
        _adapter(type_).validate_python(value)
    except ValidationError as error:
        raise Invalid(f"{kind} name {value[:80]!r}: {error.errors()[0]['msg']}") from None


def put(kind: Kind, id_: str, spec: Content, status: Content | None = None, *, wish: bool = True) -> Change:
    """A change that puts a document, with its contents checked against the kind's types."""
    spec_type, status_type = CONTENTS[kind]
    status = status if status is not None else status_type()
    if not isinstance(spec, spec_type) or not isinstance(status, status_type):
        raise TypeError(f"{kind} cannot hold {type(spec).__name__} and {type(status).__name__}")
    return Change(
        kind=kind,
        id=id_,
        spec=spec.model_dump(mode="json", exclude_none=True),
        status=status.model_dump(mode="json", exclude_none=True),
        wish=wish,
    )


def with_status(document: Document, status: Content, *, wish: bool = False) -> Change:
    """A change of what became of a document; what was asked for stays as it is, whichever version wrote it."""
    if not isinstance(status, CONTENTS[document.kind][1]):
        raise TypeError(f"{document.kind} cannot hold {type(status).__name__}")
    return Change(
        kind=document.kind,
        id=document.id,
        spec=dict(document.spec),
        status=status.model_dump(mode="json", exclude_none=True),
        wish=wish,
    )


def delete(kind: Kind, id_: str) -> Change:
    return Change(kind=kind, id=id_)


def need(state: State, kind: Kind, id_: str) -> Document:
    """The document. Raises `NotFound`."""
    found = state.get(kind, id_)
    if found is None:
        raise NotFound(f"there is no {kind} {id_[:160]!r}")
    return found
