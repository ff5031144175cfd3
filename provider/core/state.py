"""The state and the one function that changes it.

`step(state, record)` is applied by every node to every record in log order. It returns `Accepted` with the next state,
or `Skipped` with the reason; it never raises and never looks at anything but its arguments.

Invariants, for any log whatever (tests/model proves them against an adversary):

1. Nodes that have read equally far hold equal states, hence equal digests.
2. An entry is accepted iff its generation is ours, its epoch is the current one and its `seq` is revision + 1.
3. A claim is accepted iff its generation is ours, it names the current epoch as the one it ends, and its node is a
   member. So each epoch has exactly one primary: the node whose claim began it.
4. The revision counts accepted records, claims included: it grows by one with each, and with nothing else.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import Enum
from hashlib import sha256
from typing import TypeVar

from immutables import Map

from provider.core.documents import Document, Json, Kind, canonical, fingerprint
from provider.core.entries import Barrier, Change, Claim, Commit, Entry, LogRecord
from provider.core.keys import KEYS_MAX, KEYS_MAX_AGE_MS, KEYS_MAX_CHARS, Answer, KeyRecord, scoped_key

__all__ = [
    "KEYS_MAX",
    "KEYS_MAX_AGE_MS",
    "KEYS_MAX_CHARS",
    "Accepted",
    "Answer",
    "Delta",
    "Documents",
    "KeyRecord",
    "Skipped",
    "State",
    "Why",
    "owner",
    "preview",
    "scoped_key",
    "step",
]

_WRAP = 1 << 256
_K = TypeVar("_K")
_CHILDREN = frozenset[Kind]({"database", "account", "instance"})
"""Kinds whose documents belong to another one: see `owner`."""

Documents = Map[str, Map[str, Document]]
Families = Map[tuple[str, str], Map[str, Document]]


@dataclass(frozen=True, slots=True)
class State:
    """One version of everything. Immutable: holding on to one is a snapshot."""

    generation: str
    epoch: int
    primary: str
    revision: int
    now: int
    """The latest time (Unix ms) in any accepted record. The only clock that the state machine knows."""
    documents: Documents
    keys: Map[str, KeyRecord]
    key_order: Map[int, str]
    """Numbers in use are consecutive: the oldest is `next_key - len(key_order)`."""
    next_key: int
    checksum: int
    """Sum of the fingerprints of all documents and keys, modulo 2^256: can be kept up to date in constant time."""
    families: Families = field(default=Map(), repr=False, compare=False)
    """By (kind, owner), so that to list an instance's databases does not cost a look at all there are. Follows from
    `documents`, and is made from them where it is not given."""
    key_chars: int = field(default=-1, repr=False, compare=False)
    """Length of all keys' texts; counted where it is not given."""

    def __post_init__(self) -> None:
        if not self.families:
            object.__setattr__(self, "families", _families(self.documents))
        if self.key_chars < 0:
            object.__setattr__(self, "key_chars", sum(len(record.text) for record in self.keys.values()))

    @classmethod
    def genesis(cls, *, generation: str, primary: str, now: int, changes: tuple[Change, ...] = ()) -> "State":
        """Revision 1, epoch 1: what `provider init` begins with."""
        draft = _Draft(cls(generation, 1, primary, 1, now, Map(), Map(), Map(), 0, 0), 1, now)
        draft.change(changes)
        return draft.state()

    @classmethod
    def restored(
        cls,
        *,
        generation: str,
        epoch: int,
        primary: str,
        revision: int,
        now: int,
        next_key: int,
        documents: Iterable[Document],
        keys: Iterable[KeyRecord],
        checksum: int | None = None,
    ) -> "State":
        """The state that has these parts, everything else worked out from them. Its `digest` shows whether they are
        all there and unchanged. `checksum`: the documents' fingerprints, where whoever read their texts has added them
        up, which is a third of the work."""
        collections: dict[str, dict[str, Document]] = {}
        total = 0 if checksum is None else checksum
        for document in documents:
            collections.setdefault(document.kind, {})[document.id] = document
            total += fingerprint(document.text) if checksum is None else 0
        used = {record.number: record for record in keys}
        order = {n: used[n].key if n in used else "" for n in range(min(used, default=next_key), next_key)}
        return cls(
            generation=generation,
            epoch=epoch,
            primary=primary,
            revision=revision,
            now=now,
            documents=Map({kind: Map(collection) for kind, collection in collections.items()}),
            keys=Map({record.key: record for record in used.values()}),
            key_order=Map(order),
            next_key=next_key,
            checksum=(total + sum(fingerprint(record.text) for record in used.values())) % _WRAP,
        )

    @property
    def digest(self) -> str:
        """Equal on two nodes iff their states are equal."""
        head = [self.generation, self.epoch, self.primary, self.revision, self.now, self.next_key, self.checksum]
        return sha256(canonical(head).encode()).hexdigest()

    def get(self, kind: Kind, id_: str) -> Document | None:
        collection = self.documents.get(kind)
        return collection.get(id_) if collection is not None else None

    def of(self, kind: Kind) -> list[Document]:
        """All documents of a kind, sorted by id."""
        collection = self.documents.get(kind)
        return sorted(collection.values(), key=lambda document: document.id) if collection is not None else []

    def within(self, kind: Kind, parent: str) -> list[Document]:
        """All databases or accounts of the instance `parent`, or all instances of the agent; sorted by id."""
        family = self.families.get((kind, parent))
        return sorted(family.values(), key=lambda document: document.id) if family is not None else []


