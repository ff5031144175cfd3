"""An agent's own password on the broker: changed while it works, kept while it is away, of no use once it is removed.

Invariant: at every moment the agent can log in with what is on its disk, and nobody who was removed can.
"""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pika
import pytest
from localcluster.cluster import Cluster
from localcluster.process import ProcessFailed, tail, wait_until
from pika.exceptions import AMQPError

from shared.messages import up_key
from tests.cluster.conftest import StartCluster
from tests.support.amqp import Rogue, channel, enrolled
from tests.support.api import Client, client
from tests.support.nodes import primary_of

RATE = 50
"""Commands a second."""
DATABASES = 900
"""At most: one page of them."""


@pytest.fixture(scope="module")
def own(start_cluster: StartCluster) -> Cluster:
    return start_cluster(providers=2, databases=1)


@pytest.fixture
def admin(own: Cluster) -> Client:
    return client(own, primary_of(own))


def password(cluster: Cluster) -> str:
    return (cluster.agents["db1"].files.directory / "broker.password").read_text().strip()


def opens(cluster: Cluster, secret: str, user: str = "db1") -> bool:
    try:
        with channel(cluster, user, secret):
            return True
    except AMQPError:
        return False


def refusals(cluster: Cluster) -> int:
    return cluster.broker.log.read_text().count("'db1' - invalid credentials")


def uses(number: int) -> Any:
    """Whether an agent uses the password of that number, and nothing is owed to it."""
    return lambda agent: agent["status"]["credential"] == number and agent["status"]["advised"]


class Commands:
    """Wishes for databases, at a steady rate, from another thread."""

    def __init__(self, to: Client) -> None:
        self.sent: list[str] = []
        self._to, self._enough = to, threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def end(self) -> list[str]:
        self._enough.set()
        self._thread.join()
        return self.sent

    def _run(self) -> None:
        next_s = time.monotonic()
        for number in range(DATABASES):
            next_s += 1 / RATE
            if self._enough.wait(max(0.0, next_s - time.monotonic())):
                return
            name = f"rotated{number}"
            self._to.write("PUT", f"/instances/db1/databases/{name}", {})
            self.sent.append(name)


@pytest.fixture(scope="module")
def flooder(own: Cluster) -> Iterator[Rogue]:
    """An agent that has sent until the broker listened no more. While other tests run, the time of its suspension
    passes."""
    with enrolled(own) as rogue:
        user = pika.BasicProperties(user_id=rogue.id)

        def shout() -> bool:
            """Whether the broker still listens."""
            try:
                for _ in range(100):
                    rogue.to.basic_publish("agents.up", up_key("pulse", rogue.id), b"x" * 1000, user)
            except AMQPError:
                return False
            return True

        wait_until(lambda: not shout(), timeout_s=30, what="the end of a flood")
        yield rogue


def test_an_agent_that_floods_is_cut_off_and_the_others_do_not_notice(
    own: Cluster, admin: Client, flooder: Rogue
) -> None:
    seen = admin.wait_for(f"/agents/{flooder.id}", lambda agent: agent["status"]["suspended_s"] is not None)
    assert seen["status"]["dropped"] > 500
    assert not opens(own, flooder.password, flooder.id)
    assert admin.read("/agents/db1")["status"]["state"] == "online"


def test_a_password_is_changed_under_load_and_nothing_is_missed_and_nobody_refused(own: Cluster, admin: Client) -> None:
    before, refused, log = password(own), refusals(own), own.agents["db1"].log
    commands = Commands(admin)
    wait_until(lambda: len(commands.sent) > 50, timeout_s=20, what="commands")
    answer = admin.write("POST", "/agents/db1/credential")
    assert answer.status == 202
    assert "hash" not in answer.body.decode()
    admin.wait_for("/agents/db1", uses(1))
    assert len(commands.sent) < DATABASES, "it was over before the commands were: nothing is shown"
    names = set(commands.end())

    def ready(page: Any) -> bool:
        return names <= {one["id"].partition("/")[2] for one in page["items"] if one["status"]["phase"] == "ready"}

    admin.wait_for("/instances/db1/databases?limit=1000", ready)
    assert refusals(own) == refused
    assert "connection lost" not in tail(log, 1000)
    assert password(own) != before
    assert not opens(own, before)
    assert opens(own, password(own))
    held = (own.agents["db1"].files.directory / "credential.json").read_text()
    assert json.loads(held) == {"number": 1, "next": None}


def test_an_agent_that_is_away_keeps_its_password_until_it_is_back(own: Cluster, admin: Client) -> None:
    agent = own.agents["db1"]
    before = password(own)
    assert agent.process is not None
    agent.process.stop()
    number = admin.read("/agents/db1")["spec"]["credential"] + 1
    admin.write("POST", "/agents/db1/credential")
    admin.write("POST", "/agents/db1/credential")  # twice is once
    admin.wait_for("/agents/db1", lambda found: not found["status"]["advised"])
    assert opens(own, before)
    agent.launch()
    admin.wait_for("/agents/db1", uses(number))
    assert not opens(own, before)


def test_an_agent_that_is_killed_in_the_middle_comes_back_with_what_is_on_its_disk(own: Cluster, admin: Client) -> None:
    agent = own.agents["db1"]
    for _ in range(3):
        number = admin.read("/agents/db1")["spec"]["credential"] + 1
        asked = admin.write("POST", "/agents/db1/credential").json
        assert asked["spec"]["wanted_credential"] == number, "who is seen to use a password can be asked for the next"
        file = agent.files.directory / "credential.json"
        wait_until(lambda: _offers(file, number), timeout_s=20, what="the next password")  # noqa: B023
        assert agent.process is not None
        agent.process.kill()
        agent.launch()
        admin.wait_for("/agents/db1", uses(number))


def _offers(file: Path, number: int) -> bool:
    content = json.loads(file.read_text())
    return bool(content["number"] >= number or (content["next"] or {}).get("number") == number)


def test_who_was_cut_off_for_flooding_comes_back(own: Cluster, flooder: Rogue) -> None:
    wait_until(lambda: opens(own, flooder.password, flooder.id), timeout_s=60, what="the end of the suspension")


def test_who_is_removed_is_out_at_once_and_for_good(own: Cluster, admin: Client) -> None:
    agent, secret = own.agents["db1"], password(own)
    with channel(own, "db1", secret) as held:
        admin.write("DELETE", "/agents/db1")

        def is_cut() -> bool:
            try:
                held.connection.process_data_events(0.0)
            except AMQPError:
                return True
            return False

        wait_until(is_cut, timeout_s=30, what="the end of a connection of a removed agent")
    for _ in range(20):
        assert not opens(own, secret)
    assert agent.process is not None
    assert agent.process.alive, "it goes on looking after its server"
    wait_until(lambda: "ACCESS_REFUSED" in tail(agent.log, 200), timeout_s=20, what="what the agent says of it")
    with pytest.raises(ProcessFailed):
        agent.command("advise", own.first.url)
