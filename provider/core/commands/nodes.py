"""Nodes: who may join, what changes about one, who goes.

What must be alike on all nodes is a mapping of named facts: `version`, settings (`api.body_max_bytes`), the broker's
version and plug-ins. A newcomer says those that it does not take over from the cluster.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from provider.core import documents as docs
from provider.core.commands.authorities import signing
from provider.core.commands.base import ALWAYS, Plan, Precondition, check_name, delete, need, put
from provider.core.commands.settings import clock_skew_s
from provider.core.commands.tokens import is_expired, one_time_token
from provider.core.documents import Document, Name
from provider.core.entries import Change
from provider.core.state import State
from shared.errors import Conflict, Refused
from shared.wording import listed

NODES_MAX = 4
BROKER_ADMIN = "broker-admin"
"""The credential with which providers administer the broker's users."""
BROKER_COOKIE = "broker-cookie"
"""The credential that makes brokers one cluster: their Erlang cookie. There is none where others administer them."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that is not alike where it has to be; a side that says nothing of it has None."""

    name: str
    here: Any
    there: Any


def differences(here: Mapping[str, Any], there: Mapping[str, Any]) -> list[Difference]:
    """What one side says (`here`) and the other says otherwise, by name. Values are compared as JSON: 1 is not True."""
    return [
        Difference(name, here[name], there.get(name))
        for name in sorted(here)
        if docs.canonical(here[name]) != docs.canonical(there.get(name))
    ]


@dataclass(frozen=True, slots=True)
class JoinNode:
    """Make a new provider known, using up its one-time token.

    The same name and keys again are the same newcomer, who was interrupted and repeats: with the same token, or with a
    new one where that is over. It stays the member that it is, with the certificate that it is given this time.
    """

    name: str
    token_id: str
    spec: docs.NodeSpec
    wrapped: Mapping[str, str]
    """Every data key by id, wrapped for the new node."""
    says: Mapping[str, Any] = field(default_factory=dict)
    """The facts about itself that have to be those of the cluster."""
    cluster: Mapping[str, Any] = field(default_factory=dict)
    """The primary's facts, by the same names."""
    clock_skew_s: float | None = None
    """Seconds that its clock is ahead of ours, as it measured; negative: behind."""

    def plan(self, state: State, now: int) -> Plan:
        check_name("node", self.name, Name)
        used = self._use_token(state, now)
        known = state.get("node", self.name)
        if known is not None and _keys(known.spec) == _keys(self.spec.model_dump(mode="json")):
            self._check_alike(state)
            check_address(state, self.name, self.spec.url)
            check_broker(state, self.name, self.spec.broker)
            return Plan(201, ("node", self.name), (*used, put("node", self.name, self._renewed(known))))
        self._check_room(state)
        self._check_alike(state)
        keys = state.of("key")
        if {key.id for key in keys} != set(self.wrapped):
            raise Conflict("the cluster's data keys have just changed: try again")
        changes = [*used, put("node", self.name, self.spec)]
        changes += [rewrapped(key, {**key.spec["wrapped"], self.name: self.wrapped[key.id]}) for key in keys]
        return Plan(201, ("node", self.name), tuple(changes))

    def _use_token(self, state: State, now: int) -> list[Change]:
        """The change that uses the token up; none where this very newcomer has used it. Raises `TokenRefused`, or
        `Refused` where the newcomer was removed meanwhile."""
        token, node = state.get("token", self.token_id), state.get("node", self.name)
        used = token is not None and token.status.get("used_by") == f"node {self.name}"
        if token is None or not used or is_expired(token, now):
            return [one_time_token(state, self.token_id, "node", now, self.name)]
        if node is None and state.get("setting", removed_key(self.name)) is not None:
            raise removed_while_joining(self.name)
        same = node is not None and _keys(node.spec) == _keys(self.spec.model_dump(mode="json"))
        if not same or token.status.get("revoked_at") is not None:
            return [one_time_token(state, self.token_id, "node", now, self.name)]
        return []

    def _renewed(self, node: Document) -> docs.NodeSpec:
        """What is known of it by now (labels, say) stays; the certificate in use until now stays good."""
        said = self.spec.model_dump(mode="json", exclude_unset=True)
        before = node.spec.get("certificates", ())[:1]
        certificates = [*said.get("certificates", ())[:1], *before]
        return docs.NodeSpec.model_validate({**node.spec, **said, "certificates": certificates})

    def _check_room(self, state: State) -> None:
        """Raises `Refused` where there is no place for a node of this name and address."""
        nodes = state.of("node")
        if any(node.id == self.name for node in nodes):
            raise Refused(f"a node named {self.name!r} is a member already; choose another name")
        if state.get("setting", removed_key(self.name)) is not None:
            raise Refused(f"a node named {self.name!r} was removed; its identity never comes back: choose another name")
        if len(nodes) >= NODES_MAX:
            raise Refused(f"the cluster has {len(nodes)} nodes, the most there may be; remove one first")
        check_address(state, self.name, self.spec.url)
        check_broker(state, self.name, self.spec.broker)

    def _check_alike(self, state: State) -> None:
        """Raises `Refused` where it is not like the other nodes, or its clock is not like theirs."""
        found = differences(self.says, self.cluster)
        if found:
            named = "; ".join(
                f"{one.name}: {self.name} has {_shown(one.here)}, the cluster {_shown(one.there)}" for one in found
            )
            raise Refused(f"{self.name} is not like the cluster's nodes: {named}")
        limit_s = clock_skew_s(state)
        if self.clock_skew_s is not None and abs(self.clock_skew_s) > limit_s:
            side = "ahead of" if self.clock_skew_s > 0 else "behind"
            raise Refused(
                f"the clock of {self.name} is {abs(self.clock_skew_s):.2f} s {side} the cluster's, more than the "
                f"{limit_s:g} s that are allowed (cluster.clock_skew_s): set it right first (chrony, NTP)"
            )


