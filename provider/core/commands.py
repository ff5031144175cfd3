"""What can be asked of the state, and the changes that each request becomes.

A command is planned on the newest state by the primary: `plan` checks every rule and returns the changes, or raises a
`Refusal`. Nothing here is run by a node that only applies.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from pydantic import TypeAdapter, ValidationError

from provider.core import documents as docs
from provider.core.documents import CONTENTS, Content, Document, Kind, Name
from provider.core.entries import Change
from provider.core.state import State
from shared.errors import Conflict, Invalid, NotFound, Refused, StaleRevision, TooLarge, Unauthenticated

NODES_MAX = 4
SETTING_MAX_BYTES = 64 * 1024
SETTING_MAX_DEPTH = 64
"""Deeper values could not be read back from an entry: the JSON parser stops at about 200 levels."""
USER_SETTINGS = "user."

Ref = tuple[Kind, str]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a command becomes: the answer's HTTP status, the document that it shows, and the changes."""

    status: int
    target: Ref | None = None
    changes: tuple[Change, ...] = ()


class Command(Protocol):
    def plan(self, state: State, now: int) -> Plan:
        """Changes to `state` at `now` (Unix ms). Pure. Raises `Refusal`."""


@dataclass(frozen=True, slots=True)
class Precondition:
    """`If-Match: <revision>` and `If-None-Match: *`."""

    revision: int | None = None
    absent: bool = False

    def check(self, what: str, current: Document | None) -> None:
        """Raises `StaleRevision` (412) where the condition does not hold."""
        if self.absent and current is not None:
            raise StaleRevision(f"{what} exists already, at revision {current.revision}")
        if self.revision is not None and (current is None or current.revision != self.revision):
            found = "does not exist" if current is None else f"is at revision {current.revision}"
            raise StaleRevision(f"{what} {found}, not at revision {self.revision}: read it again and decide anew")


ALWAYS = Precondition()


def check_name(kind: str, value: str, type_: Any) -> None:
    """Raises `Invalid` where `value` is no name of this type."""
    try:
        TypeAdapter(type_).validate_python(value)
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


def delete(kind: Kind, id_: str) -> Change:
    return Change(kind=kind, id=id_)


def need(state: State, kind: Kind, id_: str) -> Document:
    """The document. Raises `NotFound`."""
    found = state.get(kind, id_)
    if found is None:
        raise NotFound(f"there is no {kind} {id_[:160]!r}")
    return found


# ── settings ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _positive_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


KNOWN_SETTINGS: Mapping[str, tuple[Any, str]] = {
    "agents.offline_after_s": (_positive_number, "seconds (> 0) without a pulse until an agent counts as offline"),
    "history.days": (_positive_number, "days (> 0) that accepted entries are kept for events and audit"),
}


def depth(value: Any) -> int:
    """Levels of nesting of a JSON value. Iterative, so that no input can exhaust the stack."""
    deepest, todo = 0, [(value, 1)]
    while todo:
        item, level = todo.pop()
        deepest = max(deepest, level)
        if isinstance(item, dict | list):
            todo.extend((child, level + 1) for child in (item.values() if isinstance(item, dict) else item))
    return deepest


@dataclass(frozen=True, slots=True)
class PutSetting:
    key: str
    value: Any
    when: Precondition = ALWAYS

    def plan(self, state: State, now: int) -> Plan:
        check_name("setting", self.key, docs.SettingKey)
        self._check_value()
        old = state.get("setting", self.key)
        self.when.check(f"setting {self.key!r}", old)
        spec = docs.SettingSpec(value=self.value)
        if old is not None and old.spec == {"value": self.value}:
            return Plan(200, ("setting", self.key))
        # Not through `put`: it leaves out nulls, and null is a value here.
        change = Change(kind="setting", id=self.key, spec={"value": spec.value})
        return Plan(200 if old else 201, ("setting", self.key), (change,))

    def _check_value(self) -> None:
        if not self.key.startswith(USER_SETTINGS):
            if self.key not in KNOWN_SETTINGS:
                known = ", ".join(sorted(KNOWN_SETTINGS))
                raise Invalid(f"there is no setting {self.key!r}; known: {known}; keys of your own begin with 'user.'")
            valid, meaning = KNOWN_SETTINGS[self.key]
            if not valid(self.value):
                raise Invalid(f"{self.key} is {meaning}")
        if depth(self.value) > SETTING_MAX_DEPTH:
            raise Invalid(f"value: nested more than {SETTING_MAX_DEPTH} levels deep")
        try:
            size = len(json.dumps(self.value, ensure_ascii=False, allow_nan=False).encode())
        except ValueError as error:  # NaN, infinity, a lone surrogate
            raise Invalid(f"value: not representable as JSON ({error})") from None
        if size > SETTING_MAX_BYTES:
            raise TooLarge(f"value: {size} bytes as JSON; at most {SETTING_MAX_BYTES} are kept")


@dataclass(frozen=True, slots=True)
class DeleteSetting:
    key: str
    when: Precondition = ALWAYS

    def plan(self, state: State, now: int) -> Plan:
        document = need(state, "setting", self.key)
        if not self.key.startswith(USER_SETTINGS) and self.key not in KNOWN_SETTINGS:
            raise Refused(f"{self.key} is kept by the cluster itself and cannot be deleted")
        self.when.check(f"setting {self.key!r}", document)
        return Plan(204, None, (delete("setting", self.key),))


# ── databases and accounts: wishes that an agent fulfils ─────────────────────────────────────────────────────────────

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
        if old is not None and old.spec == spec.model_dump(mode="json", exclude_none=True):
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
        spec = CONTENTS[self.kind][0].model_validate(old.spec)
        return Plan(202, (self.kind, id_), (put(self.kind, id_, spec, docs.WishStatus(phase="dropping")),))


