"""The hub, on a broker in memory: what it tells agents, what it makes of what they say."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from provider.core.commands import RecordStatus, RegisterInstance
from provider.core.entries import Change
from shared import messages as m
from tests.support.fleets import PROVIDERS_USER, Agent, FleetHost, agent_change, genesis, instance_change
from tests.support.memory_bus import MemoryBroker

StartAgent = Callable[..., Agent]
StartHub = Callable[..., FleetHost]
FLEET = (agent_change("db1"), instance_change("db1", "db1"))


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker()


@pytest.fixture
def start_hub(broker: MemoryBroker) -> Iterator[StartHub]:
    """`start_hub(*changes, name="p1", offline_after_s=60.0)`: p1 is the primary."""
    hosts: list[FleetHost] = []

    def start(*changes: Change, name: str = "p1", offline_after_s: float = 60.0) -> FleetHost:
        state = genesis(*(changes or FLEET), offline_after_s=offline_after_s)
        hosts.append(FleetHost(broker, state, name=name).start())
        return hosts[-1]

    yield start
    for host in hosts:
        host.hub.stop()


@pytest.fixture
def start_agent(broker: MemoryBroker) -> Iterator[StartAgent]:
    agents: list[Agent] = []

    def start(name: str = "db1", **options: str) -> Agent:
        agents.append(Agent(broker, name, **options))
        return agents[-1]

    yield start
    for agent in agents:
        agent.close()


def seen(**fields: object) -> m.ObservedInstance:
    return m.ObservedInstance.model_validate(
        {"id": "db1", "engine": "mariadb", "state": "up", "version": "11"} | fields
    )


def database(name: str, *, phase: str = "pending") -> Change:
    return Change(kind="database", id=f"db1/{name}", spec={"charset": "utf8mb4"}, status={"phase": phase})


def setting(key: str, value: object) -> Change:
    return Change(kind="setting", id=key, spec={"value": value})


def names(desired: m.Desired) -> set[str]:
    return {database.name for instance in desired.instances for database in instance.databases}


# ── what agents are told ─────────────────────────────────────────────────────────────────────────────────────────────


def test_a_hello_is_answered_with_all_that_is_desired_and_recorded(
    start_hub: StartHub, start_agent: StartAgent
) -> None:
    host = start_hub(*FLEET, database("shop"), Change(
        kind="account", id="db1/app", spec={"host": "%", "grants": [], "password": "sealed s3cret"},
        status={"phase": "pending"}))  # fmt: skip
    agent = start_agent()
    agent.hello(seen())
    desired = agent.until_heard(m.Desired)
    assert names(desired) == {"shop"}
    assert desired.instances[0].accounts[0].password == "s3cret"
    host.until_status("agent", "db1", state="online", epoch=1)
    host.until_status("instance", "db1", state="up", version="11")


def test_one_that_follows_an_older_epoch_is_advised_again_and_again_until_it_follows(
    start_hub: StartHub, start_agent: StartAgent
) -> None:
    host = start_hub()
    host.claim("p2")
    host.claim("p1")
    agent = start_agent()
    agent.hello(seen())
    # What was said in epoch 1, when the hub's link came up, may be among what it heard.
    agent.until(lambda: [a.epoch for a in agent.of(m.Advice)].count(3) >= 3, "it is not advised again")
    agent.say(m.Advised(epoch=3, primary="p1"))
    host.until(lambda: host.hub.view.agents["db1"].epoch == 3, "the acknowledgement is not heard")
    known = len(agent.of(m.Advice))
    agent.pulse(epoch=3)
    host.until_status("agent", "db1", epoch=3)
    assert len(agent.of(m.Advice)) <= known + 1  # one may have been on its way


def test_one_that_is_silent_is_not_advised_until_it_speaks(start_hub: StartHub, start_agent: StartAgent) -> None:
    host = start_hub(offline_after_s=0.3)
    host.claim("p2")
    host.claim("p1")
    agent = start_agent()
    agent.hello(seen())
    host.until_status("agent", "db1", state="online")
    host.until_status("agent", "db1", state="offline")
    known = len(agent.of(m.Advice))
    threading.Event().wait(1.5)  # it would be advised once a second by now: nothing happens that could be waited for
    assert len(agent.of(m.Advice)) == known
    agent.pulse()
    agent.until_heard(m.Advice, after=known)
    host.until_status("agent", "db1", state="online")


def test_a_burst_of_writes_becomes_a_few_messages_and_the_last_one_has_them_all(
    start_hub: StartHub, start_agent: StartAgent
) -> None:
    host, agent = start_hub(), start_agent()
    agent.hello(seen())
    agent.until_heard(m.Desired)
    began_s = time.monotonic()
    for number in range(200):
        host.change(database(f"d{number}"))
    agent.until_heard(m.Desired, lambda desired: len(names(desired)) == 200)
    took_s = time.monotonic() - began_s
    assert len(agent.of(m.Desired)) <= 3 + took_s / 0.1


def test_a_change_of_what_is_desired_concerns_its_agent_alone(start_hub: StartHub, start_agent: StartAgent) -> None:
    host = start_hub(*FLEET, agent_change("db2"), instance_change("db2", "db2"))
    db1, db2 = start_agent("db1"), start_agent("db2")
    for agent in (db1, db2):
        agent.hello()
        agent.until_heard(m.Desired)
    host.change(database("shop"))
    db1.until_heard(m.Desired, lambda desired: names(desired) == {"shop"})
    assert len(db2.of(m.Desired)) == 1


def test_a_database_is_dropped_and_then_forgotten(start_hub: StartHub, start_agent: StartAgent) -> None:
    host, agent = start_hub(*FLEET, database("shop")), start_agent()
    agent.hello(seen())
    version = agent.until_heard(m.Desired).instances[0].databases[0].version
    agent.say(m.Report(revision=1, instances=(seen(database_results=[result("shop", version, "ready")]),)))
    host.until_status("database", "db1/shop", phase="ready")
    host.change(database("shop", phase="dropping"))
    wish = agent.until_heard(m.Desired, lambda desired: desired.instances[0].databases[0].drop)
    version = wish.instances[0].databases[0].version
    failed = result("shop", version, "failed") | {"message": "in use"}
    agent.say(m.Report(revision=2, instances=(seen(database_results=[failed]),)))
    host.until_status("database", "db1/shop", phase="dropping", message="in use")
    agent.say(m.Report(revision=2, instances=(seen(database_results=[result("shop", version, "dropped")]),)))
    host.until(lambda: host.state.get("database", "db1/shop") is None, "it is not forgotten")
    agent.until_heard(m.Desired, lambda desired: not names(desired), after=1)


def result(name: str, version: int, phase: str) -> dict[str, object]:
    return {"name": name, "version": version, "phase": phase}


def test_a_result_of_an_older_wish_says_nothing(start_hub: StartHub, start_agent: StartAgent) -> None:
    host, agent = start_hub(*FLEET, database("shop")), start_agent()
    agent.hello(seen())
    version = agent.until_heard(m.Desired).instances[0].databases[0].version
    host.change(database("shop"))
    agent.say(
        m.Report(revision=1, instances=(seen(version="12", database_results=[result("shop", version, "ready")]),))
    )
    host.until_status("instance", "db1", version="12")
    assert host.status("database", "db1/shop") == {"phase": "pending"}


# ── coming, going, changing ──────────────────────────────────────────────────────────────────────────────────────────


def test_silence_is_noticed_and_so_is_the_return(start_hub: StartHub, start_agent: StartAgent) -> None:
    host, agent = start_hub(offline_after_s=0.3), start_agent()
    agent.hello(seen())
    host.until_status("instance", "db1", state="up")
    host.until_status("agent", "db1", state="offline")
    host.until_status("instance", "db1", state="unknown", version="11")
    agent.pulse()
    host.until_status("agent", "db1", state="online")
    host.until_status("instance", "db1", state="up")
    assert "message" not in host.status("instance", "db1")


def test_a_broker_that_breaks_says_nothing_about_agents(
    start_hub: StartHub, start_agent: StartAgent, broker: MemoryBroker
) -> None:
    host, agent = start_hub(), start_agent()
    agent.hello(seen())
    host.until_status("agent", "db1", state="online")
    inquired = len(agent.of(m.Inquire))
    broker.cut("p1")
    agent.until_heard(m.Inquire, after=inquired)

    def answered() -> bool:
        """An inquiry of before the cut may have come late; what answers it can be lost with the old queue."""
        agent.hello(seen(version="12"))
        return host.status("instance", "db1").get("version") == "12"

    host.until(answered, "what is said after the cut is not heard")


def test_a_standby_listens_and_is_silent_and_knows_the_fleet_when_it_is_promoted(
    start_hub: StartHub, start_agent: StartAgent
) -> None:
    host = start_hub(*FLEET, database("shop"), name="p2")
    agent = start_agent()
    agent.hello(seen())
    host.until(lambda: "db1" in host.hub.view.agents, "a standby does not listen")
    assert host.asked == []
    assert not agent.of(m.Desired)
    host.claim("p2")
    assert agent.until_heard(m.Advice).primary == "p2"
    assert names(agent.until_heard(m.Desired)) == {"shop"}
    host.until_status("agent", "db1", state="online")
    host.until_status("instance", "db1", state="up")


def test_one_that_fell_silent_long_before_the_promotion_does_not_come_back_to_life_by_it(
    start_hub: StartHub, start_agent: StartAgent
) -> None:
    host = start_hub(
        agent_change("db1", state="offline"), instance_change("db1", "db1"), name="p2", offline_after_s=0.2
    )
    agent = start_agent()
    agent.hello(seen())
    host.until(lambda: "db1" in host.hub.view.agents, "a standby does not listen")
    threading.Event().wait(0.4)  # the silence
    host.claim("p2")
    threading.Event().wait(1.3)  # a tick and more
    assert host.asked == []
    assert host.status("agent", "db1")["state"] == "offline"


def test_an_instance_that_nobody_knows_is_registered_also_where_the_first_attempt_fails(
    start_hub: StartHub, start_agent: StartAgent
) -> None:
    host, agent = start_hub(agent_change("db1")), start_agent()
    host.accepts = False
    agent.hello(seen(id="new", port=3306, host="127.0.0.1"))
    host.until(lambda: any(isinstance(c, RegisterInstance) for c in host.asked), "it is not registered")
    host.accepts = True
    host.until_status("instance", "new", state="up")
    assert host.state.get("instance", "new").spec["port"] == 3306  # type: ignore[union-attr]


def test_a_primary_that_cannot_commit_does_not_beat_so_that_agents_look_for_another(
    start_hub: StartHub, start_agent: StartAgent
) -> None:
    host, agent = start_hub(), start_agent()
    agent.until_heard(m.Beat)
    host.commits = False
    asked = host.beats_due
    host.until(lambda: host.beats_due >= asked + 2, "no beat is due")
    beats = len(agent.of(m.Beat))
    host.commits = True
    agent.until_heard(m.Beat, after=beats)
    assert len(agent.of(m.Beat)) <= host.beats_due - 2


def test_a_removed_agent_is_forgotten(start_hub: StartHub, start_agent: StartAgent) -> None:
    host, agent = start_hub(), start_agent()
    agent.hello(seen())
    host.until_status("agent", "db1", state="online")
    host.change(Change(kind="agent", id="db1"))
    agent.pulse()
    host.until(lambda: not host.hub.view.agents, "it is remembered for ever")


def test_a_node_that_has_just_started_is_answered_at_once(start_hub: StartHub) -> None:
    p1 = start_hub()
    p1.until(lambda: "p1" in p1.hub.view.nodes, "no pulse")
    p2 = start_hub(name="p2")
    p2.until(lambda: "p1" in p2.hub.view.nodes, "p1 does not answer", timeout_s=5.0)
    p1.until(lambda: "p2" in p1.hub.view.nodes, "p2 is not heard")
    assert p2.hub.view.nodes["p1"].pulse.role == "primary"


# ── bad days ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_cannot_be_recorded_is_tried_again_but_not_as_fast_as_it_can_be_refused(
    start_hub: StartHub, start_agent: StartAgent
) -> None:
    """A full disk refuses at once: to ask again at once would keep both processors busy."""
    host, agent = start_hub(), start_agent()
    host.accepts = False
    agent.hello(seen())
    began_s = time.monotonic()
    host.until(lambda: len(host.asked) >= 3, "it is not tried again")
    took_s = time.monotonic() - began_s
    assert took_s > 1.0
    assert all(isinstance(command, RecordStatus) for command in host.asked)
    host.accepts = True
    host.until_status("agent", "db1", state="online")
    host.until_status("instance", "db1", state="up")


def test_what_is_no_message_for_us_is_counted_and_told_once(
    start_hub: StartHub, start_agent: StartAgent, lines: list[str]
) -> None:
    host, agent = start_hub(), start_agent()
    pulse = {"version": "1", "session": "s", "epoch": 1, "revision": 0, "endpoint": "e"}
    envelope = {"v": 1, "type": "pulse", "id": "i", "sender": "db1", "epoch": 1, "at": "t", "body": pulse}

    def said(**changes: object) -> bytes:
        return json(envelope | changes)

    bad = {
        "not_json": [b"", b"\xff", b"{", b"[" * 100_000],
        "malformed": [
            b"[]",
            b"1",
            said(body={}),
            said(body=pulse | {"epoch": -1}),
            said(body=pulse | {"epoch": 2**63}),
            said(body=pulse | {"revision": 10**400}),
            said(body=pulse | {"surprise": 1}),
            said(
                type="hello", body=pulse | {"instances": [{"id": "x", "engine": "mariadb", "state": "up", "port": 0}]}
            ),
        ],
        "newer_version": [said(v=2)],
        "unknown_type": [said(type="order"), said(v=0)],
        "too_large": [b" " * (m.MAX_BYTES + 1)],
    }
    for messages in bad.values():
        for data in messages * 2:
            agent.say_bytes(data)
    counts = {kind: len(messages) * 2 for kind, messages in bad.items()}
    host.until(lambda: host.hub.undecodable == counts, f"counted {host.hub.undecodable}, not {counts}")
    agent.hello(seen())
    host.until_status("agent", "db1", state="online")
    skipped = [line for line in lines if "message skipped" in line]
    assert len(skipped) == len(bad)
    assert not [line for line in lines if line not in skipped]


def json(value: object) -> bytes:
    from json import dumps

    return dumps(value).encode()


def test_nobody_speaks_for_another(start_hub: StartHub, start_agent: StartAgent, lines: list[str]) -> None:
    """An agent that says it is another one; or a provider; or what only providers say to agents."""
    host = start_hub(*FLEET, agent_change("db2"))
    thief = start_agent("db2")
    body = m.Pulse(version="1", session="s", epoch=9, revision=0, endpoint="e")
    node = m.NodePulse(role="primary", state="active", version="1", revision=99, digest="d", started="x")
    thief.say(body, sender="db1")
    thief.say(node, sender="p2")
    host.until(lambda: host.hub.undecodable.get("forged", 0) == 2, "forgeries are believed")
    thief.say(m.Inquire())
    host.until(lambda: sum(host.hub.undecodable.values()) == 3, "it is believed")
    assert [(r.user, r.type, r.kind) for r in host.refused] == [
        ("db2", type_, "forged") for type_ in ("pulse", "node_pulse", "inquire")
    ]
    assert "db1" not in host.hub.view.agents
    assert "p2" not in host.hub.view.nodes
    assert len([line for line in lines if "forged" in line]) == 1
    provider = start_agent("p2", user=PROVIDERS_USER)
    provider.say(node)
    host.until(lambda: "p2" in host.hub.view.nodes, "a node is not believed")


def test_an_agent_for_whom_nothing_can_be_made_does_not_stand_in_the_way_of_others(
    start_hub: StartHub, start_agent: StartAgent, lines: list[str]
) -> None:
    """The password of one account cannot be unsealed: with another key, say. The hub goes on, and says it once."""
    host = start_hub(
        *FLEET, agent_change("db2"), instance_change("db2", "db2"),
        Change(kind="account", id="db1/app", spec={"password": "sealed x"}, status={"phase": "pending"}),
    )  # fmt: skip

    def unseal(sealed: str, context: str) -> str:
        raise ValueError("cannot be unsealed")

    host.unseal = unseal
    db1, db2 = start_agent("db1"), start_agent("db2")
    for _ in range(3):
        db1.hello(seen())
    db2.hello()
    db2.until_heard(m.Desired)
    host.until_status("agent", "db1", state="online")
    assert host.hub.undecodable["fault"] >= 1
    assert len([line for line in lines if "could not be done" in line]) == 1


def test_a_storm_of_messages_is_not_a_storm_of_notices(start_hub: StartHub, start_agent: StartAgent) -> None:
    host, agent = start_hub(*FLEET, setting("agents.messages_per_s", 10_000)), start_agent()
    threading.Event().wait(1.2)  # the setting is looked at once a second
    agent.hello(seen())
    host.until_status("agent", "db1", state="online")
    before, began_s = host.changes, time.monotonic()
    for epoch in range(1, 1001):
        agent.pulse(epoch=epoch)
    host.until(lambda: host.hub.view.agents["db1"].epoch == 1000, "not all are heard")
    host.until(lambda: host.changes > before, "no notice")
    assert host.changes - before <= 2 + (time.monotonic() - began_s) / 0.05


def test_a_flood_is_dropped_unread_and_its_sender_cut_off_while_others_are_heard(
    start_hub: StartHub, start_agent: StartAgent, lines: list[str]
) -> None:
    host = start_hub(*FLEET, agent_change("db2"), setting("agents.messages_per_s", 5))
    flood, other = start_agent("db1"), start_agent("db2")
    stop = threading.Event()

    def shout() -> None:
        while not stop.wait(0.005):
            flood.say_bytes(b"not even a message")

    thread = threading.Thread(target=shout)
    thread.start()
    try:
        host.until(lambda: "db1" in host.hub.suspended, "it is never cut off")
        other.hello()
        host.until_status("agent", "db2", state="online")
    finally:
        stop.set()
        thread.join()
    assert host.suspended == [["db1"]]
    assert host.hub.undecodable["over_limit"] > 100
    assert host.hub.undecodable["not_json"] < 150, "what is over the limit is not read"
    limited = host.hub.view.limited["db1"]
    assert limited.dropped > 100
    assert limited.until_s is not None
    assert "db2" not in host.hub.view.limited
    assert [line for line in lines if "cut off" in line]


def test_who_does_not_say_who_it_is_is_not_read(start_hub: StartHub, start_agent: StartAgent) -> None:
    host = start_hub()
    start_agent("db1", user="").pulse()
    host.until(lambda: host.hub.undecodable == {"anonymous": 1}, f"{host.hub.undecodable}")
    assert host.refused == []
