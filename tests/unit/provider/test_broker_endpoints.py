"""At whose broker a member is."""

import pytest

from provider.broker.endpoints import elsewhere
from provider.core.entries import Change
from provider.core.state import State

OWN = {"node": "rabbit@p2", "version": "4.0.5", "address": "10.0.0.2"}


def cluster(**more: object) -> State:
    spec = {"url": "https://10.0.0.2:8443", "endpoints": ["amqps://10.0.0.2:5671"], **more}
    return State.genesis(generation="g", primary="p1", now=0, changes=(Change(kind="node", id="p2", spec=spec),))


THERE, HERE, WITHIN = "amqps://10.0.0.1:5671", "amqps://10.0.0.2:5671", "amqps://127.0.0.1:5671"


@pytest.mark.parametrize(
    ("state", "connected", "said"),
    [
        (cluster(broker=OWN), [THERE], True),
        (cluster(broker=OWN), [HERE, THERE, WITHIN], True),
        (cluster(broker=OWN), [HERE], False),
        (cluster(broker=OWN), [WITHIN], False),
        (cluster(broker=OWN), [], False),
        (cluster(), [THERE], False),
    ],
    ids=["at another's", "one of its links is", "at its own", "at its own, from within", "at none", "it has none"],
)
def test_a_member_that_uses_another_s_broker_is_told_apart(state: State, connected: list[str], said: bool) -> None:
    found = elsewhere(state, "p2", connected)
    assert (found is not None) == said
    assert found is None or "it uses amqps://10.0.0.1:5671" in found
    assert elsewhere(state, "p9", connected) is None
