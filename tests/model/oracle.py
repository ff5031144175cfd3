"""The rules of the log once more, as plainly as possible and with none of the program's code but `decode`.

What every node must make of a log is worked out here with dictionaries, record by record; the model compares.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from provider.core.documents import Document
from provider.core.entries import Barrier, Claim, Commit, Entry, Unreadable, decode
from provider.core.state import Answer, State

DAY_MS = 24 * 3600 * 1000

Ref = tuple[str, str]


@dataclass(frozen=True)
class Fact:
    """A document as it must be."""

    revision: int
    wish: int
    created_at: int
    updated_at: int
    spec: str
    status: str

    @staticmethod
    def of(document: Document | None) -> "Fact | None":
        if document is None:
            return None
        return Fact(
            document.revision,
            document.wish,
            document.created_at,
            document.updated_at,
            json.dumps(document.spec, sort_keys=True),
            json.dumps(document.status, sort_keys=True),
        )


@dataclass(frozen=True)
class Told:
    """An answer as it must be."""

    status: int
    revision: int
    document: Fact | None

    @staticmethod
    def of(answer: Answer) -> "Told":
        return Told(answer.status, answer.revision, Fact.of(answer.document))


@dataclass(frozen=True)
class Key:
    at: int
    request: str
    told: Told


@dataclass(frozen=True)
class View:
    """Everything that follows from the log up to some record."""

    generation: str
    epoch: int
    primary: str
    revision: int
    now: int
    documents: dict[Ref, Fact] = field(default_factory=dict)
    keys: dict[tuple[str, str], Key] = field(default_factory=dict)
    """By (principal, key), in the order of their last use."""

    @staticmethod
    def of(state: State) -> "View":
        """What a node thinks. Its keys are read back out of their stored text."""
        documents = {(kind, d.id): Fact.of(d) for kind in state.documents for d in state.of(kind)}  # type: ignore[arg-type]
        keys = {}
        for number in sorted(n for n, scoped in state.key_order.items() if scoped):
            record = state.keys[state.key_order[number]]
            length, _, rest = record.key.partition(" ")
            principal, key = rest[: int(length)], rest[int(length) + 1 :]
            keys[principal, key] = Key(record.at, record.request, Told.of(record.answer))
        known = {ref: fact for ref, fact in documents.items() if fact is not None}
        return View(state.generation, state.epoch, state.primary, state.revision, state.now, known, keys)


@dataclass(frozen=True)
class Done:
    """One commit of an accepted entry."""

    position: int
    commit: Commit
    told: Told
    before: dict[Ref, Fact]
    """The documents just before it."""
    keys: dict[tuple[str, str], Key]
    """The keys known just before its entry."""


class Oracle:
    """Reads a log and knows what follows. `views[n]` is what a node must think that has read n records."""

    def __init__(self, genesis: State, *, keys_max: int, on_accept: Callable[[Done], None]) -> None:
        self.views = [View.of(genesis)]
        self._keys_max, self._on_accept = keys_max, on_accept
        self._done: list[Done] = []

    @property
    def latest(self) -> View:
        return self.views[-1]

    def feed(self, data: bytes) -> None:
        self._done.clear()
        self.views.append(self._after(self.latest, data))
        for done in self._done:
            self._on_accept(done)

    def _after(self, view: View, data: bytes) -> View:
        try:
            record = decode(data)
        except Unreadable:
            return view
        if isinstance(record, Barrier) or record.generation != view.generation:
            return view
        if isinstance(record, Claim):
            if record.ends != view.epoch or ("node", record.node) not in view.documents:
                return view
            return replace(
                view,
                epoch=view.epoch + 1,
                primary=record.node,
                revision=view.revision + 1,
                now=max(view.now, record.at),
            )
        if record.epoch != view.epoch or record.seq != view.revision + 1:
            return view
        return self._accept(view, record)

    def _accept(self, view: View, entry: Entry) -> View:
        now, documents, keys = max(view.now, entry.at), dict(view.documents), dict(view.keys)
        for attempt in (attempt for commit in entry.commits for attempt in commit.refused):
            assert now - DAY_MS <= attempt.at <= now, "an attempt is recorded out of its time"
        for commit in entry.commits:
            before = dict(documents)
            for change in commit.changes:
                ref = (change.kind, change.id)
                old = documents.pop(ref, None)
                if change.spec is not None:
                    documents[ref] = Fact(
                        revision=entry.seq,
                        wish=entry.seq if change.wish or old is None else old.wish,
                        created_at=now if old is None else old.created_at,
                        updated_at=now,
                        spec=_text(change.spec),
                        status=_text(change.status),
                    )
            told = Told(commit.status, entry.seq, documents.get(commit.target) if commit.target else None)
            self._done.append(Done(len(self.views), commit, told, before, view.keys))
            if commit.key is not None:
                keys.pop((commit.principal, commit.key), None)
                keys[commit.principal, commit.key] = Key(now, commit.request, told)
        while keys:
            oldest = next(iter(keys))
            if len(keys) <= self._keys_max and keys[oldest].at + DAY_MS >= now:
                break
            del keys[oldest]
        return View(view.generation, view.epoch, view.primary, entry.seq, now, documents, keys)


def _text(value: dict[str, Any]) -> str:
    return json.dumps(value, sort_keys=True)
