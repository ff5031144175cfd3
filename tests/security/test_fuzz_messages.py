"""Invariant: whatever bytes come over the broker, each decoder returns or raises the one error that it documents; what
it accepts can be written down again; and the next message is heard as if nothing had been."""

import json
from pathlib import Path
from typing import Any

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from agent.brokerfile import BrokerSettings
from agent.session import Session
from agent.settings import AgentFiles
from provider.core import entries
from shared import messages as m
from tests.support.fleets import Agent, FleetHost, agent_change, genesis, instance_change
from tests.support.fuzzing import NASTY, effort, nearly
from tests.support.memory_bus import MemoryBroker

KINDS = {"too_large", "not_json", "malformed", "newer_version", "unknown_type"}
CA = trustme.CA(key_type=trustme.KeyType.ECDSA).cert_pem.bytes().decode()
GRANT = m.Grant(database="shop", privileges=("SELECT", "INSERT"))
RESULT = m.Result(name="shop", version=3, phase="failed", message="no")
SEEN = m.ObservedInstance(
    id="db1", engine="mariadb", host="127.0.0.1", port=3306, state="up", message="m", version="11", role="primary",
    read_only=False, uptime_s=5, positions={"gtid": "0-1-2"},
    databases=(m.ObservedDatabase(name="shop", charset="utf8mb4", collation="c", size_bytes=1),),
    accounts=(m.ObservedAccount(name="app", host="%", grants=(GRANT,)),),
    database_results=(RESULT,), account_results=(RESULT.model_copy(update={"phase": "ready"}),),
)  # fmt: skip
WISHES = m.DesiredInstance(
    id="db1",
    databases=(m.DesiredDatabase(name="shop", charset="utf8mb4", collation="c", drop=True, version=4),),
    accounts=(m.DesiredAccount(name="app", grants=(GRANT,), password="p", version=5),),
)
HERE = "amqps://here:5671"
FROM_AGENTS: list[m.Body] = [
    m.Hello(version="1", session="s", epoch=1, revision=1, endpoint=HERE, instances=(SEEN,)),
    m.Pulse(version="1", session="s", epoch=1, revision=1, endpoint=HERE),
    m.Advised(epoch=1, primary="p1"),
    m.Report(revision=3, instances=(SEEN, SEEN)),
]
FROM_PROVIDERS: list[m.Body] = [
    m.Advice(epoch=4, primary="p1", endpoints=(HERE,), providers=("https://p1:1",), vhost="bellwether", ca=CA),
    m.Desired(revision=7, instances=(WISHES,)),
    m.Inquire(),
    m.Beat(interval_s=2.0, spread_s=1.0),
    m.NodePulse(role="standby", state="active", reason="r", version="1", revision=3, digest="d", started="now"),
]


def documents(bodies: list[m.Body], sender: str) -> list[Any]:
    return [json.loads(m.encode(body, sender=sender, epoch=3, trace="t")) for body in bodies]


ANYTHING = st.binary(max_size=200) | NASTY.map(lambda value: json.dumps(value).encode())
MESSAGES = nearly([*documents(FROM_AGENTS, "db1"), *documents(FROM_PROVIDERS, "p1")])


@effort(700)
@given(MESSAGES | ANYTHING)
def test_a_message_is_decoded_or_undecodable(data: bytes) -> None:
    try:
        envelope, body = m.decode(data)
    except m.Undecodable as error:
        assert error.kind in KINDS
        assert len(str(error).encode()) < 2_000
        return
    again, same = m.decode(m.encode(body, sender=envelope.sender, epoch=envelope.epoch, trace=envelope.trace))
    assert (again.sender, again.epoch, same) == (envelope.sender, envelope.epoch, body)
    envelope.model_dump_json()


# ── the log ──────────────────────────────────────────────────────────────────────────────────────────────────────────

CHANGES = [
    entries.Change(kind="setting", id="user.a", spec={"value": [1, {"a": None}]}, status={}),
    entries.Change(kind="database", id="db1/shop", spec=None),
]
COMMIT = entries.Commit(
    principal="token:a", action="PUT", source="::1", key="k", request="r", status=200, target=("setting", "user.a"),
    changes=tuple(CHANGES),
)  # fmt: skip
RECORDS = [
    json.loads(entries.encode(record))
    for record in (
        entries.Entry(id="e", generation="g", epoch=1, seq=2, node="p1", at=5, commits=(COMMIT, COMMIT)),
        entries.Claim(id="c", generation="g", ends=1, node="p2", at=5),
        entries.Barrier(id="b", generation="g", node="p1", at=5),
    )
]


@effort(500)
@given(nearly(RECORDS) | ANYTHING)
def test_a_record_is_decoded_or_unreadable(data: bytes) -> None:
    try:
        record = entries.decode(data)
    except entries.Unreadable as error:
        assert len(str(error).encode()) < 2_000
        return
    assert entries.decode(entries.encode(record)) == record


# ── an agent ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def session() -> Session:
    files = AgentFiles(Path("/nowhere/agent.toml"))
    settings = BrokerSettings(3, "p1", (HERE,), (), "bellwether", CA, files.ca)
    return Session(version="1", session="s", instances=("db1",), broker=settings, files=files)


@effort(300)
@given(nearly(documents(FROM_PROVIDERS, "p1")) | ANYTHING, st.sampled_from(["db1", "all", "", "\ud800"]))
def test_an_agent_makes_something_of_it_or_counts_it(data: bytes, key: str) -> None:
    agent = session()
    agent.seen(SEEN, 0)
    agent.connected(HERE)
    for instruction in agent.message(data, key=key, user="node.p1"):
        repr(instruction).encode("utf-8", "backslashreplace")
    assert len(agent.hello()) == 1


# ── a provider ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def messages() -> list[bytes]:
    """A few hundred, drawn once: each goes to a hub that has heard all before it."""
    drawn: list[bytes] = []

    @effort(300)
    @given(nearly(documents(FROM_AGENTS, "db1")))
    def collect(data: bytes) -> None:
        drawn.append(data)

    collect()
    return drawn


def test_a_provider_hears_the_next_agent_whatever_one_has_said(messages: list[bytes]) -> None:
    broker = MemoryBroker()
    fleet = [agent_change("db1"), instance_change("db1", "db1"), agent_change("db2"), instance_change("db2", "db2")]
    host = FleetHost(broker, genesis(*fleet)).start()
    try:
        agent, other = Agent(broker, "db1"), Agent(broker, "db2")
        for data in messages:
            agent.say_bytes(data)
        other.hello(SEEN.model_copy(update={"id": "db2"}))
        host.until_status("agent", "db2", state="online")
        agent.hello(SEEN.model_copy(update={"version": "after all this"}))
        host.until_status("instance", "db1", version="after all this")
        assert "fault" not in host.hub.undecodable, "something that a daemon did not expect"
        assert sum(host.hub.undecodable.values()) > len(messages) // 4, "most of this was no message"
        agent.close()
        other.close()
    finally:
        host.hub.stop()
