"""The broker as somebody with a user on it sees it: to publish what nobody should, and to try what is forbidden."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import pika
from localcluster.cluster import BROKER_USER, Cluster
from pika.adapters.blocking_connection import BlockingChannel

from shared.messages import VERSION, now_text
from shared.tls import client_context


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
    )
    connection = pika.BlockingConnection(parameters)
    try:
        opened = connection.channel()
        opened.confirm_delivery()
        yield opened
    finally:
        if connection.is_open:
            connection.close()


@contextmanager
def as_provider(cluster: Cluster) -> Iterator[BlockingChannel]:
    """With the providers' own user: it may do anything."""
    with channel(cluster, BROKER_USER, cluster.layout.broker_password.read_text().strip()) as opened:
        yield opened


def publish(to: BlockingChannel, exchange: str, key: str, body: bytes, user: str | None = BROKER_USER) -> None:
    """One message that the broker has confirmed. Raises `pika.exceptions.AMQPError` where it refuses."""
    to.basic_publish(exchange, key, body, pika.BasicProperties(content_type="application/json", user_id=user))


def envelope(type_: str, body: Any, *, sender: str, epoch: int = 1, version: int = VERSION, **other: Any) -> bytes:
    """A message as ours are, whatever is in it."""
    content = {"v": version, "type": type_, "id": uuid4().hex, "sender": sender, "epoch": epoch, "at": now_text()}
    return json.dumps(content | {"body": body} | other).encode()
