"""Records as a log could hold them, made from very little, and applied by the real `step`."""

from collections.abc import Iterable

from provider.core.documents import Kind
from provider.core.entries import Change, Claim, Commit, Entry
from provider.core.state import Accepted, State, step
from provider.log.port import Position

GENERATION = "0123456789abcdef"
START_MS = 1_800_000_000_000


def genesis() -> State:
    nodes = tuple(Change(kind="node", id=name, spec={"url": "https://127.0.0.1:1"}) for name in ("p1", "p2", "p3"))
    return State.genesis(generation=GENERATION, primary="p1", now=START_MS, changes=nodes)


def put(id_: str, value: object = 1, *, kind: Kind = "setting", wish: bool = True) -> Change:
    return Change(kind=kind, id=id_, spec={"value": value}, wish=wish)


def drop(id_: str, *, kind: Kind = "setting") -> Change:
    return Change(kind=kind, id=id_)


def commit_of(*changes: Change, key: str | None = None) -> Commit:
    target = (changes[0].kind, changes[0].id) if changes else None
    return Commit(principal="token:a", action="PUT", key=key, request="r", status=200, target=target, changes=changes)


def accept_entry(state: State, *commits: Commit, later_ms: int = 1) -> Accepted:
    """What the next entry of the current primary, `later_ms` after the state's time, makes of `state`."""
    entry = Entry(
        id=f"entry-{state.revision + 1}",
        generation=state.generation,
        epoch=state.epoch,
        seq=state.revision + 1,
        node=state.primary,
        at=state.now + later_ms,
        commits=commits,
    )
    return _accepted(step(state, entry))


def accept_claim(state: State, node: str) -> Accepted:
    claim = Claim(id=f"claim-{state.epoch}", generation=state.generation, ends=state.epoch, node=node, at=state.now)
    return _accepted(step(state, claim))


def accept_values(state: State, values: Iterable[object]) -> list[Accepted]:
    """One entry for each value, all of them to the same setting, each with an idempotency key."""
    out: list[Accepted] = []
    for value in values:
        out.append(accept_entry(state, commit_of(put("user.x", value), key=f"key-{state.revision}")))
        state = out[-1].state
    return out


def position(revision: int) -> Position:
    """Where a log would be that holds three other records for each accepted one."""
    return Position(revision * 4, f"{revision:064x}")


def _accepted(outcome: object) -> Accepted:
    assert isinstance(outcome, Accepted), outcome
    return outcome
