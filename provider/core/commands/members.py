"""Agents, and the instances that they look after. Nodes have a module of their own."""

from dataclasses import dataclass

from provider.core import documents as docs
from provider.core.commands.base import ALWAYS, Plan, Precondition, check_name, delete, need, put
from provider.core.commands.tokens import one_time_token
from provider.core.documents import Name
from provider.core.state import State
from shared.errors import Invalid, Refused

RESERVED = frozenset({"all"})
"""Routing keys of `agents.down` that are no agent's: what is sent to such an agent would reach the others."""


@dataclass(frozen=True, slots=True)
class EnrollAgent:
    """Make a new agent and its instances known, using up its one-time token."""

    id: str
    token_id: str
    spec: docs.AgentSpec
    instances: tuple[tuple[str, docs.InstanceSpec], ...] = ()

    def plan(self, state: State, now: int) -> Plan:
        check_name("agent", self.id, Name)
        if self.id in RESERVED:
            raise Invalid(f"agent name {self.id!r}: it means every agent; choose another id")
        used = one_time_token(state, self.token_id, "agent", now, self.id)
        if state.get("agent", self.id) is not None:
            raise Refused(
                f"agent {self.id!r} is enrolled already: DELETE /agents/{self.id} first, or choose another id"
            )
        changes = [used, put("agent", self.id, self.spec)]
        if len({id_ for id_, _ in self.instances}) < len(self.instances):
            raise Invalid("instances: each id may be there only once")
        for id_, spec in self.instances:
            check_name("instance", id_, Name)
            if spec.agent != self.id:
                raise Invalid(f"instance {id_!r}: agent {self.id!r} cannot enrol it for agent {spec.agent!r}")
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
    when: Precondition = ALWAYS

    def plan(self, state: State, now: int) -> Plan:
        self.when.check(f"agent {self.id!r}", need(state, "agent", self.id))
        return Plan(204, None, (delete("agent", self.id),))
