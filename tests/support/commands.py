"""Commands on a small state: what becomes of it, and why they are refused."""

from typing import Any

import pytest

from provider.core import documents as docs
from provider.core.commands import Command, put
from provider.core.documents import Document, TokenSpec
from provider.core.entries import Change, Commit, Entry
from provider.core.state import Accepted, State, step
from shared.errors import BellwetherError

NOW = 1_700_000_000_000
SPEC_NODE = docs.NodeSpec(url="https://p1", endpoints=("amqps://p1",), version="1.0", token_sha256="x", public_key="00")
SPEC_AGENT = docs.AgentSpec(token_sha256="x", broker_password_hash="y")


def instance(agent: str = "db1") -> docs.InstanceSpec:
    return docs.InstanceSpec(agent=agent, engine="mariadb", socket="/run/x.sock")


def token(role: Any = "agent", expires_at: int | None = None) -> TokenSpec:
    return TokenSpec(role=role, sha256="x", expires_at=expires_at)


def fleet() -> State:
    """A node, an agent with one instance, two one-time tokens, a setting."""
    changes = (
        put("node", "p1", SPEC_NODE),
        put("agent", "db1", SPEC_AGENT),
        put("instance", "db1", instance()),
        put("key", "k1", docs.KeySpec(wrapped={"p1": "for p1"})),
        put("token", "join", token("node")),
        put("token", "enrol", token("agent", NOW)),
        Change(kind="setting", id="user.a", spec={"value": 1}),
        Change(kind="setting", id="cluster.removed.p9", spec={"value": NOW}),
    )
    return State.genesis(generation="g", primary="p1", now=NOW, changes=changes)


def do(state: State, command: Command, now: int = NOW) -> State:
    """`state` after `command`."""
    plan = command.plan(state, now)
    commit = Commit(principal="ann", action="", status=plan.status, target=plan.target, changes=plan.changes)
    seq = state.revision + 1
    record = Entry(id="e", generation="g", epoch=1, seq=seq, node="p1", at=now, commits=(commit,))
    outcome = step(state, record)
    assert isinstance(outcome, Accepted)
    return outcome.state


def get(state: State, kind: Any, id_: str) -> Document:
    found = state.get(kind, id_)
    assert found is not None
    return found


def status_of(state: State, command: Command) -> int:
    return command.plan(state, NOW).status


def refusal(state: State, command: Command, kind: type[BellwetherError], match: str | None = None) -> None:
    with pytest.raises(kind, match=match) as error:
        command.plan(state, NOW)
    error.value.detail.encode()  # can be told