def owner(document: Document) -> str:
    """The instance that a database or account belongs to; the agent that an instance belongs to."""
    return str(document.spec.get("agent", "")) if document.kind == "instance" else document.parent


def _families(documents: Documents) -> Families:
    found: dict[tuple[str, str], dict[str, Document]] = {}
    for kind in _CHILDREN & set(documents):
        for document in documents[kind].values():
            found.setdefault((kind, owner(document)), {})[document.id] = document
    return Map({where: Map(family) for where, family in found.items()})


@dataclass(frozen=True, slots=True)
class Delta:
    """What one accepted record changed: what the store writes."""

    put: tuple[Document, ...] = ()
    deleted: tuple[tuple[Kind, str], ...] = ()
    keys_added: tuple[KeyRecord, ...] = ()
    keys_dropped: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Accepted:
    state: State
    record: Entry | Claim
    delta: Delta
    answers: tuple[Answer, ...] = ()
    """One for each commit of an entry."""


class Why(Enum):
    """Why a record changed nothing."""

    BARRIER = "barrier"
    OTHER_GENERATION = "of another generation"
    OTHER_EPOCH = "of an epoch that is not the current one"
    NO_MEMBER = "the claim of a node that is no member"
    REPEATED = "already accepted"
    GAP = "an entry before it is missing"


@dataclass(frozen=True, slots=True)
class Skipped:
    why: Why


def step(state: State, record: LogRecord) -> Accepted | Skipped:
    """The state after `record`, or why it changes nothing."""
    if record.generation != state.generation:
        return Skipped(Why.OTHER_GENERATION)
    match record:
        case Barrier():
            return Skipped(Why.BARRIER)
        case Claim():
            if record.ends != state.epoch:
                return Skipped(Why.OTHER_EPOCH)
            if state.get("node", record.node) is None:
                return Skipped(Why.NO_MEMBER)
            now = max(state.now, record.at)
            next_state = replace(
                state, epoch=state.epoch + 1, primary=record.node, revision=state.revision + 1, now=now
            )
            return Accepted(next_state, record, Delta())
        case Entry():
            if record.epoch != state.epoch:
                return Skipped(Why.OTHER_EPOCH)
            if record.seq != state.revision + 1:
                return Skipped(Why.REPEATED if record.seq <= state.revision else Why.GAP)
            return _accept(state, record)


def preview(state: State, commit: Commit, now: int) -> State:
    """`state` as it would be with `commit` as part of the next entry: later commits of that entry are planned on it.
    Documents only: revision, keys and digest are not those of the next entry."""
    draft = _Draft(state, state.revision + 1, max(state.now, now), summed=False)
    draft.change(commit.changes)
    return draft.state(revision=state.revision, now=state.now)


def _accept(state: State, entry: Entry) -> Accepted:
    draft = _Draft(state, entry.seq, max(state.now, entry.at))
    answers: list[Answer] = []
    for commit in entry.commits:
        draft.change(commit.changes)
        answer = Answer(commit.status, entry.seq, draft.get(*commit.target) if commit.target is not None else None)
        answers.append(answer)
        if commit.key is not None:
            draft.remember(scoped_key(commit.principal, commit.key), commit.request, answer)
    draft.forget()
    return Accepted(draft.state(), entry, draft.delta(), tuple(answers))


