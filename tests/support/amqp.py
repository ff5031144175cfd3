"""The broker as somebody with a user on it sees it: to publish what nobody should, and to try what is forbidden."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pika
from localcluster.cluster import Cluster
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError

from shared.messages import VERSION, now_text, up_key
from shared.tls import client_context
from tests.support.api import client
from tests.support.newcomers import newcomer

PROVIDER_USER = "node.p1"


@contextmanager
def channel(cluster: Cluster, username: str, password: str) -> Iterator[BlockingChannel]:
    """A channel with publisher confirms. Raises pika's exceptions."""
    parameters = pika.ConnectionParameters(
        host="127.0.0.1",
        port=cluster.ports["broker"],
        virtual_host="bellwether",
        credentials=pika.PlainCredentials(username, password),
        ssl_options=pika.SSLOptions(client_context(cluster.layout.ca), "127.0.0.1"),
        socket_timeout=5,
        blocked_connection_timeout=10,
        heartbeat=0,  # nobody would answer them while a test does something else
    )
    connection = pika.BlockingConnection(parameters)
    try:
        opened = connection.channel()
        opened.confirm_delivery()
        yield opened
    finally:
        with suppress(AMQPError):  # the other side may have closed it
            connection.close()


@contextmanager
def as_provider(cluster: Cluster) -> Iterator[BlockingChannel]:
    """With a provider's own user: it may do anything."""
    password = (cluster.first.files.directory / "broker.password").read_text().strip()
    with channel(cluster, PROVIDER_USER, password) as opened:
        yield opened


def publish(to: BlockingChannel, exchange: str, key: str, body: bytes, user: str | None = PROVIDER_USER) -> None:
    """One message that the broker has confirmed. Raises `pika.exceptions.AMQPError` where it refuses."""
    to.basic_publish(exchange, key, body, pika.BasicProperties(content_type="application/json", user_id=user))


def envelope(type_: str, body: Any, *, sender: str, epoch: int = 1, version: int = VERSION, **other: Any) -> bytes:
    """A message as ours are, whatever is in it."""
    content = {"v": version, "type": type_, "id": uuid4().hex, "sender": sender, "epoch": epoch, "at": now_text()}
    return json.dumps(content | {"body": body} | other).encode()


@dataclass
class Rogue:
    """An agent with good credentials, whose program is somebody else's."""

    id: str
    password: str
    api_token: str
    to: BlockingChannel

    def say(
        self, type_: str, body: object, *, sender: str | None = None, user: str | None = None, **other: int
    ) -> None:
        message = envelope(type_, body, sender=sender or self.id, **other)
        publish(self.to, "agents.up", up_key(type_, self.id), message, user=user or self.id)


@contextmanager
def enrolled(cluster: Cluster) -> Iterator[Rogue]:
    """A new agent that every node knows, connected; gone after the block."""
    admin = client(cluster, next(iter(cluster.providers)))
    name = f"rogue{uuid4().hex[:8]}"
    token = admin.write("POST", "/tokens", {"role": "agent"}).json["token"]
    agent = newcomer(name)
    body = agent.body(instances=[{"id": f"{name}-db", "engine": "mariadb", "port": 1}])
    given = admin.holding(token).write("POST", "/enroll", body).json
    revision = admin.read("/cluster")["revision"]
    for node in cluster.providers:
        client(cluster, node).read("/cluster", Bellwether_Min_Revision=str(revision))
    try:
        with channel(cluster, given["username"], agent.password) as to:
            yield Rogue(name, agent.password, agent.token.text(), to)
    finally:
        admin.delete(f"/agents/{name}")
