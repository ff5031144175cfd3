"""A roster to try things on."""

import pytest

from provider.fleet.roster import RESEND_S
from tests.support.rosters import Fleet, agent, hello, instance, observed


@pytest.fixture
def fleet() -> Fleet:
    """Primary p1, agent db1 with an instance of its own; both are there and known to be."""
    fleet = Fleet()
    fleet.commit(agent("db1"), instance("db1", "db1"))
    fleet.hear("db1", hello(observed()))
    fleet.wait(RESEND_S)
    fleet.recorded.clear()
    return fleet
