"""An agent's credentials in the hands of somebody who sends as fast as the broker takes it: frames that are made once,
and sent over and over, with nothing read but what the broker says to it."""

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from localcluster.cluster import Cluster
from pika import BasicProperties, frame, spec

from shared.tls import client_context

FRAME_BYTES = 131_072
BUNDLE = 500
"""Messages in one write."""


class Flood:
    """Messages that go out until the block ends, on a thread of its own."""

    def __init__(self, connection: ssl.SSLSocket, bundle: bytes) -> None:
        self.sent = 0
        """Messages that the kernel has taken."""
        self.cut = threading.Event()
        """The broker has ended the connection."""
        self._connection, self._bundle = connection, bundle
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="flood", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping = True
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._thread.join(15)
        self._connection.close()

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._connection.sendall(self._bundle)
                self.sent += BUNDLE
        except OSError:
            self.cut.set()


@contextmanager
def flooding(
    cluster: Cluster,
    user: str,
    password: str,
    body: bytes,
    *,
    exchange: str = "agents.up",
    key: str = "pulse",
    properties: BasicProperties | None = None,
) -> Iterator[Flood]:
    """Sends `body` from here to the end of the block. Raises `OSError` where the broker does not let the user in."""
    connection = _connected(cluster, user, password)
    message = b"".join(
        piece.marshal()
        for piece in (
            frame.Method(1, spec.Basic.Publish(exchange=exchange, routing_key=key)),
            frame.Header(1, len(body), properties or BasicProperties()),
            frame.Body(1, body),
        )
    )
    flood = Flood(connection, message * BUNDLE)
    flood.start()
    try:
        yield flood
    finally:
        flood.stop()


def _connected(cluster: Cluster, user: str, password: str) -> ssl.SSLSocket:
    plain = socket.create_connection(("127.0.0.1", cluster.ports["broker"]), timeout=20)
    connection = client_context(cluster.layout.ca).wrap_socket(plain, server_hostname="127.0.0.1")
    connection.sendall(frame.ProtocolHeader().marshal())
    answer = f"\0{user}\0{password}"
    start_ok = spec.Connection.StartOk(client_properties={}, mechanism="PLAIN", response=answer, locale="en_US")
    for awaited, replies in (
        (spec.Connection.Start, [start_ok]),
        (
            spec.Connection.Tune,
            [
                spec.Connection.TuneOk(channel_max=16, frame_max=FRAME_BYTES, heartbeat=0),
                spec.Connection.Open("bellwether"),
            ],
        ),
        (spec.Connection.OpenOk, []),
    ):
        _await(connection, awaited)
        for reply in replies:
            connection.sendall(frame.Method(0, reply).marshal())
    connection.sendall(frame.Method(1, spec.Channel.Open()).marshal())
    _await(connection, spec.Channel.OpenOk)
    connection.settimeout(None)
    return connection


def _await(connection: ssl.SSLSocket, method: type) -> None:
    data, deadline_s = b"", time.monotonic() + 20
    while time.monotonic() < deadline_s:
        piece = connection.recv(FRAME_BYTES)
        if not piece:
            raise ConnectionError("the broker closed the connection")
        data += piece
        used, found = frame.decode_frame(data)
        if found is not None:
            data = data[used:]
            if isinstance(found.method, method):
                return
            raise ConnectionError(f"the broker said {found.method}")
    raise ConnectionError("the broker says nothing")
