"""The agent as a process, on a real broker and a real MariaDB server; the tests play the provider.

What must hold: whatever is restarted in whatever order, the agent says hello again and its server comes to match what
was last wished; nobody of an older epoch is obeyed; nothing that arrives can end the daemon.
"""

import json
import os
import signal

import psutil
from localcluster.broker import Broker

from shared.messages import Advised, Hello, Inquire, Pulse, Report
from tests.support.agents import Agent, Query, advice, desired, has_result, wait
from tests.support.provider_side import ProviderSide


def test_hello_wishes_report_pulses(agent: Agent, provider: ProviderSide, query: Query) -> None:
    agent.start()
    hello = provider.wait_for(Hello)
    (instance,) = hello.instances
    assert (hello.epoch, hello.revision, instance.state, instance.role) == (1, 0, "up", "primary")
    envelope, _, delivery = provider.heard[0]
    assert (envelope.sender, delivery.user_id, delivery.key) == ("db1", "db1", "hello.db1")

    provider.tell(
        desired(
            5,
            databases=(
                {"name": "shop", "charset": "utf8mb4"},
                {"name": "bad", "charset": "klingon"},
                {"name": "mysql"},
            ),
            accounts=({"name": "app", "password": "pw", "grants": [{"database": "shop", "privileges": ["SELECT"]}]},),
        )
    )
    report = provider.wait_for(Report, lambda one: one.revision == 5)
    (instance,) = report.instances
    results = {result.name: result for result in instance.database_results}
    assert {name: result.phase for name, result in results.items()} == {
        "shop": "ready",
        "bad": "failed",
        "mysql": "failed",
    }
    assert results["bad"].message == "Unknown character set: 'klingon'"
    assert all(result.version == 5 for result in results.values())
    assert [(one.name, one.phase) for one in instance.account_results] == [("app", "ready")]
    assert [(one.name, one.charset) for one in instance.databases] == [("shop", "utf8mb4")]
    assert query("SHOW GRANTS FOR app")[1][0] == "GRANT SELECT ON `shop`.* TO `app`@`%`"
    pulse = provider.wait_for(Pulse, lambda one: one.revision == 5)
    assert pulse.session == hello.session

    provider.tell(desired(6, databases=({"name": "shop", "drop": True},)))
    provider.wait_for(Report, has_result("shop", "dropped"))
    assert not query("SHOW DATABASES LIKE 'shop'")


def test_what_others_change_is_reported_and_put_right(agent: Agent, provider: ProviderSide, query: Query) -> None:
    agent.start()
    provider.wait_for(Hello)
    provider.tell(desired(1, databases=({"name": "shop"},)))
    provider.wait_for(Report, has_result("shop", "ready"))
    query("CREATE DATABASE other")
    provider.wait_for(Report, lambda one: any(d.name == "other" for d in one.instances[0].databases))
    query("DROP DATABASE shop")
    wait(lambda: query("SHOW DATABASES LIKE 'shop'"), "the database is made again")
    query("SET GLOBAL read_only=1")
    try:
        provider.wait_for(Report, lambda one: one.instances[0].read_only is True)
    finally:
        query("SET GLOBAL read_only=0")


def test_the_same_wishes_again_are_answered_again(agent: Agent, provider: ProviderSide) -> None:
    agent.start()
    provider.wait_for(Hello)
    for _ in range(2):
        before = provider.now
        provider.tell(desired(3, databases=({"name": "shop"},)))
        provider.wait_for(Report, lambda one: one.revision == 3, after=before)


def test_inquire_is_answered_with_hello(agent: Agent, provider: ProviderSide) -> None:
    agent.start()
    provider.wait_for(Hello)
    for key in ("db1", "all"):
        before = provider.now
        provider.tell(Inquire(), to=key, epoch=0)
        provider.wait_for(Hello, after=before)


def test_sigterm_ends_it_cleanly(agent: Agent, provider: ProviderSide) -> None:
    process = agent.start()
    provider.wait_for(Hello)
    wait(lambda: agent.status()["endpoint"], "status tells the connection")
    os.kill(process.pid, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(process.pid, 0)[1]) == 0
    assert agent.status()["state"] == "stopped"


def test_it_opens_no_port_and_stays_small(agent: Agent, provider: ProviderSide) -> None:
    process = agent.start()
    provider.wait_for(Hello)
    seen = psutil.Process(process.pid)
    assert [one for one in seen.net_connections() if one.status == psutil.CONN_LISTEN] == []
    assert seen.memory_info().rss <= 45 * 1024 * 1024


