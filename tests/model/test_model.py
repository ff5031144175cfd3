"""The replicated state machine against an adversary."""

from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from tests.model.machine import ForgetfulMachine, Machine
from tests.model.profiles import profiles

PROFILES = profiles(60, 150)


@PROFILES
def test_every_promise_holds_whatever_the_log_and_the_hosts_do(profile: settings) -> None:
    run_state_machine_as_test(Machine, settings=profile)


@PROFILES
def test_nodes_agree_on_what_they_forget(profile: settings) -> None:
    """Keys beyond the limit and older than a day, with clocks that are days apart."""
    run_state_machine_as_test(ForgetfulMachine, settings=settings(profile, max_examples=profile.max_examples // 4))
