"""The state that a cluster begins with again, made of one that was backed up. Pure: time and ids come in.

What is otherwise than in the backup, and why, stands in `provider.core.anew`, which it shares with a log that was begun
by force. On top of that this node alone is a member, and broker credentials are those of its own broker.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from provider.core import commands as c
from provider.core import documents as d
from provider.core.anew import NAMED_MAX, being_dropped, check_clock, done, tokens_over, wishes_held
from provider.core.entries import Change, Entry
from provider.core.replica import Asker
from provider.core.state import State
from shared.errors import Refused

BY = Asker("restore", None)


@dataclass(frozen=True, slots=True)
class Newcomer:
    """The one node of the restored cluster, and what it brings."""

    name: str
    node: d.NodeSpec
    key_id: str
    """Of the new data key."""
    wrapped: Mapping[str, str]
    """Every data key by id, the new one too, wrapped for this node."""
    credentials: Mapping[str, d.CredentialSpec] = field(default_factory=dict)
    """Of its broker; those in the backup are another broker's."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a person should know of a restore."""

    held: int
    forgotten: tuple[str, ...]
    """Wishes that were being dropped."""
    gone: tuple[str, ...]
    """Nodes of the backup that are members no more."""
    agents: int
    tokens_over: int


def check(state: State, name: str, now: int) -> None:
    """Raises `Refused` where no node of this name can go on with `state` at `now` (Unix ms, by this host's clock)."""
    if state.get("setting", c.removed_key(name)) is not None:
        raise Refused(f"a node named {name!r} was removed before; its identity never comes back: choose another name")
    check_clock(state, now, "the backup")


def restored(state: State, newcomer: Newcomer, backup: Mapping[str, Any], now: int) -> tuple[State, Entry, Told]:
    """From what `begun_anew` gave: the state to begin with, the entry that is the first in its history, and what is to
    be told. `backup` is what is to be remembered of the backup."""
    dropping = being_dropped(state)
    changes = [*_members(state, newcomer, now), *wishes_held(state, c.HELD), *tokens_over(state, now)]
    # Too much for a record of the history, which holds what people did: it has the change below alone.
    changed = done(state, "the cluster's members and wishes", tuple(changes), now, BY)
    value = {"at": now, "backup": dict(backup), "forgotten": dropping[:NAMED_MAX], "ignored": []}
    noted = Change(kind="setting", id=c.RESTORED, spec={"value": value})
    last = done(changed.state, "provider restore", (noted,), now, BY)
    told = Told(
        held=sum(1 for _ in c.held(last.state)),
        forgotten=tuple(dropping),
        gone=tuple(node.id for node in state.of("node") if node.id != newcomer.name),
        agents=len(state.of("agent")),
        tokens_over=sum(1 for _ in tokens_over(state, now)),
    )
    assert isinstance(last.record, Entry)  # noqa: S101 - for the type checker
    return last.state, last.record, told


def _members(state: State, newcomer: Newcomer, now: int) -> Iterator[Change]:
    for node in state.of("node"):
        if node.id != newcomer.name:
            yield c.delete("node", node.id)
            yield Change(kind="setting", id=c.removed_key(node.id), spec={"value": now})
    yield c.put("node", newcomer.name, newcomer.node)
    for id_, wrapped in newcomer.wrapped.items():
        yield c.put("key", id_, d.KeySpec(wrapped={newcomer.name: wrapped}))
    for id_ in (c.BROKER_ADMIN, c.BROKER_COOKIE):
        given = newcomer.credentials.get(id_)
        if given is not None:
            yield c.put("credential", id_, given)
        elif state.get("credential", id_) is not None:
            yield c.delete("credential", id_)
