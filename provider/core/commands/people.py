"""People: users with a password, and sessions that were ended."""

from dataclasses import dataclass

from provider.core import documents as docs
from provider.core.commands.base import ALWAYS, Plan, Precondition, check_name, delete, need, put
from provider.core.commands.tokens import outlived
from provider.core.documents import Document, PersonRole, UserName
from provider.core.state import State
from shared.errors import Invalid, Refused

USERS_MAX = 10_000


@dataclass(frozen=True, slots=True)
class PutUser:
    """Make a user, or change the role or (where a hash is given) the password of one. That ends the user's sessions."""

    name: str
    role: PersonRole
    password_hash: str | None
    when: Precondition = ALWAYS

    def plan(self, state: State, now: int) -> Plan:
        check_name("user", self.name, UserName)
        old = state.get("user", self.name)
        self.when.check(f"user {self.name!r}", old)
        if old is None:
            if self.password_hash is None:
                raise Invalid("password: a new user needs one")
            if len(state.documents.get("user", ())) >= USERS_MAX:
                raise Refused(f"there are {USERS_MAX} users, the most there may be")
            spec = docs.UserSpec(role=self.role, password_hash=self.password_hash, sessions_since=now)
            return Plan(201, ("user", self.name), (put("user", self.name, spec),))
        if self.password_hash is None and self.role == old.spec["role"]:
            return Plan(200, ("user", self.name))
        return _changed(old, now, role=self.role, password_hash=self.password_hash or old.spec["password_hash"])


@dataclass(frozen=True, slots=True)
class SetPassword:
    """`checked` is the revision that the old password was compared with: what changed since is not overwritten."""

    name: str
    password_hash: str
    checked: int | None = None

    def plan(self, state: State, now: int) -> Plan:
        old = need(state, "user", self.name)
        Precondition(revision=self.checked).check(f"user {self.name!r}", old)
        return _changed(old, now, password_hash=self.password_hash)


@dataclass(frozen=True, slots=True)
class EndSessions:
    """End all sessions of a user."""

    name: str

    def plan(self, state: State, now: int) -> Plan:
        plan = _changed(need(state, "user", self.name), now)
        return Plan(204, None, plan.changes)


@dataclass(frozen=True, slots=True)
class DeleteUser:
    name: str
    when: Precondition = ALWAYS

    def plan(self, state: State, now: int) -> Plan:
        self.when.check(f"user {self.name!r}", need(state, "user", self.name))
        return Plan(204, None, (delete("user", self.name),))


@dataclass(frozen=True, slots=True)
class EndSession:
    """Remember that a session was ended, until its time would have been over anyway."""

    id: str
    spec: docs.SessionSpec

    def plan(self, state: State, now: int) -> Plan:
        if state.get("session", self.id) is not None:
            return Plan(204)
        return Plan(204, None, (*outlived(state, "session", now), put("session", self.id, self.spec)))


def _changed(old: Document, now: int, **fields: str) -> Plan:
    """The user with other contents. Each change of a user ends the sessions: they name the revision that was."""
    spec = docs.UserSpec.model_validate({**old.spec, **fields, "sessions_since": max(now, old.spec["sessions_since"])})
    return Plan(200, ("user", old.id), (put("user", old.id, spec),))
