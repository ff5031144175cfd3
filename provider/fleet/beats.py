"""The primary's beat: how often all agents are told that it is there, and how slowly they are to move. Pure.

A beat goes to every agent's queue. What it costs the broker is messages a second, so a large fleet is told less often.
"""

INTERVAL_S = 2.0
BEATS_A_SECOND = 1000
"""Deliveries to agents: one beat for each of them, in all."""
MOVES_A_SECOND = 500
"""Connections that brokers take from agents which all lost the same one: each takes 200 to 300 a second."""


def interval_s(agents: int) -> float:
    """Seconds from one beat to the next in a fleet of so many."""
    return max(INTERVAL_S, agents / BEATS_A_SECOND)


def spread_s(agents: int) -> float:
    """Seconds over which so many agents are to spread what all of them do at once."""
    return agents / MOVES_A_SECOND
