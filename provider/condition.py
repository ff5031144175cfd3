"""How a node is, in the words that operators know.

| state       | means                                                                               |
|-------------|-------------------------------------------------------------------------------------|
| active      | reads the log, serves reads; the primary also writes                                  |
| syncing     | has begun to read the log and has not reached its end yet                             |
| out_of_sync | its store and the log do not belong together; it serves nothing until that is mended  |
| removed     | is no member any more; its identity never comes back                                   |
| critical    | a part that it needs is down: the log or the store; the reason says which             |
| lost        | has not been heard of for some seconds                                                |
| unknown     | not heard of since this node started, or since it lost its connection to the broker    |
"""

import time
from dataclasses import dataclass

from provider.engine import Engine

FRESH_S = 3.0
"""A primary that has not read its own barrier back for this long does not call itself one: three beats."""


@dataclass(frozen=True, slots=True)
class Condition:
    state: str
    reason: str | None = None


def condition(engine: Engine, node: str) -> Condition:
    """The condition of this node itself."""
    health = engine.health
    if engine.expelled or engine.state.get("node", node) is None:
        return Condition("removed", f"{node} was removed from the cluster; make a fresh node under another name")
    if health.diverged is not None:
        return Condition("out_of_sync", health.diverged)
    if health.store_problem is not None:
        return Condition("critical", f"store: {health.store_problem.detail}")
    if not health.connected:
        return Condition("critical", f"log: {health.log_problem or 'not connected'}")
    if health.log_problem is not None:
        return Condition("critical", f"log: {health.log_problem}")
    if not health.caught_up:
        return Condition("syncing", "reading the log")
    return Condition("active")


def leads(engine: Engine, node: str) -> str | None:
    """None where this node is a primary that works; otherwise why it is not."""
    health, state = engine.health, engine.state
    if state.primary != node:
        return f"{state.primary} is the primary"
    here = condition(engine, node)
    if here.state != "active":
        return f"{here.state}: {here.reason}"
    age_s = time.monotonic() - health.read_back_s
    if age_s > FRESH_S:
        return f"the log has not answered for {age_s:.1f} s"
    return None