def _keys(spec: docs.Json) -> tuple[object, ...]:
    """What a node has made for itself, and only itself can send twice."""
    keys = [one["key_sha256"] for one in spec.get("certificates", ())[:1]]
    return (spec["public_key"], spec["token_sha256"], spec.get("broker_password_hash"), *keys)


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    return value if isinstance(value, str) else docs.canonical(value)


def check_address(state: State, name: str, url: str) -> None:
    """Raises `Refused` where another member has that address."""
    for node in state.of("node"):
        if node.id != name and node.spec["url"] == url:
            raise Refused(f"{node.id} is a member at {url}; if it is gone for good, DELETE /nodes/{node.id} first")


def check_broker(state: State, name: str, broker: docs.BrokerNode | None) -> None:
    """Raises `Refused` where other hosts could not tell a member's broker from another's, by name of who has it."""
    if broker is None:
        return
    if broker.host in docs.RESERVED_HOSTS:
        raise Refused(f"the host of {name} is called {broker.host}, which means something else on every other host")
    for node in state.of("node"):
        other = node.spec.get("broker")
        if node.id == name or other is None:
            continue
        if other["node"] == broker.node:
            raise Refused(f"the broker of {node.id} is called {broker.node} as well: give this host another name")
        if other["address"] == broker.address:
            raise Refused(
                f"the broker of {node.id} is known at {broker.address}; if {node.id} is gone for good, "
                f"DELETE /nodes/{node.id} first, else start it, so that it says where it is now"
            )


@dataclass(frozen=True, slots=True)
class LabelNode:
    """Say anew where a node is placed: all of its labels."""

    name: str
    labels: Mapping[docs.Placement, str]
    when: Precondition = ALWAYS

    def plan(self, state: State, now: int) -> Plan:
        node = need(state, "node", self.name)
        self.when.check(f"node {self.name!r}", node)
        spec = docs.NodeSpec.model_validate({**node.spec, "labels": dict(self.labels)})
        change = put("node", self.name, spec)
        return Plan(200, ("node", self.name), () if change.spec == node.spec else (change,))


@dataclass(frozen=True, slots=True)
class UpdateNode:
    """A node says what is new about it: its address, its broker's, its version; with a certificate for that address.
    The certificate before it stays good until the next."""

    name: str
    certificate: docs.CertificateSpec
    news: Mapping[str, Any]
    """Of its spec: `url`, `endpoints`, `version`, `broker`."""

    def plan(self, state: State, now: int) -> Plan:
        node = need(state, "node", self.name)
        if self.certificate.authority != signing(state).id:
            raise Conflict("another authority has just begun to sign: ask again")
        if "url" in self.news:
            check_address(state, self.name, self.news["url"])
        if "broker" in self.news:
            check_broker(state, self.name, docs.BrokerNode.model_validate(self.news["broker"]))
        certificates = [self.certificate, *node.spec.get("certificates", ())[:1]]
        spec = docs.NodeSpec.model_validate({**node.spec, **self.news, "certificates": certificates})
        return Plan(200, ("node", self.name), (put("node", self.name, spec),))


