"""The same on a real RabbitMQ: what its management API is asked for has the effect that it is asked for."""

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import trustme
from localcluster.broker import Broker, BrokerPorts, BrokerUser
from localcluster.ports import free_ports

from provider.broker.management import Management, ManagementError
from provider.broker.reconciler import BrokerUsers
from provider.core.entries import Change
from provider.core.state import State
from shared.backoff import Backoff
from shared.bus import Credentials, Queue, Topology
from shared.passwords import broker_password_hash
from shared.rabbitmq import RabbitLink
from shared.tls import client_context
from tests.support.brokers import Watched, wait_for
from tests.support.fleets import genesis

PATIENCE_S = 20.0
ADMIN, PASSWORD = "bellwether", "s3cret"


def agent(name: str, password: str) -> Change:
    spec = {"token_sha256": "x", "broker_password_hash": broker_password_hash(password)}
    return Change(kind="agent", id=name, spec=spec, status={"state": "never"})


class Rig:
    """A broker, a state, and the thread between them."""

    def __init__(self, directory: Path) -> None:
        authority = trustme.CA()
        server = authority.issue_cert("127.0.0.1")
        self.ca = directory / "ca.pem"
        authority.cert_pem.write_to_path(self.ca)
        server.cert_chain_pems[0].write_to_path(directory / "node.pem")
        server.private_key_pem.write_to_path(directory / "node.key")
        (directory / "password").write_text(PASSWORD)
        amqps, distribution, epmd, management = free_ports(4)
        self.broker = Broker(
            directory / "broker",
            BrokerPorts(amqps, distribution, epmd, management),
            certificate=directory / "node.pem",
            key=directory / "node.key",
            ca=self.ca,
            users=[BrokerUser(ADMIN, directory / "password")],
        )
        self.broker.start()
        self.state = genesis()
        self.suspended: set[str] = set()
        self.credentials = [(ADMIN, PASSWORD)]

    def management(self) -> Management:
        tls: ssl.SSLContext = client_context(self.ca)
        return Management(self.broker.management, lambda: tls, lambda: self.credentials)

    def users(self) -> BrokerUsers:
        return BrokerUsers(
            node="p1",
            vhost="bellwether",
            management=self.management(),
            state=lambda: self.state,
            suspended=lambda: self.suspended,
        )

    def link(self, name: str, *passwords: str) -> Watched:
        """A connection as an agent of this name."""
        queue = Queue(f"agent.{name}.{uuid4().hex}", exclusive=True)
        return Watched(
            lambda up, down: RabbitLink(
                name=name,
                endpoints=[self.broker.endpoint],
                credentials=Credentials(name, passwords[0], str(self.ca), others=passwords[1:]),
                topology=Topology(queues=[queue]),
                on_up=up,
                on_down=down,
                backoff=Backoff(first_s=0.02, longest_s=0.1),
            )
        )


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    rig = Rig(tmp_path_factory.mktemp("users"))
    yield rig
    rig.broker.kill()


@pytest.fixture
def start(rig: Rig) -> Iterator[Callable[[State], BrokerUsers]]:
    made: list[BrokerUsers] = []

    def begin(state: State) -> BrokerUsers:
        rig.state = state
        made.append(rig.users())
        made[-1].start()
        return made[-1]

    yield begin
    for users in made:
        users.stop()


Start = Callable[[State], BrokerUsers]


def call(rig: Rig, method: str, path: str, body: object = None) -> Any:
    management = rig.management()
    with closing(management):
        return management.call(method, path, body)


