"""A state as lines of text, and back: how a node that joins gets what came before the log that it will read.

{"format": 1, "generation": …, "epoch": …, …, "position": {"offset": …, "digest": …}, "digest": …}
["document", "<text>"]      one for each
["key", "<text>"]           one for each, oldest first
["end", <number of lines between>]
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from immutables import Map

from provider.core.documents import Document, canonical, fingerprint
from provider.core.state import Answer, KeyRecord, State
from provider.log.port import Position
from shared.errors import Invalid

FORMAT = 1


def write_snapshot(state: State, position: Position | None) -> Iterator[str]:
    """The lines, without line ends. `state` is immutable, so the node goes on serving meanwhile."""
    yield canonical(
        {
            "format": FORMAT,
            "generation": state.generation,
            "epoch": state.epoch,
            "primary": state.primary,
            "revision": state.revision,
            "now": state.now,
            "next_key": state.next_key,
            "position": None if position is None else {"offset": position.offset, "digest": position.digest},
            "digest": state.digest,
        }
    )
    count = 0
    for collection in state.documents.values():
        for document in collection.values():
            count += 1
            yield canonical(["document", document.text])
    for number in range(state.next_key - len(state.key_order), state.next_key):
        key = state.key_order[number]
        count += 1
        yield canonical(["key", state.keys[key].text if key else canonical([number])])
    yield canonical(["end", count])


def read_snapshot(lines: Iterable[str]) -> tuple[State, Position | None]:
    """What `write_snapshot` wrote. Raises `Invalid` where anything is missing or altered."""
    try:
        return _read(iter(lines))
    except (StopIteration, LookupError, TypeError, ValueError, AttributeError, RecursionError, OverflowError) as error:
        raise Invalid(f"the snapshot is damaged or incomplete ({error!r}): fetch it again") from None


def _read(lines: Iterator[str]) -> tuple[State, Position | None]:
    head: dict[str, Any] = json.loads(next(lines))
    if head["format"] != FORMAT:
        raise Invalid(f"the snapshot has format {str(head['format'])[:20]!r}; this program reads {FORMAT}")
    documents: dict[str, dict[str, Document]] = {}
    keys: dict[str, KeyRecord] = {}
    order: dict[int, str] = {}
    checksum = count = 0
    for line in lines:
        what, value = json.loads(line)
        if what == "end":
            if value != count:
                raise Invalid(f"the snapshot has {count} lines of {str(value)[:20]!r}: fetch it again")
            break
        count += 1
        if what == "document":
            document = Document.from_text(value)
            documents.setdefault(document.kind, {})[document.id] = document
            checksum += fingerprint(value)
            continue
        if what != "key":
            raise Invalid(f"the snapshot holds a line of an unknown kind: {str(what)[:80]!r}")
        fields = json.loads(value)
        if len(fields) == 1:
            order[fields[0]] = ""
            continue
        record = _key(fields)
        keys[record.key], order[record.number] = record, record.key
        checksum += fingerprint(value)
    else:
        raise Invalid("the snapshot breaks off: fetch it again")
    state = State(
        generation=head["generation"],
        epoch=head["epoch"],
        primary=head["primary"],
        revision=head["revision"],
        now=head["now"],
        documents=Map({kind: Map(collection) for kind, collection in documents.items()}),
        keys=Map(keys),
        key_order=Map(order),
        next_key=head["next_key"],
        checksum=checksum % (1 << 256),
    )
    if state.digest != head["digest"]:
        raise Invalid("the snapshot's content does not match its digest: fetch it again")
    position = head["position"]
    return state, None if position is None else Position(position["offset"], position["digest"])


def _key(fields: list[Any]) -> KeyRecord:
    number, at, key, request, status, revision, shown = fields
    document = Document.from_text(shown) if shown is not None else None
    return KeyRecord(number, at, key, request, Answer(status, revision, document))
