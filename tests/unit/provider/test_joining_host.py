"""A broker that does not answer yet is asked again; one that says no is not."""

import pytest

from provider.broker.host.commands import BrokerAway
from provider.joining.host import patiently
from shared.errors import Refused


def test_a_broker_that_starts_is_waited_for() -> None:
    answers = [BrokerAway("it starts"), BrokerAway("it starts"), None]

    def ask() -> str:
        answer = answers.pop(0)
        if answer is not None:
            raise answer
        return "there"

    assert patiently(ask, pause_s=0.0) == "there"


def test_patience_ends_and_a_refusal_is_final() -> None:
    asked: list[int] = []

    def away() -> None:
        asked.append(1)
        raise BrokerAway("it is off")

    with pytest.raises(BrokerAway):
        patiently(away, patience_s=0.0)

    def refuses() -> None:
        asked.append(1)
        raise Refused("another version")

    with pytest.raises(Refused):
        patiently(refuses)
    assert len(asked) == 2
