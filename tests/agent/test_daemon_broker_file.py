"""The agent's broker.json, edited by hand: what is right counts at once, what is wrong changes nothing."""

from typing import Any

import pytest
from localcluster.broker import Broker

from shared.messages import Advised, Hello, Pulse
from tests.support.agents import Agent, advice, wait
from tests.support.provider_side import ProviderSide


def test_a_valid_edit_takes_effect_without_a_restart(agent: Agent, provider: ProviderSide, broker: Broker) -> None:
    agent.start()
    provider.wait_for(Hello)
    other = broker.endpoint.replace("127.0.0.1", "localhost")
    agent.edit(epoch=7, primary="p3", endpoints=[other])
    assert provider.wait_for(Advised, lambda one: one.epoch == 7).primary == "p3"
    assert provider.wait_for(Hello, lambda one: one.epoch == 7).endpoint == other
    agent.edit(epoch=2)  # a person's word is final, also backwards
    provider.wait_for(Advised, lambda one: one.epoch == 2)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"epoch": 3}', "null", "\0\0", '{"epoch": "many"}'],
)
def test_an_invalid_edit_changes_nothing_and_is_reported_once(agent: Agent, provider: ProviderSide, text: str) -> None:
    agent.start()
    provider.wait_for(Hello)
    valid = agent.broker_json.read_text()
    agent.broker_json.write_text(text)
    wait(lambda: agent.status()["broker_file_error"], "status tells of the invalid file")
    agent.broker_json.write_text(text + "\n")
    before = provider.now
    provider.wait_for(Pulse, lambda one: one.epoch == 1, after=before)
    agent.broker_json.write_text(valid)
    wait(lambda: not agent.status()["broker_file_error"], "status tells that it is well again")
    assert agent.log().count("is not valid") <= 2  # a reason each, never more
    assert agent.process is not None
    assert agent.process.alive


@pytest.mark.parametrize(
    "change",
    [
        {"endpoints": []},
        {"endpoints": ["http://127.0.0.1:1"]},
        {"endpoints": ["amqps://:5671"]},
        {"ca": "missing.pem"},
        {"ca": "-----BEGIN CERTIFICATE-----\nnot base64\n-----END CERTIFICATE-----\n"},
        {"epoch": -1},
        {"surprise": True},
    ],
)
def test_an_edit_that_could_not_work_is_refused(agent: Agent, provider: ProviderSide, change: dict[str, Any]) -> None:
    agent.start()
    provider.wait_for(Hello)
    agent.edit(**{"epoch": 9} | change)
    wait(lambda: agent.status()["broker_file_error"], "status tells of the invalid file")
    assert agent.status()["epoch"] == 1


def test_its_own_writes_do_not_wake_it(agent: Agent, provider: ProviderSide, broker: Broker) -> None:
    agent.start()
    provider.wait_for(Hello)
    provider.tell(advice(broker, epoch=2), epoch=2)
    provider.wait_for(Advised, lambda one: one.epoch == 2)
    provider.wait_for(Pulse, after=provider.now)
    provider.wait_for(Pulse, after=provider.now)
    assert "was edited" not in agent.log()
    assert sum(isinstance(body, Advised) for _, body, _ in provider.heard) == 1


def test_the_ca_may_stand_in_broker_json_itself(agent: Agent, provider: ProviderSide, broker: Broker) -> None:
    (agent.directory / "ca.pem").unlink()
    agent.edit(ca=broker.ca.read_text())
    agent.start()
    provider.wait_for(Hello)