# ── tokens ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class PutToken:
    id: str
    spec: docs.TokenSpec

    def plan(self, state: State, now: int) -> Plan:
        if state.get("token", self.id) is not None:
            raise Conflict("a token with this id exists already")
        # Tokens that have expired go when a new one comes: the collection cannot grow without bound.
        expired = [d for d in state.of("token") if (d.spec.get("expires_at") or now) < now]
        return Plan(
            201, ("token", self.id), (*(delete("token", d.id) for d in expired), put("token", self.id, self.spec))
        )


@dataclass(frozen=True, slots=True)
class DeleteToken:
    id: str

    def plan(self, state: State, now: int) -> Plan:
        need(state, "token", self.id)
        return Plan(204, None, (delete("token", self.id),))


def one_time_token(state: State, id_: str, role: str, now: int) -> Change:
    """The change that uses up a one-time token. Raises `Unauthenticated`: used, expired and wrong look alike."""
    token = state.get("token", id_)
    if token is None or token.spec["role"] != role or (token.spec.get("expires_at") or now) < now:
        raise Unauthenticated(
            f"this {role} token is not good (any longer): ask for a new one with `provider token create`"
        )
    return delete("token", id_)


# ── members: nodes and agents ────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class JoinNode:
    """Make a new provider known, using up its one-time token."""

    name: str
    token_id: str
    spec: docs.NodeSpec

    def plan(self, state: State, now: int) -> Plan:
        check_name("node", self.name, Name)
        used = one_time_token(state, self.token_id, "node", now)
        nodes = state.of("node")
        if any(node.id == self.name for node in nodes):
            raise Refused(f"a node named {self.name!r} is a member already; choose another name")
        if state.get("setting", removed_key(self.name)) is not None:
            raise Refused(f"a node named {self.name!r} was removed; its identity never comes back: choose another name")
        if len(nodes) >= NODES_MAX:
            raise Refused(f"the cluster has {len(nodes)} nodes, the most there may be; remove one first")
        versions = {node.spec["version"] for node in nodes}
        if versions != {self.spec.version}:
            raise Refused(f"this node runs version {self.spec.version}, the cluster {', '.join(sorted(versions))}")
        return Plan(201, ("node", self.name), (used, put("node", self.name, self.spec)))


def removed_key(name: str) -> str:
    """The setting that remembers a removed node's name for ever."""
    return f"cluster.removed.{name}"


@dataclass(frozen=True, slots=True)
class RemoveNode:
    name: str

    def plan(self, state: State, now: int) -> Plan:
        need(state, "node", self.name)
        if state.primary == self.name:
            raise Refused(f"{self.name} is the primary and cannot be removed: promote another node first")
        gone = Change(kind="setting", id=removed_key(self.name), spec={"value": now})
        return Plan(204, None, (delete("node", self.name), gone))


@dataclass(frozen=True, slots=True)
class EnrollAgent:
    """Make a new agent and its instances known, using up its one-time token."""

    id: str
    token_id: str
    spec: docs.AgentSpec
    instances: tuple[tuple[str, docs.InstanceSpec], ...] = ()

    def plan(self, state: State, now: int) -> Plan:
        check_name("agent", self.id, Name)
        used = one_time_token(state, self.token_id, "agent", now)
        if state.get("agent", self.id) is not None:
            raise Refused(
                f"agent {self.id!r} is enrolled already: DELETE /agents/{self.id} first, or choose another id"
            )
        changes = [used, put("agent", self.id, self.spec)]
        for id_, spec in self.instances:
            check_name("instance", id_, Name)
            old = state.get("instance", id_)
            if old is not None and state.get("agent", old.spec["agent"]) is not None:
                raise Refused(f"instance {id_!r} is looked after by agent {old.spec['agent']!r} already")
            changes.append(put("instance", id_, spec))
        return Plan(201, ("agent", self.id), tuple(changes))


@dataclass(frozen=True, slots=True)
class RegisterInstance:
    """An enrolled agent looks after one more instance, or found it at another address."""

    id: str
    spec: docs.InstanceSpec

    def plan(self, state: State, now: int) -> Plan:
        check_name("instance", self.id, Name)
        need(state, "agent", self.spec.agent)
        old = state.get("instance", self.id)
        if old is None:
            return Plan(201, ("instance", self.id), (put("instance", self.id, self.spec),))
        owner = old.spec["agent"]
        if owner != self.spec.agent and state.get("agent", owner) is not None:
            raise Refused(f"instance {self.id!r} is looked after by agent {owner!r}, not {self.spec.agent!r}")
        change = put("instance", self.id, self.spec, docs.InstanceStatus.model_validate(old.status))
        return Plan(200, ("instance", self.id), () if change.spec == old.spec else (change,))


@dataclass(frozen=True, slots=True)
class RemoveAgent:
    """Forget an agent. Its instances and their wishes stay, for the agent that is enrolled for them next."""

    id: str

    def plan(self, state: State, now: int) -> Plan:
        need(state, "agent", self.id)
        return Plan(204, None, (delete("agent", self.id),))


# ── what agents report ───────────────────────────────────────────────────────────────────────────────────────────────


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
        changes = []
        for update in self.updates:
            document = state.get(update.kind, update.id)
            if document is None or (update.wish is not None and update.wish != document.wish):
                continue
            if update.status is None:
                changes.append(delete(update.kind, update.id))
                continue
            spec = CONTENTS[update.kind][0].model_validate(document.spec)
            change = put(update.kind, update.id, spec, update.status, wish=False)
            if change.status != document.status:
                changes.append(change)
        return Plan(200, None, tuple(changes))
