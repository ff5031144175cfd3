"""In which order an agent uses the advised brokers. Pure, and different for each agent.

The first one advised is the primary's broker, which everybody prefers. The others are ordered by a hash of the agent's
own name and theirs (rendezvous hashing): when a broker is lost, its agents spread evenly over the rest, and a broker
that comes or goes changes nothing in the order of the others.
"""

from collections.abc import Sequence
from hashlib import sha256


def in_order(endpoints: Sequence[str], agent: str) -> tuple[str, ...]:
    """`endpoints` as `agent` is to try them."""
    first, *others = endpoints
    return (first, *sorted(others, key=lambda endpoint: share(agent, endpoint)))


def share(agent: str, what: str) -> float:
    """A number in [0, 1) that is always the same for these two, and spread evenly over agents: who is to wait for how
    much of the time over which a fleet spreads."""
    return int.from_bytes(sha256(f"{agent} {what}".encode("utf-8", "replace")).digest()[:6]) / 2**48
