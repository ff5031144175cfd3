"""From one state to another that does not follow it: what has changed, told like an accepted record."""

from provider.core.documents import Document
from provider.core.entries import Claim
from provider.core.state import Accepted, Delta, State


def leap(before: State, after: State) -> Accepted:
    """For those who follow the state by what is accepted. The record is a claim, after which all look at everything;
    it stands in no log, and nothing of it is stored."""
    put: list[Document] = []
    deleted = []
    for kind, collection in after.documents.items():
        known = before.documents.get(kind)
        put += [d for d in collection.values() if known is None or known.get(d.id) != d]
    for kind, collection in before.documents.items():
        there = after.documents.get(kind)
        deleted += [(d.kind, d.id) for d in collection.values() if there is None or d.id not in there]
    claim = Claim(
        id="leap", generation=after.generation, ends=max(after.epoch - 1, 0), node=after.primary, at=after.now
    )
    return Accepted(after, claim, Delta(put=tuple(put), deleted=tuple(deleted)))