def test_only_what_differs_is_written(rig: Rig, start: Start) -> None:
    users = start(genesis(*(agent(f"many{number}", "x") for number in range(450))))
    assert all(users.wait_ready(f"many{number}", PATIENCE_S) for number in range(450))
    call(rig, "PUT", "/permissions/bellwether/many7", {"configure": ".*", "write": ".*", "read": ".*"})
    call(rig, "PUT", "/users/many8", {"password": "theirs", "tags": "bellwether-agent,administrator"})
    users.look_again()

    def read(name: str) -> Any:
        return call(rig, "GET", f"/permissions/bellwether/{name}")["read"]

    wait_for(lambda: read("many7") != ".*")
    wait_for(lambda: call(rig, "GET", "/users/many8")["tags"] == ["bellwether-agent"])
    wait_for(lambda: len(call(rig, "GET", "/vhosts/bellwether/topic-permissions")) == 900)  # these are written last
    again = rig.users()
    before = again._management.calls
    again.start()
    assert again.wait_ready("many449", PATIENCE_S)
    again.stop()
    assert again._management.calls - before <= 6  # who am I, the virtual host, three lists: nothing was written
    rig.state = genesis()
    users.look_again()

    def alone() -> bool:
        try:
            return len(call(rig, "GET", "/users?columns=name")) == 1
        except ManagementError:  # RabbitMQ answers 500 while users are deleted
            return False

    wait_for(alone)


def test_who_is_deleted_is_out_at_once_and_for_good_however_often_it_tries(rig: Rig, start: Start) -> None:
    users = start(genesis(agent("gone", "x")))
    assert users.wait_ready("gone", PATIENCE_S)
    links = [rig.link("gone", "x").start().up() for _ in range(2)]
    stop = threading.Event()

    def knock() -> None:  # connections that are being made in the moment of the deletion
        while not stop.is_set():
            link = rig.link("gone", "x").start()
            stop.wait(0.15)
            link.link.close()

    knocking = [threading.Thread(target=knock) for _ in range(2)]
    for thread in knocking:
        thread.start()
    stop.wait(0.5)
    rig.state = genesis()
    users.look_again(["gone"])
    for link in links:
        link.downs.until(lambda downs: any("ACCESS_REFUSED" in why for why in downs))
    ups = [len(link.ups) for link in links]
    stop.wait(2.0)  # they go on trying
    stop.set()
    for thread in knocking:
        thread.join()
    assert [len(link.ups) for link in links] == ups
    for link in links:
        link.link.close()
    wait_for(lambda: call(rig, "GET", "/connections/username/gone") == [])


def test_a_new_password_ends_no_connection_and_the_old_one_opens_none(rig: Rig, start: Start) -> None:
    users = start(genesis(agent("moves", "old")))
    assert users.wait_ready("moves", PATIENCE_S)
    link = rig.link("moves", "old").start().up()
    changed = agent("moves", "new")
    rig.state = genesis(changed)
    users.look_again(["moves"])
    assert changed.spec is not None
    wait_for(lambda: users.has("moves", str(changed.spec["broker_password_hash"])))  # type: ignore[index]
    late = rig.link("moves", "old").start()
    late.downs.until(lambda downs: any("ACCESS_REFUSED" in why for why in downs))
    rig.link("moves", "new").start().up().link.close()
    assert len(link.downs) == 0
    late.link.close()
    # One that holds both tries both, and says nothing of the one that was refused.
    for passwords in (("old", "new"), ("new", "old"), ("older", "old", "new")):
        both = rig.link("moves", *passwords).start().up()
        assert both.link.password == "new"
        assert len(both.downs) == 0
        both.link.close()
    link.link.close()


def test_an_agent_has_a_handful_of_connections_and_no_more(rig: Rig, start: Start) -> None:
    assert start(genesis(agent("greedy", "x"))).wait_ready("greedy", PATIENCE_S)
    links = [rig.link("greedy", "x").start().up() for _ in range(4)]
    one_more = rig.link("greedy", "x").start()
    one_more.downs.until(lambda downs: any("NOT_ALLOWED" in why for why in downs))
    for link in [*links, one_more]:
        link.link.close()


def test_an_administrator_whose_password_has_changed_takes_the_broker_along(rig: Rig, start: Start) -> None:
    rig.credentials = [(ADMIN, "newer"), (ADMIN, PASSWORD)]
    assert start(genesis(agent("one", "x"))).wait_ready("one", PATIENCE_S)
    rig.credentials = [(ADMIN, "newer")]
    assert call(rig, "GET", "/whoami")["name"] == ADMIN
    assert call(rig, "GET", f"/users/{ADMIN}")["tags"] == ["administrator"]
    rig.credentials = [(ADMIN, PASSWORD), (ADMIN, "newer")]
    call(rig, "GET", "/whoami")
    rig.credentials = [(ADMIN, PASSWORD)]
