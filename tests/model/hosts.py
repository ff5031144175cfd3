"""A simulated host: a store that survives, a process that may die between any two instructions."""

from collections.abc import Callable
from dataclasses import dataclass

from provider.core.documents import Document
from provider.core.replica import Replica
from provider.core.state import Accepted, KeyRecord, State


class Store:
    """What is on disk: texts, as a database would hold them, and the position in the log that goes with them."""

    def __init__(self, state: State, position: int = 0) -> None:
        self.position = position
        self._head = state
        self._documents = {(d.kind, d.id): d.text for kind in state.documents for d in state.of(kind)}  # type: ignore[arg-type]
        self._keys = {record.key: record.text for record in state.keys.values()}

    @property
    def revision(self) -> int:
        return self._head.revision

    def apply(self, accepted: Accepted, position: int) -> None:
        """The effects of one accepted record and the position after it, in one transaction."""
        self._documents.update({(d.kind, d.id): d.text for d in accepted.delta.put})
        for ref in accepted.delta.deleted:
            self._documents.pop(ref, None)
        self._keys.update({record.key: record.text for record in accepted.delta.keys_added})
        for key in accepted.delta.keys_dropped:
            del self._keys[key]
        self._head, self.position = accepted.state, position

    def load(self) -> State:
        """The state, made anew from what is on disk."""
        return State.restored(
            generation=self._head.generation,
            epoch=self._head.epoch,
            primary=self._head.primary,
            revision=self._head.revision,
            now=self._head.now,
            next_key=self._head.next_key,
            documents=[Document.from_text(text) for text in self._documents.values()],
            keys=[KeyRecord.from_text(text) for text in self._keys.values()],
        )

    def copy(self) -> "Store":
        return Store(self.load(), self.position)


@dataclass
class Host:
    """`replica` is the process' memory: None while it is down. Two hosts may bear one name: a cloned machine."""

    index: int
    name: str
    store: Store
    make: Callable[..., Replica]
    replica: Replica | None = None
    connection: int | None = None
    position: int = 0
    """Records that the process has read."""
    clock_ms: int = 0
    """How far its clock is off."""
    doom: int | None = None
    """The process dies before it carries out this many more instructions."""

    def start(self, new_id: Callable[[], str]) -> None:
        self.replica = self.make(self.name, self.store.load(), new_id)
        self.position, self.connection, self.doom = self.store.position, None, None

    def die(self) -> None:
        self.replica = self.connection = self.doom = None
