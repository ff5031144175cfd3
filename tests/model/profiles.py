"""How long the models are tried: the same examples in each run; the long ones are new each time.

`BELLWETHER_MODEL_EXAMPLES=N` says how many of those.
"""

import os

import pytest
from hypothesis import HealthCheck, settings

EXAMPLES = int(os.environ.get("BELLWETHER_MODEL_EXAMPLES", "5000"))


def short(steps: int) -> settings:
    return settings(
        max_examples=250,
        stateful_step_count=steps,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def profiles(short_steps: int, long_steps: int, examples: int = 250) -> pytest.MarkDecorator:
    """Has a test run with its `profile`: a short one, of so many examples, and a long one where that is asked for."""
    brief = settings(short(short_steps), max_examples=examples)
    long = settings(brief, max_examples=EXAMPLES, stateful_step_count=long_steps, derandomize=False)
    given = [brief, pytest.param(long, marks=pytest.mark.long)]
    return pytest.mark.parametrize("profile", given, ids=["short", "long"])