def test_status_tells_what_there_is(agent: Agent, provider: ProviderSide, broker: Broker) -> None:
    agent.start()
    provider.wait_for(Hello)
    provider.tell(desired(4, databases=({"name": "bad", "charset": "klingon"},)))
    provider.wait_for(Report, lambda one: one.revision == 4)
    wait(lambda: agent.status()["revision"] == 4 and agent.status()["instances"][0]["failed"], "status has the result")
    status = agent.status()
    assert (status["endpoint"], status["epoch"], status["primary"]) == (broker.endpoint, 1, "p1")
    assert status["instances"][0]["failed"] == ["bad: Unknown character set: 'klingon'"]
    assert agent.process is not None
    agent.process.kill()
    assert agent.status()["state"] == "stopped"


# ── advice and epochs ──


def test_advice_is_kept_and_acknowledged(agent: Agent, provider: ProviderSide, broker: Broker) -> None:
    agent.start()
    provider.wait_for(Hello)
    for _ in range(2):  # the provider asks again until it has the answer
        before = provider.now
        provider.tell(advice(broker, epoch=2, primary="p2"), epoch=2)
        advised = provider.wait_for(Advised, after=before)
        assert (advised.epoch, advised.primary) == (2, "p2")
    content = json.loads(agent.broker_json.read_text())
    assert (content["epoch"], content["primary"]) == (2, "p2")
    assert agent.broker_json.stat().st_mode & 0o777 == 0o600


def test_a_deposed_primary_commands_nobody_also_after_a_restart(
    agent: Agent, provider: ProviderSide, broker: Broker, query: Query
) -> None:
    agent.start()
    provider.wait_for(Hello)
    provider.tell(desired(3, databases=({"name": "mine"},)), epoch=4)  # its advice has not come yet
    provider.wait_for(Report, has_result("mine", "ready"))
    before = provider.now
    agent.stop()
    agent.start()
    assert provider.wait_for(Hello, after=before).epoch == 4
    provider.tell(desired(9, databases=({"name": "mine", "drop": True}, {"name": "theirs"})), epoch=3)
    provider.tell(advice(broker, epoch=3, primary="p9"), epoch=3)
    provider.tell(desired(4, databases=({"name": "mine"},)), epoch=4)
    provider.wait_for(Report, lambda one: one.revision == 4, after=before)
    assert query("SHOW DATABASES LIKE 'mine'")
    assert not query("SHOW DATABASES LIKE 'theirs'")
    assert json.loads(agent.broker_json.read_text())["epoch"] == 4
    assert agent.status()["skipped"] == {"stale_epoch": 2}


def test_older_wishes_than_those_held_are_ignored(agent: Agent, provider: ProviderSide, query: Query) -> None:
    agent.start()
    provider.wait_for(Hello)
    provider.tell(desired(8, databases=({"name": "newer"},)))
    provider.tell(desired(7, databases=({"name": "older"},)))
    provider.tell(desired(9, databases=({"name": "newest"},)))
    provider.wait_for(Report, lambda one: one.revision == 9)
    assert {name for (name,) in query("SHOW DATABASES")} >= {"newest"}
    assert not query("SHOW DATABASES LIKE 'older'")


def test_new_endpoints_move_the_connection_and_wrong_ones_do_not_cut_it(
    agent: Agent, provider: ProviderSide, broker: Broker
) -> None:
    agent.start()
    provider.wait_for(Hello)
    nowhere = "amqps://127.0.0.1:1"
    provider.tell(advice(broker, epoch=2, endpoints=(nowhere,)), epoch=2)
    provider.wait_for(Advised, lambda one: one.epoch == 2)
    before = provider.now
    provider.wait_for(Pulse, lambda one: one.epoch == 2 and one.endpoint == broker.endpoint, after=before)
    # By another name of the same host, so that there is a difference to be seen.
    other = broker.endpoint.replace("127.0.0.1", "localhost")
    provider.tell(advice(broker, epoch=3, endpoints=(nowhere, other)), epoch=3)
    assert provider.wait_for(Hello, lambda one: one.epoch == 3).endpoint == other
    before = provider.now
    provider.wait_for(Pulse, lambda one: one.endpoint == other, after=before)
