"""The agent as a process, on a real broker and a real MariaDB server; the tests play the provider.

What must hold: whatever is restarted in whatever order, the agent says hello again and its server comes to match what
was last wished; nobody of an older epoch is obeyed; nothing that arrives can end the daemon.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from localcluster.broker import Broker
from localcluster.mariadb import MariaDB as Server
from localcluster.process import Process, tail, wait_until
from localcluster.process import start as start_process

from shared.bus import Credentials
from shared.files import write_atomically
from shared.messages import MAX_BYTES, Advice, Advised, Desired, DesiredInstance, Hello, Inquire, Pulse, Report
from tests.support.provider_side import ProviderSide

Query = Callable[..., list[tuple[Any, ...]]]

pytestmark = pytest.mark.usefixtures("clean")
PASSWORD = "broker-password"
PROGRAM = Path(sys.executable).with_name("agent")


@dataclass
class Agent:
    directory: Path
    process: Process | None = None

    @property
    def config(self) -> Path:
        return self.directory / "agent.toml"

    @property
    def broker_json(self) -> Path:
        return self.directory / "broker.json"

    def start(self) -> Process:
        self.process = start_process([PROGRAM, "run", "--config", self.config], log=self.directory / "agent.log")
        return self.process

    def stop(self) -> None:
        if self.process is not None:
            self.process.stop()

    def log(self) -> str:
        return tail(self.directory / "agent.log", 200)

    def status(self) -> dict[str, Any]:
        done = subprocess.run(
            [PROGRAM, "status", "--json", "--config", self.config], capture_output=True, text=True, check=False
        )
        content: dict[str, Any] = json.loads(done.stdout)
        assert done.returncode == (0 if content["state"] == "running" else 1)
        return content

    def edit(self, **changes: Any) -> None:
        """As an editor does: aside, then renamed over."""
        content = json.loads(self.broker_json.read_text()) | changes
        aside = self.directory / "broker.json~"
        aside.write_text(json.dumps(content))
        aside.replace(self.broker_json)


def advice(broker: Broker, **more: Any) -> Advice:
    content = {
        "epoch": 1,
        "primary": "p1",
        "endpoints": (broker.endpoint,),
        "providers": ("https://127.0.0.1:1",),
        "vhost": "bellwether",
        "ca": broker.ca.read_text(),
    }
    return Advice.model_validate(content | more)


@pytest.fixture
def provider(broker: Broker) -> Iterator[ProviderSide]:
    side = ProviderSide(broker.endpoint, Credentials("provider", PASSWORD, str(broker.ca)))
    yield side
    side.close()


@pytest.fixture
def agent(tmp_path: Path, broker: Broker, mariadb: Server) -> Iterator[Agent]:
    """An agent that is enrolled as `db1`, with quick timings; not started. It must end by itself on SIGTERM."""
    made = Agent(tmp_path)
    made.config.write_text(
        f'id = "db1"\npulse_s = 0.5\nstagger_s = 0.1\n[[instances]]\nid = "db1"\nsocket = "{mariadb.socket}"\n'
        f'user = "{mariadb.user}"\nprobe_s = 0.3\nlook_s = 1.0\nsizes_s = 60\nretry_s = 1.0\nread_timeout_s = 1.5\n'
    )
    shutil.copy(broker.ca, tmp_path / "ca.pem")
    write_atomically(tmp_path / "broker.password", PASSWORD)
    content = advice(broker).model_dump(exclude={"credential"}) | {"ca": "ca.pem"}
    made.broker_json.write_text(json.dumps(content))
    yield made
    if made.process is not None:
        made.process.resume()
        made.stop()
    assert "unexpected error" not in made.log(), made.log()


def desired(revision: int, *, databases: tuple[dict[str, Any], ...] = (), accounts: tuple[Any, ...] = ()) -> Desired:
    content = {
        "id": "db1",
        "databases": [{"version": revision} | one for one in databases],
        "accounts": [{"version": revision} | one for one in accounts],
    }
    return Desired(revision=revision, instances=(DesiredInstance.model_validate(content),))


def has_result(name: str, phase: str) -> Callable[[Report], bool]:
    def check(report: Report) -> bool:
        results = [*report.instances[0].database_results, *report.instances[0].account_results]
        return any(result.name == name and result.phase == phase for result in results)

    return check


def is_state(state: str) -> Callable[[Report], bool]:
    return lambda report: report.instances[0].state == state


def wait(condition: Callable[[], object], what: str) -> None:
    wait_until(condition, timeout_s=15.0, what=what)


# ── the ordinary day ─────────────────────────────────────────────────────────────────────────────────────────────────


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


# ── advice and epochs ────────────────────────────────────────────────────────────────────────────────────────────────


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


# ── broker.json by hand ──────────────────────────────────────────────────────────────────────────────────────────────


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


# ── bad days ─────────────────────────────────────────────────────────────────────────────────────────────────────────

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
