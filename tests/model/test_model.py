"""The replicated state machine against an adversary: the same examples in each run; the long ones are new each time.

`BELLWETHER_MODEL_EXAMPLES=N` says how many of those.
"""

import os

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.model.machine import ForgetfulMachine, Machine

SHORT = settings(
    max_examples=250,
    stateful_step_count=60,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
LONG = settings(
    SHORT,
    max_examples=int(os.environ.get("BELLWETHER_MODEL_EXAMPLES", "5000")),
    stateful_step_count=150,
    derandomize=False,
)
PROFILES = pytest.mark.parametrize(
    "profile", [SHORT, pytest.param(LONG, marks=pytest.mark.long)], ids=["short", "long"]
)


@PROFILES
def test_every_promise_holds_whatever_the_log_and_the_hosts_do(profile: settings) -> None:
    run_state_machine_as_test(Machine, settings=profile)


@PROFILES
def test_nodes_agree_on_what_they_forget(profile: settings) -> None:
    """Keys beyond the limit and older than a day, with clocks that are days apart."""
    run_state_machine_as_test(ForgetfulMachine, settings=settings(profile, max_examples=profile.max_examples // 4))
