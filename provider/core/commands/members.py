"""Members: nodes, agents, and the instances that agents look after."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from provider.core import documents as docs
from provider.core.commands.base import Plan, check_name, delete, need, put
from provider.core.commands.tokens import one_time_token
from provider.core.documents import Document, Name
from provider.core.entries import Change
from provider.core.state import State
from shared.errors import Conflict, Invalid, Refused

NODES_MAX = 4
BROKER_ADMIN = "broker-admin"
"""The credential with which providers administer the broker's users."""
RESERVED = frozenset({"all"})
"""Routing keys of `agents.down` that are no agent's: what is sent to such an agent would reach the others."""


@dataclass(frozen=True, slots=True)
class JoinNode:
    """Make a new provider known, using up its one-time token."""

    name: str
    token_id: str
    spec: docs.NodeSpec
    wrapped: Mapping[str, str]
    """Every data key by id, wrapped for the new node."""

    def plan(self, state: State, now: int) -> Plan:
        check_name("node", self.name, Name)
        used = one_time_token(state, self.token_id, "node", now, self.name)
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
        keys = state.of("key")
        if {key.id for key in keys} != set(self.wrapped):
            raise Conflict("the cluster's data keys have just changed: try again")
        changes = [used, put("node", self.name, self.spec)]
        changes += [rewrapped(key, {**key.spec["wrapped"], self.name: self.wrapped[key.id]}) for key in keys]
        return Plan(201, ("node", self.name), tuple(changes))


def removed_key(name: str) -> str:
    """The setting that remembers a removed node's name for ever."""
    return f"cluster.removed.{name}"


@dataclass(frozen=True, slots=True)
class RemoveNode:
    """Forget a node, and seal from now on with a key that it has no part in."""

    name: str
    key_id: str
    key: docs.KeySpec
    """The new data key, wrapped for all the others."""
    credentials: Mapping[str, docs.CredentialSpec] = field(default_factory=dict)
    """What it knew and the others go on with, under new passwords, sealed with the new key."""

    def plan(self, state: State, now: int) -> Plan:
        need(state, "node", self.name)
        if state.primary == self.name:
            raise Refused(f"{self.name} is the primary and cannot be removed: promote another node first")
        others = {node.id for node in state.of("node")} - {self.name}
        if set(self.key.wrapped) != others or state.get("key", self.key_id) is not None:
            raise Conflict("the cluster's members have just changed: try again")
        gone = Change(kind="setting", id=removed_key(self.name), spec={"value": now})
        changes = [delete("node", self.name), gone, put("key", self.key_id, self.key)]
        for key in state.of("key"):
            rest = {node: wrapped for node, wrapped in key.spec["wrapped"].items() if node != self.name}
            changes.append(rewrapped(key, rest))
        changes += [put("credential", id_, spec) for id_, spec in self.credentials.items()]
        return Plan(204, None, tuple(changes))


def rewrapped(key: Document, wrapped: Mapping[str, str]) -> Change:
    """The change that gives a data key to other nodes than before."""
    return put("key", key.id, docs.KeySpec(wrapped=dict(wrapped)))


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

    def plan(self, state: State, now: int) -> Plan:
        need(state, "agent", self.id)
        return Plan(204, None, (delete("agent", self.id),))