def trace_of(node: Document, now: int) -> Any:
    """What is kept of a removed node: when it went (Unix ms), and its broker, which the others have to forget."""
    broker = node.spec.get("broker")
    return now if broker is None else {"at": now, "broker": broker["node"]}


def gone_brokers(state: State) -> tuple[str, ...]:
    """Brokers of nodes that were removed, and of no present one, sorted."""
    present = {node.spec["broker"]["node"] for node in state.of("node") if node.spec.get("broker")}
    traces = [one.spec["value"] for one in state.of("setting") if one.id.startswith(removed_key(""))]
    gone = {trace["broker"] for trace in traces if isinstance(trace, dict) and "broker" in trace}
    return tuple(sorted(gone - present))


def removed_while_joining(name: str, then: str = "join under another name, with a new token") -> Refused:
    """What a newcomer is told that somebody removed meanwhile; `then`: what to do on its host."""
    return Refused(f"{name} was removed from the cluster while it joined; its identity never comes back: {then}")


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
    away: frozenset[str] = frozenset()
    """Members of which the primary hears nothing: their brokers may be down with them."""
    when: Precondition = ALWAYS

    def plan(self, state: State, now: int) -> Plan:
        node = need(state, "node", self.name)
        self.when.check(f"node {self.name!r}", node)
        if state.primary == self.name:
            raise Refused(f"{self.name} is the primary and cannot be removed: promote another node first")
        if node.spec.get("broker"):
            self._check_brokers(state)
        others = {node.id for node in state.of("node")} - {self.name}
        if set(self.key.wrapped) != others or state.get("key", self.key_id) is not None:
            raise Conflict("the cluster's members have just changed: try again")
        gone = Change(kind="setting", id=removed_key(self.name), spec={"value": trace_of(node, now)})
        changes = [delete("node", self.name), gone, put("key", self.key_id, self.key)]
        for key in state.of("key"):
            rest = {node: wrapped for node, wrapped in key.spec["wrapped"].items() if node != self.name}
            changes.append(rewrapped(key, rest))
        changes += self._led_elsewhere(state, node)
        changes += [put("credential", id_, spec) for id_, spec in self.credentials.items()]
        return Plan(204, None, tuple(changes))

    def _check_brokers(self, state: State) -> None:
        """Raises `Refused` where the log would go with this broker, or would have no majority without it."""
        left = [node.id for node in self._with_broker(state)]
        if not left:
            raise Refused(
                f"{self.name} has the only broker, and with it the log: have a host join with a broker of its own first"
            )
        away = [name for name in left if name in self.away]
        if 2 * len(away) >= len(left):
            raise Refused(
                f"without {self.name} writes might stop: more than half of the brokers that would be left, those of "
                f"{listed(left)}, have to run, and nothing is heard of {listed(away)}. Bring {away[0]} back first "
                "(then wait some seconds), or, where it is gone for good, remove it first"
            )

    def _led_elsewhere(self, state: State, gone: Document) -> list[Change]:
        """Members without a broker of their own may have been told of this one's alone: now of the others'."""
        if not gone.spec.get("broker"):
            return []
        dead, changes = set(gone.spec["endpoints"]), []
        alive = [endpoint for node in self._with_broker(state) for endpoint in node.spec["endpoints"]]
        for node in state.of("node"):
            kept = [endpoint for endpoint in node.spec["endpoints"] if endpoint not in dead]
            if node.id == self.name or node.spec.get("broker") or len(kept) == len(node.spec["endpoints"]):
                continue
            endpoints = tuple(kept or dict.fromkeys(alive))
            changes.append(put("node", node.id, docs.NodeSpec.model_validate({**node.spec, "endpoints": endpoints})))
        return changes

    def _with_broker(self, state: State) -> list[Document]:
        """Of those who stay."""
        return [node for node in state.of("node") if node.id != self.name and node.spec.get("broker")]


def rewrapped(key: Document, wrapped: Mapping[str, str]) -> Change:
    """The change that gives a data key to other nodes than before."""
    return put("key", key.id, docs.KeySpec(wrapped=dict(wrapped)))
