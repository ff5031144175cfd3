"""The agent as a process and a cluster of real brokers: it goes where the primary is heard, and comes back."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme
from localcluster.broker import Broker, BrokerUser
from localcluster.mariadb import MariaDB as Server
from localcluster.process import wait_until

from shared.bus import Credentials
from shared.files import write_atomically
from shared.messages import Advice, Beat, Desired, DesiredDatabase, DesiredInstance, Hello, Pulse, Report
from tests.support.agents import PASSWORD, Agent
from tests.support.clustered import ClusteredBroker, start_cluster
from tests.support.provider_side import ProviderSide

BEAT_S = 0.3

pytestmark = pytest.mark.usefixtures("clean")


@pytest.fixture(scope="module")
def brokers(tmp_path_factory: pytest.TempPathFactory, authority: trustme.CA) -> Iterator[list[ClusteredBroker]]:
    root = tmp_path_factory.mktemp("brokers")
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(root / "key.pem")
    issued.cert_chain_pems[0].write_to_path(root / "cert.pem")
    authority.cert_pem.write_to_path(root / "ca.pem")
    (root / "password").write_text(PASSWORD)
    users = [BrokerUser("provider", root / "password"), BrokerUser("db1", root / "password")]
    made, mapper = start_cluster(
        root, ["b1", "b2", "b3"], certificate=root / "cert.pem", key=root / "key.pem", ca=root / "ca.pem", users=users
    )
    yield made
    for broker in made:
        broker.kill()
    mapper.kill()


@pytest.fixture
def primary(brokers: list[ClusteredBroker]) -> Iterator[ProviderSide]:
    """Connected to the first broker."""
    side = ProviderSide(brokers[0].endpoint, Credentials("provider", PASSWORD, str(brokers[0].ca)))
    yield side
    side.close()


@contextmanager
def beating(primary: ProviderSide) -> Iterator[None]:
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(BEAT_S):
            primary.shout(Beat(interval_s=BEAT_S))

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.fixture
def agent(tmp_path: Path, brokers: list[ClusteredBroker], mariadb: Server) -> Iterator[Agent]:
    """Enrolled as `db1`; prefers the second broker."""
    made = Agent(tmp_path)
    made.config.write_text(
        f'id = "db1"\npulse_s = 0.5\nstagger_s = 0.1\nreturn_s = 0.5\n[[instances]]\nid = "db1"\n'
        f'socket = "{mariadb.socket}"\nuser = "{mariadb.user}"\nprobe_s = 0.3\nlook_s = 1.0\n'
    )
    write_atomically(tmp_path / "ca.pem", brokers[0].ca.read_text())
    write_atomically(tmp_path / "broker.password", PASSWORD)
    made.broker_json.write_text(json.dumps(advice(brokers[1], *brokers).model_dump(exclude={"credential"})))
    made.start()
    yield made
    made.stop()
    assert "unexpected error" not in made.log(), made.log()


def advice(preferred: Broker, *others: Broker) -> Advice:
    endpoints = tuple(dict.fromkeys(one.endpoint for one in (preferred, *others)))
    ca = preferred.ca.read_text()
    return Advice(epoch=1, primary="p1", endpoints=endpoints, providers=(), vhost="bellwether", ca=ca)


def says_hello_at(primary: ProviderSide, brokers: list[ClusteredBroker], *, after: int = 0) -> str:
    """The name of the broker at which the agent says hello next."""
    hello = primary.wait_for(Hello, after=after)
    return next(broker.directory.name for broker in brokers if broker.endpoint == hello.endpoint)


def why(agent: Agent) -> str:
    return str(agent.status()["why"])


def test_a_broker_that_is_alive_but_cut_off_is_left_and_returned_to(
    agent: Agent, primary: ProviderSide, brokers: list[ClusteredBroker]
) -> None:
    preferred = brokers[1]
    assert says_hello_at(primary, brokers) == "b2"
    with beating(primary):
        for _ in range(3):  # a second and a half, in which it hears beats
            primary.wait_for(Pulse, after=primary.now)
        before = primary.now
        preferred.cut_off()
        assert says_hello_at(primary, brokers, after=before) in ("b1", "b3")
        assert preferred.process is not None
        assert preferred.process.alive
        wait_until(lambda: "does not hear the primary" in why(agent), timeout_s=30, what="status does not say why")
        wish = DesiredInstance(id="db1", databases=(DesiredDatabase(name="shop", version=7),))
        primary.tell(Desired(revision=7, instances=(wish,)))
        primary.wait_for(Report, lambda one: one.revision == 7, after=before)
        before = primary.now
        preferred.kill()
        preferred.start()
        assert says_hello_at(primary, brokers, after=before) == "b2"
        wait_until(lambda: why(agent).startswith("the preferred broker"), timeout_s=30, what="status does not say so")


def test_a_broker_that_is_killed_is_left_and_returned_to(
    agent: Agent, primary: ProviderSide, brokers: list[ClusteredBroker]
) -> None:
    assert says_hello_at(primary, brokers) == "b2"
    with beating(primary):
        before = primary.now
        brokers[1].kill()
        assert says_hello_at(primary, brokers, after=before) in ("b1", "b3")
        wait_until(lambda: "cannot be reached" in why(agent), timeout_s=30, what="status does not say why")
        before = primary.now
        brokers[1].start()
        assert says_hello_at(primary, brokers, after=before) == "b2"


def test_a_new_primary_is_followed_to_its_broker_and_what_comes_meanwhile_is_done_once(
    agent: Agent, primary: ProviderSide, brokers: list[ClusteredBroker]
) -> None:
    assert says_hello_at(primary, brokers) == "b2"
    before = primary.now
    primary.shout(advice(brokers[2], *brokers).model_copy(update={"epoch": 2, "primary": "p3"}), epoch=2)
    revisions = range(1, 60)
    for revision in revisions:
        primary.tell(Desired(revision=revision, instances=(DesiredInstance(id="db1"),)), epoch=2)
    assert says_hello_at(primary, brokers, after=before) == "b3"
    primary.wait_for(Report, lambda one: one.revision == revisions[-1], after=before)
    assert agent.status()["skipped"] == {}


def test_without_a_primary_it_stays_where_it_is_and_says_so(
    agent: Agent, primary: ProviderSide, brokers: list[ClusteredBroker]
) -> None:
    assert says_hello_at(primary, brokers) == "b2"
    before = primary.now
    primary.shout(Beat(interval_s=BEAT_S))
    wait_until(lambda: "none of the other brokers" in why(agent), timeout_s=30, what="status does not say so")
    assert agent.status()["endpoint"] == brokers[1].endpoint
    assert not any(isinstance(body, Hello) for _, body, _ in primary.heard[before:])
