"""The state that a cluster begins with again, made of one that was backed up. Pure: time and ids come in.

What is otherwise than in the backup, and why:

- Another generation: what is in a log that is left somewhere belongs to another life, and no node reads it.
- A higher epoch than any that the agents remember (they ignore what is lower), although nobody knows that one. It is
  the number of seconds since 1970: an epoch grows by one with each promotion, and no cluster has had one a second ever
  since. So a second restore, of the same backup too, is above the first one and all that came after it.
- A higher revision than any that clients, watchers and agents have seen since the backup: else an `If-Match` of before
  could fit a document of after. An entry takes longer than a millisecond, so it grows by one for each since then.
- This node alone is a member. The others' names never come back, and a new data key seals from now on.
- Wishes are held (`provider.core.commands.adoption`), and those that were being dropped are forgotten: since the backup
  something else may be there under that name.
- One-time tokens are over: those that were used since the backup would be good again.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from provider.core import commands as c
from provider.core import documents as d
from provider.core.entries import Change, Commit, Entry
from provider.core.state import Accepted, State, step
from shared.errors import Invalid, Refused

CLOCK_SLACK_MS = 60_000
"""So much may the clock of the host be behind the time of the backup: hosts differ a little."""
REVISIONS_APART = 1_000_000
"""On top of one for each millisecond, for those before the clock of the state was read."""
NAMED_MAX = 100


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
    if now < state.now - CLOCK_SLACK_MS:
        behind_s = (state.now - now) / 1000
        raise Refused(
            f"this host's clock is {behind_s:.0f} s behind the time of the backup: set it right first (chrony, NTP). "
            "The epoch of the restored cluster is made of it, and agents ignore one that is too low"
        )


def begun_anew(state: State, generation: str, name: str, now: int) -> State:
    """`state` as the beginning of another log, under `name` as its primary. Its documents are those of the backup."""
    apart = REVISIONS_APART + max(0, now - state.now)
    return replace(
        state,
        generation=generation,
        epoch=max(state.epoch + 1, now // 1000),
        primary=name,
        revision=state.revision + apart,
        now=max(state.now, now),
    )


def restored(state: State, newcomer: Newcomer, backup: Mapping[str, Any], now: int) -> tuple[State, Entry, Told]:
    """From what `begun_anew` gave: the state to begin with, the entry that is the first in its history, and what is to
    be told. `backup` is what is to be remembered of the backup."""
    dropping = [w.id for kind in ("database", "account") for w in _wishes(state, kind) if _phase(w) == "dropping"]
    changes = [*_members(state, newcomer, now), *_wishes_held(state), *_tokens_over(state, now)]
    # Too much for a record of the history, which holds what people did: it has the change below alone.
    changed = _done(state, "the cluster's members and wishes", tuple(changes), now)
    value = {"at": now, "backup": dict(backup), "forgotten": dropping[:NAMED_MAX], "ignored": []}
    noted = Change(kind="setting", id=c.RESTORED, spec={"value": value})
    last = _done(changed.state, "provider restore", (noted,), now)
    told = Told(
        held=sum(1 for _ in c.held(last.state)),
        forgotten=tuple(dropping),
        gone=tuple(node.id for node in state.of("node") if node.id != newcomer.name),
        agents=len(state.of("agent")),
        tokens_over=sum(1 for _ in _tokens_over(state, now)),
    )
    assert isinstance(last.record, Entry)  # noqa: S101 - for the type checker
    return last.state, last.record, told


def _done(state: State, action: str, changes: tuple[Change, ...], now: int) -> Accepted:
    entry = Entry(
        id=f"restore-{state.generation}-{state.revision}",
        generation=state.generation,
        epoch=state.epoch,
        seq=state.revision + 1,
        node=state.primary,
        at=now,
        commits=(Commit(principal="restore", action=action, status=200, changes=changes, before=()),),
    )
    outcome = step(state, entry)
    if not isinstance(outcome, Accepted):
        raise Invalid(f"the state of the backup cannot be gone on with: {outcome.why.value}")
    return outcome


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


def _wishes_held(state: State) -> Iterator[Change]:
    for kind in ("database", "account"):
        for wish in _wishes(state, kind):
            if _phase(wish) == "dropping":
                yield c.delete(wish.kind, wish.id)
            else:
                yield c.with_status(wish, c.HELD)


def _tokens_over(state: State, now: int) -> Iterator[Change]:
    for token in state.of("token"):
        status = d.TokenStatus.model_validate(token.status)
        if token.spec["role"] in c.ONE_TIME and status.used_at is None and status.revoked_at is None:
            yield c.with_status(token, status.model_copy(update={"revoked_at": now}))


def _wishes(state: State, kind: str) -> list[d.Document]:
    return list(state.documents.get(kind, {}).values())


def _phase(wish: d.Document) -> str:
    return str(wish.status["phase"])
