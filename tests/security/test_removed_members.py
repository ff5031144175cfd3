"""Who was removed is out at once and for good: a node with its certificate, token and broker user, and all of them
together; an agent with its token, its broker user and the connection that it holds."""

import http.client
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import pika
import pytest
from localcluster.cluster import Cluster
from localcluster.process import wait_until
from pika.exceptions import AMQPError

from shared.tls import client_context
from tests.support.amqp import channel, enrolled
from tests.support.api import Client, client
from tests.support.clusters import running
from tests.support.nodes import primary_of, standbys_of


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running(tmp_path_factory.mktemp("shrinking"), providers=3, databases=0) as cluster:
        yield cluster


@dataclass(frozen=True)
class Stolen:
    """What a thief has of a node: all of its files."""

    name: str
    token: str
    password: str
    tls: Callable[[], ssl.SSLContext]

    def ask(self, node: Client, method: str, path: str, *, shows: bool = True, **headers: str) -> int | None:
        """The status; None where not even the handshake is done. `shows`: the certificate, too."""
        where = urlsplit(node.url)
        connection = http.client.HTTPSConnection(
            where.hostname or "", where.port, timeout=10, context=self.tls() if shows else client_context(node.ca)
        )
        sent = {"Authorization": f"Bearer {self.token}"} | {n.replace("_", "-"): v for n, v in headers.items()}
        try:
            connection.request(method, f"/api/v1{path}", b'{"value": 1}' if method == "PUT" else None, sent)
            return connection.getresponse().status
        except OSError:
            return None
        finally:
            connection.close()


def steal(cluster: Cluster, name: str) -> Stolen:
    directory = cluster.providers[name].files.directory
    certificate, key = directory / "stolen.pem", directory / "stolen.key"
    certificate.write_text((directory / "node.pem").read_text())
    key.write_text((directory / "node.key").read_text())
    key.chmod(0o600)

    def tls() -> ssl.SSLContext:
        context = client_context(cluster.layout.ca)
        context.load_cert_chain(certificate, key)
        return context

    token = (directory / "node.token").read_text().strip()
    return Stolen(name, token, (directory / "broker.password").read_text().strip(), tls)


def cut(held: pika.adapters.blocking_connection.BlockingChannel) -> bool:
    try:
        held.connection.process_data_events(0.05)
    except AMQPError:
        return True
    return not held.is_open


def admitted(cluster: Cluster, user: str, password: str) -> bool:
    try:
        with channel(cluster, user, password):
            return True
    except AMQPError:
        return False


def test_a_removed_agent_is_out(cluster: Cluster) -> None:
    primary = client(cluster, primary_of(cluster))
    with enrolled(cluster) as agent:
        assert primary.holding(agent.api_token).get(f"/agents/{agent.id}/advice").status == 200
        assert admitted(cluster, agent.id, agent.password)
        revision = primary.write("DELETE", f"/agents/{agent.id}").headers["bellwether-revision"]
        wait_until(lambda: cut(agent.to), timeout_s=30, what="its connection is still open")
        wait_until(lambda: not admitted(cluster, agent.id, agent.password), timeout_s=30, what="its user is still good")
        for name in cluster.providers:
            node = client(cluster, name)
            node.read("/cluster", Bellwether_Min_Revision=revision)
            assert node.holding(agent.api_token).get(f"/agents/{agent.id}/advice").status == 401


def test_a_removed_node_is_out(cluster: Cluster) -> None:
    primary = client(cluster, primary_of(cluster))
    name = standbys_of(cluster)[-1]
    thief = steal(cluster, name)
    others = [client(cluster, other) for other in cluster.providers if other != name]
    for node in others:
        assert thief.ask(node, "GET", "/snapshot") == 200, "the control: all of it together is the node"
        assert thief.ask(node, "GET", "/snapshot", shows=False) in (401, 403)
    with channel(cluster, f"node.{name}", thief.password) as held:
        held.basic_publish("agents.down", "nobody", b"{}", pika.BasicProperties(user_id=f"node.{name}"))
        process = cluster.providers[name].process
        assert process is not None
        process.stop()
        revision = primary.write("DELETE", f"/nodes/{name}").headers["bellwether-revision"]
        for node in others:
            node.read("/cluster", Bellwether_Min_Revision=revision)
            for method, path in (
                ("GET", "/cluster"),
                ("GET", "/snapshot"),
                ("GET", "/history"),
                ("PUT", "/settings/user.removed"),
                ("POST", f"/nodes/{name}/certificate"),
                ("POST", "/tokens/administrator"),
                ("POST", "/audit/refusals"),
            ):
                assert thief.ask(node, method, path) in (401, None), (method, path)
                forged = thief.ask(node, method, path, Bellwether_Forwarded=name, Bellwether_Client="127.0.0.1")
                assert forged in (401, None), (method, path)
        wait_until(lambda: not held.connection.is_open or cut(held), timeout_s=30, what="its connection is still open")
    wait_until(
        lambda: not admitted(cluster, f"node.{name}", thief.password), timeout_s=30, what="its broker user is good"
    )
    answer = primary.write("POST", "/tokens", {"role": "node"})
    assert answer.status == 201
    assert primary.get(f"/nodes/{name}").status == 404
