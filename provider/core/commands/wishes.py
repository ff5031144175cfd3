"""Databases and accounts: wishes that an agent fulfils."""

from dataclasses import dataclass
from typing import Literal

from provider.core import documents as docs
from provider.core.commands.base import ALWAYS, Plan, Precondition, check_name, delete, need, put, with_status
from provider.core.documents import Document
from provider.core.state import State
from shared.errors import Conflict

WishKind = Literal["database", "account"]
PENDING = docs.WishStatus(phase="pending")


@dataclass(frozen=True, slots=True)
class PutWish:
    """Ask an instance to hold a database or an account."""

    kind: WishKind
    instance: str
    name: str
    spec: docs.DatabaseSpec | docs.AccountSpec
    when: Precondition = ALWAYS

    def plan(self, state: State, now: int) -> Plan:
        check_name(self.kind, self.name, docs.DatabaseName if self.kind == "database" else docs.AccountName)
        need(state, "instance", self.instance)
        id_ = f"{self.instance}/{self.name}"
        old = state.get(self.kind, id_)
        self.when.check(f"{self.kind} {id_!r}", old)
        if old is not None and old.status["phase"] == "dropping":
            raise Conflict(f"{self.kind} {id_!r} is being dropped: wait until it is gone, or DELETE it to forget it")
        spec = self._merged(old)
        asked_anew = old is not None and old.status["phase"] == "held"
        if old is not None and not asked_anew and old.spec == spec.model_dump(mode="json", exclude_none=True):
            return Plan(200, (self.kind, id_))
        return Plan(200 if old else 201, (self.kind, id_), (put(self.kind, id_, spec, PENDING),))

    def _merged(self, old: Document | None) -> docs.DatabaseSpec | docs.AccountSpec:
        """A PUT that says nothing of the password leaves it as it is: it is never shown, so nobody could repeat it."""
        if isinstance(self.spec, docs.AccountSpec) and self.spec.password is None and old is not None:
            return self.spec.model_copy(update={"password": old.spec.get("password")})
        return self.spec


@dataclass(frozen=True, slots=True)
class DeleteWish:
    """Forget a database or an account; with `drop`, have its agent drop it from the server first."""

    kind: WishKind
    instance: str
    name: str
    drop: bool = False
    when: Precondition = ALWAYS

    def plan(self, state: State, now: int) -> Plan:
        need(state, "instance", self.instance)
        id_ = f"{self.instance}/{self.name}"
        old = need(state, self.kind, id_)
        self.when.check(f"{self.kind} {id_!r}", old)
        if not self.drop:
            return Plan(204, None, (delete(self.kind, id_),))
        if old.status["phase"] == "dropping":
            return Plan(202, (self.kind, id_))
        return Plan(202, (self.kind, id_), (with_status(old, docs.WishStatus(phase="dropping"), wish=True),))
