"""The replicated state machine against an adversary.

`BELLWETHER_MODEL=long` runs it for long, with new examples each time; else the examples are the same in each run.
"""

import os

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.model.machine import ForgetfulMachine, Machine

LONG = os.environ.get("BELLWETHER_MODEL") == "long"
PROFILE = settings(
    max_examples=int(os.environ.get("BELLWETHER_MODEL_EXAMPLES", "5000")) if LONG else 250,
    stateful_step_count=150 if LONG else 60,
    derandomize=not LONG,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def test_every_promise_holds_whatever_the_log_and_the_hosts_do() -> None:
    run_state_machine_as_test(Machine, settings=PROFILE)


def test_nodes_agree_on_what_they_forget() -> None:
    """Keys beyond the limit and older than a day, with clocks that are days apart."""
    run_state_machine_as_test(ForgetfulMachine, settings=settings(PROFILE, max_examples=PROFILE.max_examples // 4))
