"""What is written down for the audit alone."""

from dataclasses import dataclass

from provider.core.commands.base import Plan
from provider.core.entries import Attempt
from provider.core.state import State
from shared.errors import Invalid

REFUSALS_MAX = 200
"""Attempts in one commit; a node sends about half as many at once."""
LATE_MAX_MS = 24 * 3600 * 1000
"""An attempt may be recorded this long after it was made, where the log was away; what is older counts as that old."""


@dataclass(frozen=True, slots=True)
class RecordRefusals:
    """Write down what a node refused. No document changes."""

    attempts: tuple[Attempt, ...]

    def plan(self, state: State, now: int) -> Plan:
        if len(self.attempts) > REFUSALS_MAX:
            raise Invalid(f"attempts: at most {REFUSALS_MAX} at once")
        # By the time that the entry will count with, not by the node's clock: then a search for a span of time knows
        # how far it has to look.
        latest = max(state.now, now)
        earliest = max(0, latest - LATE_MAX_MS)
        kept = tuple(
            attempt.model_copy(update={"at": min(max(attempt.at, earliest), latest)}) for attempt in self.attempts
        )
        return Plan(204, refused=kept)
