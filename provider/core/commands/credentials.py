"""An agent's broker password, changed while it works. The agent makes the new one itself; only its hash comes here.

RotateCredential   "number n is wanted": the agent is told, makes a password and offers the hash
SwitchCredential   the offered hash is the one that the broker should have from now on
TellCredential     after a restore: the one that an agent has by now
"""

from dataclasses import dataclass

from provider.core import documents as docs
from provider.core.commands.adoption import restored
from provider.core.commands.base import Plan, need, put
from provider.core.documents import Document
from provider.core.state import State


def is_changing(document: Document) -> bool:
    """Whether an agent has not come to use yet what was last wanted of it."""
    spec = document.spec
    return spec.get("wanted_credential") is not None or document.status.get("credential", 0) < spec.get("credential", 0)


@dataclass(frozen=True, slots=True)
class RotateCredential:
    """Ask an agent for a new password. Asked again before it uses that one, nothing changes: it holds two at most."""

    id: str

    def plan(self, state: State, now: int) -> Plan:
        document = need(state, "agent", self.id)
        spec = docs.AgentSpec.model_validate(document.spec)
        if is_changing(document):
            return Plan(202, ("agent", self.id))
        return _plan(202, document, spec.model_copy(update={"wanted_credential": spec.credential + 1}))


@dataclass(frozen=True, slots=True)
class SwitchCredential:
    """Take the password that an agent offers, where it is the one that it was asked for."""

    id: str
    number: int
    broker_password_hash: str

    def plan(self, state: State, now: int) -> Plan:
        document = need(state, "agent", self.id)
        spec = docs.AgentSpec.model_validate(document.spec)
        if spec.wanted_credential != self.number:
            return Plan(200, ("agent", self.id))
        return _plan(200, document, _taken(spec, self.number, self.broker_password_hash, now))


@dataclass(frozen=True, slots=True)
class TellCredential:
    """After a restore: the agent itself says which password it has by now, where the backup knows an older one. At all
    other times, and of one that is not newer, nothing changes."""

    id: str
    number: int
    broker_password_hash: str

    def plan(self, state: State, now: int) -> Plan:
        document = need(state, "agent", self.id)
        spec = docs.AgentSpec.model_validate(document.spec)
        if restored(state) is None or self.number <= spec.credential:
            return Plan(200, ("agent", self.id))
        return _plan(200, document, _taken(spec, self.number, self.broker_password_hash, now))


def _taken(spec: docs.AgentSpec, number: int, broker_password_hash: str, now: int) -> docs.AgentSpec:
    taken = {
        "broker_password_hash": broker_password_hash,
        "credential": number,
        "credential_at": now,
        "wanted_credential": None,
    }
    return spec.model_copy(update=taken)


def _plan(status: int, document: Document, spec: docs.AgentSpec) -> Plan:
    change = put("agent", document.id, spec, docs.AgentStatus.model_validate(document.status))
    return Plan(status, ("agent", document.id), (change,))
