"""What a cluster that was restored from a backup finds on the database servers: taken over, gone on with, or left.

A wish from the backup is *held*: it changes nothing until its agent says that the server is so, or a person decides.

AdoptWishes      have the state say what the server has
ReleaseWishes    have the server made as the state says, as with any wish
IgnoreUnmanaged  speak no more of what is on a server and in no wish
EndReview        no more of all this is to be shown
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from provider.core import documents as docs
from provider.core.commands.base import Plan, check_name, delete, need, put, with_status
from provider.core.commands.wishes import PENDING, WishKind
from provider.core.documents import Document
from provider.core.entries import Change
from provider.core.state import State
from shared.errors import Conflict, Refused

RESTORED = "cluster.restored"
"""The setting that tells of the last restore: from which backup, when, and what was ignored since."""
ADOPTED_MAX = 500
"""Wishes that one command changes: an entry must stay small."""
IGNORED_MAX = 1_000
HELD = docs.WishStatus(phase="held", message="from the backup; its agent has not said yet what is on the server")

Found = docs.DatabaseSpec | docs.AccountSpec


def held(state: State) -> Iterator[Document]:
    """All wishes that are held."""
    for kind in ("database", "account"):
        for document in state.documents.get(kind, {}).values():
            if document.status["phase"] == "held":
                yield document


def restored(state: State) -> dict[str, Any] | None:
    """What is known of the last restore, until its review is ended."""
    known = state.get("setting", RESTORED)
    if known is None or known.spec["value"].get("reviewed_at") is not None:
        return None
    return dict(known.spec["value"])


@dataclass(frozen=True, slots=True)
class Adopted:
    """One database or account: what the server has; None: it has none of that name, and the wish is forgotten."""

    kind: WishKind
    name: str
    found: Found | None


@dataclass(frozen=True, slots=True)
class AdoptWishes:
    """Have the state say what an instance's server has. What is adopted is held until the agent confirms it, so even
    where the server has changed a moment ago nothing on it is touched."""

    instance: str
    adopted: Sequence[Adopted]

    def plan(self, state: State, now: int) -> Plan:
        need(state, "instance", self.instance)
        _check_number(len(self.adopted))
        changes = []
        for one in self.adopted:
            id_ = f"{self.instance}/{one.name}"
            old = state.get(one.kind, id_)
            if old is not None and old.status["phase"] != "held":
                raise Conflict(f"{one.kind} {id_!r} is a wish that is not held: PUT it as it is to be")
            if one.found is not None:
                check_name(one.kind, one.name, docs.DatabaseName if one.kind == "database" else docs.AccountName)
                changes.append(put(one.kind, id_, one.found, HELD))
            elif old is not None:
                changes.append(delete(one.kind, id_))
        return Plan(200, ("instance", self.instance), tuple(changes))


@dataclass(frozen=True, slots=True)
class ReleaseWishes:
    """Have a server made as these held wishes say, or as all of the instance's do that are held."""

    instance: str
    names: Mapping[WishKind, Sequence[str]] | None = None

    def plan(self, state: State, now: int) -> Plan:
        need(state, "instance", self.instance)
        if self.names is None:
            kinds: tuple[WishKind, ...] = ("database", "account")
            wishes = [wish for kind in kinds for wish in state.within(kind, self.instance)]
            chosen = [wish for wish in wishes if wish.status["phase"] == "held"][:ADOPTED_MAX]
        else:
            chosen = [
                need(state, kind, f"{self.instance}/{name}") for kind, all_ in self.names.items() for name in all_
            ]
            chosen = [wish for wish in chosen if wish.status["phase"] == "held"]
        _check_number(len(chosen))
        return Plan(200, ("instance", self.instance), tuple(with_status(wish, PENDING, wish=True) for wish in chosen))


@dataclass(frozen=True, slots=True)
class IgnoreUnmanaged:
    """Speak no more of these."""

    instance: str
    names: Mapping[WishKind, Sequence[str]] = field(default_factory=dict)

    def plan(self, state: State, now: int) -> Plan:
        need(state, "instance", self.instance)
        value = restored(state)
        if value is None:
            raise Refused("nothing is to be reviewed: this cluster was not restored, or its review has ended")
        added = [f"{kind}/{self.instance}/{name}" for kind, names in self.names.items() for name in names]
        _check_number(len(added))
        ignored = list(dict.fromkeys([*value["ignored"], *added]))
        if len(ignored) > IGNORED_MAX:
            raise Refused(f"{IGNORED_MAX} are ignored already: end the review (`provider adopt done`)")
        return Plan(200, ("instance", self.instance), (_restored({**value, "ignored": ignored}),))


@dataclass(frozen=True, slots=True)
class EndReview:
    """All is as it is to be: what is in no wish is not spoken of any more. Refused while anything is held."""

    def plan(self, state: State, now: int) -> Plan:
        value = restored(state)
        if value is None:
            return Plan(204)
        count = sum(1 for _ in held(state))
        if count:
            raise Refused(f"{count} wishes are still held: adopt, release or delete them first (`provider adopt list`)")
        return Plan(204, None, (_restored({**value, "ignored": [], "reviewed_at": now}),))


def _restored(value: dict[str, Any]) -> Change:
    return Change(kind="setting", id=RESTORED, spec={"value": value})


def _check_number(count: int) -> None:
    if count > ADOPTED_MAX:
        raise Refused(f"{count} at once; at most {ADOPTED_MAX}")
