"""What agents report, where it is to be remembered."""

from dataclasses import dataclass, field

from provider.core.commands.base import Plan, Ref, delete, with_status
from provider.core.documents import Content, Document, Kind, WishStatus
from provider.core.entries import Change
from provider.core.state import State


@dataclass(frozen=True, slots=True)
class StatusUpdate:
    """What became of one document. `wish` is the revision of the wish that this speaks of: an older one says nothing
    about what is asked for now. None where there is no wish (agents, instances)."""

    kind: Kind
    id: str
    status: Content | None
    """None: dropped as asked, the document goes."""
    wish: int | None = None


@dataclass(frozen=True, slots=True)
class RecordStatus:
    """Write down what changed at the agents' end. What is out of date or says nothing new is left out."""

    updates: tuple[StatusUpdate, ...] = field(default=())

    def plan(self, state: State, now: int) -> Plan:
        changes: dict[Ref, Change] = {}  # of several reports about one document the last one stands
        for update in self.updates:
            document = state.get(update.kind, update.id)
            if document is None or (update.wish is not None and update.wish != document.wish):
                continue
            change = _change(document, update.status)
            if change is None:
                changes.pop((update.kind, update.id), None)
            else:
                changes[update.kind, update.id] = change
        return Plan(200, None, tuple(changes.values()))


def _change(document: Document, status: Content | None) -> Change | None:
    if status is None:  # to be believed only where it was asked for
        return delete(document.kind, document.id) if document.status.get("phase") == "dropping" else None
    # What was held is a wish like any other from now on, and the agent has to be told so.
    released = document.status.get("phase") == "held" and isinstance(status, WishStatus) and status.phase != "held"
    change = with_status(document, status, wish=released)
    return change if change.status != document.status else None
