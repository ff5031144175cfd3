"""The agent's bad days: what it is sent is no message, or its server, its broker or itself is killed."""

import json
import signal

import pytest
from localcluster.broker import Broker
from localcluster.mariadb import MariaDB as Server

from shared.bus import Credentials
from shared.messages import MAX_BYTES, Desired, DesiredInstance, Hello, Pulse, Report
from tests.support.agents import PASSWORD, Agent, Query, desired, has_result, is_state, wait
from tests.support.provider_side import ProviderSide

ENVELOPE = {"v": 1, "type": "desired", "id": "x", "sender": "p1", "epoch": 1, "at": "now", "body": {}}


def test_nothing_that_arrives_ends_the_daemon(agent: Agent, provider: ProviderSide) -> None:
    agent.start()
    provider.wait_for(Hello)
    odd = [
        b"no json",
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b"null",
        json.dumps(ENVELOPE).encode(),
        json.dumps(ENVELOPE | {"v": 2}).encode(),
        json.dumps(ENVELOPE | {"type": "explode"}).encode(),
        json.dumps(ENVELOPE | {"type": "pulse"}).encode(),
        b'"' + b"x" * MAX_BYTES + b'"',
        b'{"v": 1e400}',
    ]
    for data in [*odd, *odd]:
        provider.tell_bytes(data)
    provider.tell(Hello(version="1", session="s", epoch=1, revision=1, endpoint="e", instances=()))
    provider.tell(Desired(revision=2, instances=(DesiredInstance(id="stranger"),)))
    provider.tell(desired(3, databases=({"name": "shop"},)))
    provider.wait_for(Report, has_result("shop", "ready"))
    wait(lambda: agent.status()["skipped"].get("unexpected"), "status counts")
    skipped = agent.status()["skipped"]
    assert skipped["too_large"] == 2
    assert skipped["newer_version"] == 2
    assert skipped["unknown_type"] == 2
    assert skipped["unknown_instance"] == 1
    assert skipped["not_json"] + skipped["malformed"] == 14
    lines = [line for line in agent.log().splitlines() if "message skipped" in line]
    assert len(lines) == len(skipped)


def test_a_killed_database_server_is_reported_at_once_and_again_when_it_is_back(
    agent: Agent, provider: ProviderSide, mariadb: Server, query: Query
) -> None:
    agent.start()
    provider.wait_for(Hello)
    mariadb.kill()
    try:
        down = provider.wait_for(Report, is_state("down"))
        assert "no connection" in (down.instances[0].message or "")
        provider.tell(desired(2, databases=({"name": "shop"},)))
        provider.wait_for(Report, lambda one: one.revision == 2)
        before = provider.now
    finally:
        mariadb.start()
    provider.wait_for(Report, is_state("up"), after=before)
    provider.wait_for(Report, has_result("shop", "ready"), after=before)
    assert query("SHOW DATABASES LIKE 'shop'")


def test_a_database_server_that_hangs_is_reported_down_and_recovers(
    agent: Agent, provider: ProviderSide, mariadb: Server
) -> None:
    agent.start()
    provider.wait_for(Hello)
    assert mariadb.process is not None
    mariadb.process.suspend()
    try:
        provider.wait_for(Report, is_state("down"))
        provider.wait_for(Pulse, after=provider.now)  # the agent itself is well
    finally:
        mariadb.process.resume()
    provider.wait_for(Report, is_state("up"))


def test_it_starts_while_its_server_is_down(agent: Agent, provider: ProviderSide, mariadb: Server) -> None:
    mariadb.stop()
    try:
        agent.start()
        assert provider.wait_for(Hello).instances[0].state == "down"
    finally:
        mariadb.start()
    provider.wait_for(Report, is_state("up"))


def test_the_broker_is_restarted(agent: Agent, broker: Broker, provider: ProviderSide, query: Query) -> None:
    agent.start()
    provider.wait_for(Hello)
    before = provider.now
    broker.kill()
    query("CREATE DATABASE meanwhile")
    broker.start()
    provider.wait_for(Hello, lambda one: bool(one.instances[0].databases), after=before)
    provider.tell(desired(2, databases=({"name": "shop"},)))
    provider.wait_for(Report, has_result("shop", "ready"))


def test_it_starts_while_the_broker_is_down(agent: Agent, broker: Broker) -> None:
    broker.stop()
    try:
        agent.start()
        wait(lambda: agent.status()["state"] == "running", "it runs")
    finally:
        broker.start()
    provider = ProviderSide(broker.endpoint, Credentials("provider", PASSWORD, str(broker.ca)))
    try:
        provider.wait_for(Hello)  # also where the agent was first, and nobody there to hear it
    finally:
        provider.close()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_the_agent_is_restarted(agent: Agent, provider: ProviderSide, query: Query, how: signal.Signals) -> None:
    process = agent.start()
    first = provider.wait_for(Hello)
    provider.tell(desired(2, accounts=({"name": "app", "host": "10.%", "password": "p"},)))
    provider.wait_for(Report, has_result("app", "ready"))
    process.signal(how)
    assert process.wait(10.0)
    before = provider.now
    agent.start()
    assert provider.wait_for(Hello, after=before).session != first.session
    # It still knows which account was its own: the former host goes with the move.
    provider.tell(desired(3, accounts=({"name": "app", "host": "%"},)))
    provider.wait_for(Report, lambda one: one.revision == 3, after=before)
    assert query("SELECT Host FROM mysql.global_priv WHERE User = 'app'") == [("%",)]


def test_a_suspended_agent_goes_on_where_it_was(agent: Agent, provider: ProviderSide) -> None:
    process = agent.start()
    provider.wait_for(Hello)
    process.suspend()
    before = provider.now
    provider.tell(desired(2, databases=({"name": "shop"},)))
    process.resume()
    provider.wait_for(Report, has_result("shop", "ready"), after=before)
