"""The state and the one function that changes it.

`step(state, record)` is applied by every node to every record in log order. It returns `Accepted` with the next state,
or `Skipped` with the reason; it never raises and never looks at anything but its arguments.

Invariants, for any log whatever (tests/model proves them against an adversary):

1. Nodes that have read equally far hold equal states, hence equal digests.
2. An entry is accepted iff its generation is ours, its epoch is the current one and its `seq` is revision + 1.
3. A claim is accepted iff its generation is ours and it names the current epoch as the one it ends. So each epoch has
   exactly one primary: the node whose claim began it.
4. The revision counts accepted records, claims included: it grows by one with each, and with nothing else.
"""

from dataclasses import dataclass, replace
from enum import Enum
from hashlib import sha256

from immutables import Map

from provider.core.documents import Document, Kind, canonical, fingerprint
from provider.core.entries import Barrier, Change, Claim, Commit, Entry, LogRecord

KEYS_MAX = 100_000
KEYS_MAX_AGE_MS = 24 * 3600 * 1000
_WRAP = 1 << 256

Documents = Map[str, Map[str, Document]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a write was answered with: kept, so that the same idempotency key gets it again."""

    status: int
    revision: int
    document: Document | None


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """One idempotency key that was used. `number` orders them, `at` (Unix ms) says when."""

    number: int
    at: int
    key: str
    request: str
    answer: Answer

    @property
    def text(self) -> str:
        """Canonical JSON: what the store keeps and the digest covers."""
        document = self.answer.document
        shown = document.text if document is not None else None
        return canonical(
            [self.number, self.at, self.key, self.request, self.answer.status, self.answer.revision, shown]
        )


def scoped_key(principal: str, key: str) -> str:
    """Keys belong to whoever used them: two users may choose the same one."""
    return f"{principal} {key}"


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

    @classmethod
    def genesis(cls, *, generation: str, primary: str, now: int, changes: tuple[Change, ...] = ()) -> "State":
        """Revision 1, epoch 1: what `provider init` begins with."""
        empty = cls(generation, 1, primary, 1, now, Map(), Map(), Map(), 0, 0)
        return _with_changes(empty, changes, 1, now)[0]

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
        """All documents of a kind that belong to `parent`, sorted by id."""
        collection = self.documents.get(kind)
        if collection is None:
            return []
        prefix = parent + "/"
        return [collection[id_] for id_ in sorted(i for i in collection if i.startswith(prefix))]


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
    """`state` as it would be with `commit` as part of the next entry: later commits of that entry are planned on it."""
    return _with_changes(state, commit.changes, state.revision + 1, now)[0]


def _accept(state: State, entry: Entry) -> Accepted:
    revision, now = entry.seq, max(state.now, entry.at)
    put: dict[tuple[Kind, str], Document | None] = {}
    answers: list[Answer] = []
    added: list[KeyRecord] = []
    for commit in entry.commits:
        state, changed = _with_changes(state, commit.changes, revision, now)
        put.update(changed)
        shown = state.get(*commit.target) if commit.target is not None else None
        answer = Answer(commit.status, revision, shown)
        answers.append(answer)
        if commit.key is not None:
            scoped = scoped_key(commit.principal, commit.key)
            added.append(KeyRecord(state.next_key, now, scoped, commit.request, answer))
            state = _with_key(state, added[-1])
    state, dropped = _without_old_keys(replace(state, revision=revision, now=now))
    delta = Delta(
        put=tuple(document for document in put.values() if document is not None),
        deleted=tuple(where for where, document in put.items() if document is None),
        keys_added=tuple(added),
        keys_dropped=tuple(dropped),
    )
    return Accepted(state, entry, delta, tuple(answers))


def _with_changes(
    state: State, changes: tuple[Change, ...], revision: int, now: int
) -> tuple[State, dict[tuple[Kind, str], Document | None]]:
    documents, checksum = state.documents, state.checksum
    changed: dict[tuple[Kind, str], Document | None] = {}
    for change in changes:
        collection: Map[str, Document] = documents.get(change.kind, Map())
        old = collection.get(change.id)
        if old is not None:
            checksum -= fingerprint(old.text)
        if change.spec is None:
            collection = collection if old is None else collection.delete(change.id)
            changed[change.kind, change.id] = None
        else:
            new = Document(
                kind=change.kind,
                id=change.id,
                revision=revision,
                wish=revision if change.wish or old is None else old.wish,
                created_at=now if old is None else old.created_at,
                updated_at=now,
                spec=change.spec,
                status=change.status,
            )
            checksum += fingerprint(new.text)
            collection = collection.set(change.id, new)
            changed[change.kind, change.id] = new
        documents = documents.set(change.kind, collection)
    return replace(state, documents=documents, checksum=checksum % _WRAP), changed


def _with_key(state: State, record: KeyRecord) -> State:
    checksum, order = state.checksum, state.key_order
    old = state.keys.get(record.key)
    if old is not None:
        # A planner never reuses a live key; a foreign log may. The later use wins, on every node alike.
        checksum -= fingerprint(old.text)
        order = order.set(old.number, "")
    return replace(
        state,
        keys=state.keys.set(record.key, record),
        key_order=order.set(record.number, record.key),
        next_key=record.number + 1,
        checksum=(checksum + fingerprint(record.text)) % _WRAP,
    )


def _without_old_keys(state: State) -> tuple[State, list[str]]:
    keys, order, checksum = state.keys, state.key_order, state.checksum
    dropped: list[str] = []
    while order:
        oldest = state.next_key - len(order)
        key = order[oldest]
        if key:
            record = keys[key]
            if len(order) <= KEYS_MAX and record.at + KEYS_MAX_AGE_MS >= state.now:
                break
            keys, checksum = keys.delete(key), checksum - fingerprint(record.text)
            dropped.append(key)
        order = order.delete(oldest)
    if not dropped and len(order) == len(state.key_order):
        return state, dropped
    return replace(state, keys=keys, key_order=order, checksum=checksum % _WRAP), dropped
