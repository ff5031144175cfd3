"""A broker that does not answer yet is asked again; one that says no is not."""

import pytest

from provider.broker.host.commands import BrokerAway
from provider.joining.patience import patiently
from shared.errors import BellwetherError, Refused


def away(error: BellwetherError) -> bool:
    return isinstance(error, BrokerAway)


def test_a_broker_that_starts_is_waited_for() -> None:
    answers = [BrokerAway("it starts"), BrokerAway("it starts"), None]

    def ask() -> str:
        answer = answers.pop(0)
        if answer is not None:
            raise answer
        return "there"

    told: list[str] = []
    assert patiently(ask, away, told.append, 60.0, pause_s=0.0) == "there"
    assert told == ["waiting: it starts"], "once"


def test_patience_ends_and_a_refusal_is_final() -> None:
    asked: list[int] = []
    told: list[str] = []

    def off() -> None:
        asked.append(1)
        raise BrokerAway("it is off")

    with pytest.raises(BrokerAway):
        patiently(off, away, told.append, 0.0)

    def refuses() -> None:
        asked.append(1)
        raise Refused("another version")

    with pytest.raises(Refused):
        patiently(refuses, away, told.append, 60.0)
    assert (len(asked), told) == (2, [])
