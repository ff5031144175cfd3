"""The floor: publish to the very stream that the cluster uses, read it back, nothing else."""

import ssl
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pika
from localcluster.cluster import BROKER_USER, Cluster

from provider.core.entries import Barrier, encode


@contextmanager
def _channel(cluster: Cluster) -> Iterator[Any]:
    endpoint = urlsplit(cluster.broker.endpoint)
    context = ssl.create_default_context(cafile=str(cluster.layout.ca))
    password = cluster.layout.broker_password.read_text().strip()
    parameters = pika.ConnectionParameters(
        host=endpoint.hostname,
        port=endpoint.port,
        virtual_host="bellwether",
        credentials=pika.PlainCredentials(BROKER_USER, password),
        ssl_options=pika.SSLOptions(context, endpoint.hostname),
    )
    connection = pika.BlockingConnection(parameters)
    try:
        yield connection.channel()
    finally:
        connection.close()


def read_back_ms(cluster: Cluster, *, rounds: int = 1000) -> tuple[float, float]:
    """Median and 99th percentile of publish → read back on one connection, in ms, one message at a time.

    What is published are barriers of another generation, which every provider skips; padded to an entry's usual size.
    """
    generation = cluster.ask("/cluster")["generation"]
    record = encode(Barrier(id="x" * 400, generation="benchmark", node="benchmark", at=0))
    stream = f"bellwether.log.{generation}"
    took: list[float] = []
    with _channel(cluster) as channel:
        channel.basic_qos(prefetch_count=100)
        arrived: list[int] = []

        def on_message(channel: Any, method: Any, properties: Any, body: bytes) -> None:
            if body == record:
                arrived.append(1)
            channel.basic_ack(method.delivery_tag)

        channel.basic_consume(stream, on_message, arguments={"x-stream-offset": "next"})
        for _ in range(rounds + 50):
            arrived.clear()
            began = time.perf_counter()
            channel.basic_publish("", stream, record)
            while not arrived:
                channel.connection.process_data_events(time_limit=1)
            took.append((time.perf_counter() - began) * 1000)
    took = sorted(took[50:])
    return statistics.median(took), took[int(len(took) * 0.99)]
