"""The state that a cluster begins another log with: of a backup, or of a node that was left. Pure.

What is otherwise than in the state that it is made of, and why:

- Another generation: what is in a log that is left somewhere belongs to another life, and no node reads it.
- A higher epoch than any that the agents remember (they ignore what is lower), although nobody knows that one. It is
  the number of seconds since 1970: an epoch grows by one with each promotion, and no cluster has had one a second ever
  since. So a second beginning, of the same state too, is above the first one and all that came after it.
- A higher revision than any that clients, watchers and agents have seen: else an `If-Match` of before could fit a
  document of after. An entry takes longer than a millisecond, so it grows by one for each since then.
- Nodes that are not there are members no more. Their names never come back, and a new data key seals from now on.
- Wishes are held (`provider.core.commands.adoption`), and those that were being dropped are forgotten: since that state
  something else may be there under that name.
- One-time tokens are over: those that were used since would be good again.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from provider.core import commands as c
from provider.core import documents as d
from provider.core.entries import Change, Commit, Entry
from provider.core.replica import Asker
from provider.core.state import Accepted, State, step
from shared.errors import Invalid, Refused

CLOCK_SLACK_MS = 60_000
"""So much may the clock of the host be behind the newest time in the state: hosts differ a little."""
REVISIONS_APART = 1_000_000
"""On top of one for each millisecond, for those before the clock of the state was read."""
NAMED_MAX = 100


def check_clock(state: State, now: int, of: str) -> None:
    """Raises `Refused` where this host's clock (`now`, Unix ms) is behind `state`, which is `of` something."""
    if now < state.now - CLOCK_SLACK_MS:
        behind_s = (state.now - now) / 1000
        raise Refused(
            f"this host's clock is {behind_s:.0f} s behind the time of {of}: set it right first (chrony, NTP). "
            "The epoch of the new log is made of it, and agents ignore one that is too low"
        )


def begun_anew(state: State, generation: str, name: str, now: int) -> State:
    """`state` as the beginning of another log, under `name` as its primary. Its documents are the same."""
    apart = REVISIONS_APART + max(0, now - state.now)
    return replace(
        state,
        generation=generation,
        epoch=max(state.epoch + 1, now // 1000),
        primary=name,
        revision=state.revision + apart,
        now=max(state.now, now),
    )


def done(state: State, action: str, changes: tuple[Change, ...], now: int, asked_by: Asker) -> Accepted:
    """`state` with these changes, as if they had stood in its log. Raises `Invalid` where they cannot be."""
    principal = asked_by.principal or "?"
    commit = Commit(principal=principal, action=action, source=asked_by.source, status=200, changes=changes, before=())
    entry = Entry(
        id=f"begun-{state.generation}-{state.revision}",
        generation=state.generation,
        epoch=state.epoch,
        seq=state.revision + 1,
        node=state.primary,
        at=now,
        commits=(commit,),
    )
    outcome = step(state, entry)
    if not isinstance(outcome, Accepted):
        raise Invalid(f"this state cannot be gone on with: {outcome.why.value}")
    return outcome


def wishes_held(state: State, status: d.WishStatus) -> Iterator[Change]:
    for kind in ("database", "account"):
        for wish in _wishes(state, kind):
            if _phase(wish) == "dropping":
                yield c.delete(wish.kind, wish.id)
            else:
                yield c.with_status(wish, status)


def being_dropped(state: State) -> list[str]:
    return [wish.id for kind in ("database", "account") for wish in _wishes(state, kind) if _phase(wish) == "dropping"]


def tokens_over(state: State, now: int) -> Iterator[Change]:
    for token in state.of("token"):
        status = d.TokenStatus.model_validate(token.status)
        if token.spec["role"] in c.ONE_TIME and status.used_at is None and status.revoked_at is None:
            yield c.with_status(token, status.model_copy(update={"revoked_at": now}))


def _wishes(state: State, kind: str) -> list[d.Document]:
    return list(state.documents.get(kind, {}).values())


def _phase(wish: d.Document) -> str:
    return str(wish.status["phase"])


# ── of a node that was left ──

HELD = d.WishStatus(phase="held", message="as the node knew it that was left; its agent has not said yet what is there")


@dataclass(frozen=True, slots=True)
class Left:
    """The members that go on, and what those who do not have no part in."""

    name: str
    """Whose state it is: the primary of the new log."""
    kept: frozenset[str]
    """Others that go on with it."""
    key_id: str
    key: d.KeySpec
    """The new data key, wrapped for all who go on."""
    credentials: Mapping[str, d.CredentialSpec] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Begun:
    """`entry` is the first in the new log's history; it stands in no log."""

    state: State
    entry: Entry
    held: int
    forgotten: tuple[str, ...]
    lost: tuple[str, ...]


def gone_on(state: State, left: Left, generation: str, now: int, asked_by: Asker) -> Begun:
    """From the state of a node that was left. Raises `Refused`, `Invalid`."""
    check_clock(state, now, "the newest record that it holds")
    begun = begun_anew(state, generation, left.name, now)
    lost = tuple(node.id for node in state.of("node") if node.id not in {left.name, *left.kept})
    changes = (*_members(begun, left, lost, state, now), *wishes_held(begun, HELD), *tokens_over(begun, now))
    # Too much for a record of the history, which holds what people did: it has the changes below alone.
    changed = done(begun, "the cluster's members and wishes", changes, now, asked_by)
    known = {"generation": state.generation, "epoch": state.epoch, "revision": state.revision}
    value = {
        "at": now,
        "by": left.name,
        "generation": generation,
        "revision": changed.state.revision + 1,
        "from": known,
        "kept": sorted({left.name, *left.kept}),
        "lost": list(lost),
    }
    forgotten = being_dropped(state)
    backup = {**known, "at": state.now, "survivor": left.name}
    restored = {"at": now, "backup": backup, "forgotten": forgotten[:NAMED_MAX], "ignored": []}
    noted = (
        Change(kind="setting", id=c.BEGUN_ANEW, spec={"value": value}),
        Change(kind="setting", id=c.RESTORED, spec={"value": restored}),
    )
    last = done(changed.state, "failover --force", noted, now, asked_by)
    assert isinstance(last.record, Entry)  # noqa: S101 - for the type checker
    return Begun(last.state, last.record, sum(1 for _ in c.held(last.state)), tuple(forgotten), lost)


def _members(begun: State, left: Left, lost: tuple[str, ...], before: State, now: int) -> Iterator[Change]:
    for name in lost:
        node = c.need(begun, "node", name)
        broker = {"broker": node.spec["broker"]["node"]} if node.spec.get("broker") else {}
        told: dict[str, Any] = {"token_sha256": node.spec["token_sha256"], "by": left.name, "before": before.revision}
        yield c.delete("node", name)
        yield Change(kind="setting", id=c.removed_key(name), spec={"value": {"at": now, **broker, **told}})
    for key in begun.of("key"):
        rest = {node: wrapped for node, wrapped in key.spec["wrapped"].items() if node not in lost}
        yield c.put("key", key.id, d.KeySpec(wrapped=rest))
    yield c.put("key", left.key_id, left.key)
    for id_, spec in left.credentials.items():
        yield c.put("credential", id_, spec)