class _Draft:
    """A state under change, for the length of one entry: plain variables, where a new `State` for each of its commits
    would be most of the cost."""

    __slots__ = (
        "added",
        "base",
        "checksum",
        "documents",
        "dropped",
        "families",
        "key_chars",
        "key_order",
        "keys",
        "next_key",
        "now",
        "put",
        "revision",
        "summed",
    )

    def __init__(self, base: State, revision: int, now: int, *, summed: bool = True) -> None:
        self.base, self.revision, self.now, self.summed = base, revision, now, summed
        self.documents, self.families, self.checksum = base.documents, base.families, base.checksum
        self.keys, self.key_order, self.next_key = base.keys, base.key_order, base.next_key
        self.key_chars = base.key_chars
        self.put: dict[tuple[Kind, str], Document | None] = {}
        self.added: dict[str, KeyRecord] = {}
        self.dropped: list[str] = []

    def get(self, kind: Kind, id_: str) -> Document | None:
        collection = self.documents.get(kind)
        return collection.get(id_) if collection is not None else None

    def change(self, changes: tuple[Change, ...]) -> None:
        """Put and delete documents."""
        for change in changes:
            old = self.get(change.kind, change.id)
            new = None if change.spec is None else self._next_version(old, change, change.spec)
            if self.summed:
                self.checksum += fingerprint(new.text) if new is not None else 0
                self.checksum -= fingerprint(old.text) if old is not None else 0
            self.documents = _with(self.documents, change.kind, change.id, new)
            if change.kind in _CHILDREN:
                self._file(old, new)
            self.put[change.kind, change.id] = new

    def _file(self, old: Document | None, new: Document | None) -> None:
        if old is not None:
            self.families = _with(self.families, (old.kind, owner(old)), old.id, None)
        if new is not None:
            self.families = _with(self.families, (new.kind, owner(new)), new.id, new)

    def _next_version(self, old: Document | None, change: Change, spec: Json) -> Document:
        return Document(
            kind=change.kind,
            id=change.id,
            revision=self.revision,
            wish=self.revision if change.wish or old is None else old.wish,
            created_at=self.now if old is None else old.created_at,
            updated_at=self.now,
            spec=spec,
            status=change.status,
        )

    def remember(self, key: str, request: str, answer: Answer) -> None:
        """Keep what an idempotency key was answered with."""
        old = self.keys.get(key)
        if old is not None:
            # A planner never reuses a live key; a foreign log may. The later use wins, on every node alike.
            self._uncount(old)
            self.key_order = self.key_order.set(old.number, "")
        record = KeyRecord(self.next_key, self.now, key, request, answer)
        text = record.text
        self.checksum += fingerprint(text)
        self.key_chars += len(text)
        self.keys = self.keys.set(key, record)
        self.key_order = self.key_order.set(record.number, key)
        self.next_key += 1
        self.added[key] = record

    def forget(self) -> None:
        """Drop the oldest keys while there are too many, or too much in them, or they are too old."""
        while self.key_order:
            oldest = self.next_key - len(self.key_order)
            key = self.key_order[oldest]
            if key:
                record = self.keys[key]
                few = len(self.key_order) <= KEYS_MAX and self.key_chars <= KEYS_MAX_CHARS
                if few and record.at + KEYS_MAX_AGE_MS >= self.now:
                    return
                self._uncount(record)
                self.keys = self.keys.delete(key)
                if self.added.pop(key, None) is None or key in self.base.keys:
                    self.dropped.append(key)
            self.key_order = self.key_order.delete(oldest)

    def _uncount(self, record: KeyRecord) -> None:
        text = record.text
        self.checksum -= fingerprint(text)
        self.key_chars -= len(text)

    def delta(self) -> Delta:
        return Delta(
            put=tuple(document for document in self.put.values() if document is not None),
            deleted=tuple(where for where, document in self.put.items() if document is None),
            keys_added=tuple(self.added.values()),
            keys_dropped=tuple(self.dropped),
        )

    def state(self, *, revision: int | None = None, now: int | None = None) -> State:
        """What has become of it; as of another revision and time where they are given."""
        return State(
            generation=self.base.generation,
            epoch=self.base.epoch,
            primary=self.base.primary,
            revision=self.revision if revision is None else revision,
            now=self.now if now is None else now,
            documents=self.documents,
            keys=self.keys,
            key_order=self.key_order,
            next_key=self.next_key,
            checksum=self.checksum % _WRAP,
            families=self.families,
            key_chars=self.key_chars,
        )


def _with(
    collections: Map[_K, Map[str, Document]], where: _K, id_: str, new: Document | None
) -> Map[_K, Map[str, Document]]:
    """`collections` with one document put or, where `new` is None, taken out. An empty collection is not kept."""
    collection = collections.get(where)
    if new is not None:
        return collections.set(where, Map({id_: new}) if collection is None else collection.set(id_, new))
    if collection is None or id_ not in collection:
        return collections
    rest = collection.delete(id_)
    return collections.set(where, rest) if rest else collections.delete(where)
