"""Waiting longer after each failure, never in step with others."""

import random
from dataclasses import dataclass


@dataclass(slots=True)
class Backoff:
    """Plain state: `next_s()` gives the next wait, `reset()` starts over after a success.

    Full jitter (each wait is uniform between half the step and the step), so that a fleet which lost the same broker at
    the same moment does not return at the same moment. All figures in seconds.
    """

    first_s: float = 0.1
    longest_s: float = 5.0
    factor: float = 2.0
    _step: float = 0.0

    def next_s(self) -> float:
        self._step = min(self.longest_s, self._step * self.factor) if self._step else self.first_s
        return self._step * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret

    def reset(self) -> None:
        self._step = 0.0
