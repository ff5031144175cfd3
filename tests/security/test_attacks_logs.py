"""What others make up, and we write down: in the logs of providers and of an agent, one event stays one line."""

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

import pytest
from localcluster.cluster import Cluster
from localcluster.process import wait_until

from shared.tls import client_context
from tests.support.amqp import Rogue
from tests.support.api import Client, client
from tests.support.sql import sql

LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z [A-Z]+ +\S")
FORGED = "2026-01-01T00:00:00.000Z INFO    epoch begins epoch=99 primary=evil"
TRICKS = {
    "line feed": f"a\n{FORGED}",
    "return": f"a\r{FORGED}",
    "both": f"a\r\n{FORGED}\r\n",
    "next line": f"a\x85{FORGED}",
    "line separator": f"a\u2028{FORGED}\u2029",
    "escape": f"a\x1b[2J\x1b[1A\x9b2K{FORGED}",
    "backspace": "a\x08\x08\x7f",
    "direction": "a\u202egol\u2066",
    "nothing": "a\x00b",
    "fields": 'a" node=evil level="',
    "format": "{message}{exception}{extra[_text]}%s%n<red>",
    "very long": "a" * 7_000,
}

HEADERS = ("User-Agent", "Referer", "X-Forwarded-For", "Idempotency-Key", "Cookie", "Bellwether-Client")


@contextmanager
def one_line_each(cluster: Cluster) -> Iterator[dict[str, Path]]:
    """What providers and agents log within this block is looked at after it."""
    logs = {name: member.log for name, member in (*cluster.providers.items(), *cluster.agents.items())}
    sizes = {name: path.stat().st_size for name, path in logs.items()}
    yield logs
    for name, path in logs.items():
        text = path.read_bytes()[sizes[name] :].decode()
        for line in text.split("\n"):
            assert not line or LINE.match(line), (name, line)
            assert line.isprintable(), (name, line)
            assert not line.startswith("2026-01-01"), (name, line)
            assert len(line) < 25_000, (name, len(line))


def raw(node: Client, data: bytes) -> bytes:
    """The beginning of what is answered to these bytes."""
    port = int(node.url.rpartition(":")[2])
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        client_context(node.ca).wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        connection.sendall(data)
        with suppress(OSError):
            return connection.recv(65536)
        return b""


@pytest.mark.parametrize("trick", TRICKS)
def test_requests_and_messages(cluster: Cluster, primary: Client, rogue: Rogue, trick: str) -> None:
    text = TRICKS[trick]
    with one_line_each(cluster):
        for name in cluster.providers:
            node = client(cluster, name)
            for header in (
                "User-Agent",
                "Referer",
                "X-Forwarded-For",
                "Idempotency-Key",
                "Cookie",
                "Bellwether-Client",
            ):
                head = f"PUT /api/v1/settings/user.x HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n{header}: "
                raw(node, head.encode() + text.encode() + b"\r\nConnection: close\r\n\r\n")
            for path in (text.encode(), quote(text).encode()):
                raw(node, b"GET /api/v1/users/" + path + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            raw(node, text.encode() + b" / HTTP/1.1\r\n\r\n")
            node.holding(None).post("/login", {"name": text[:64], "password": text[:200]})
            node.get(f"/agents/{quote(text, safe='')}"[:7000])
        pulse = {"version": text, "session": text, "epoch": 0, "revision": 0, "endpoint": text}
        rogue.say("pulse", pulse)
        rogue.say("pulse", pulse, sender=text)
        rogue.say(re.sub(r"[^a-z_]", "_", "made up"), {text: text}, sender=text)
        marker = uuid4().hex
        rogue.say("pulse", pulse | {"version": marker, "session": "s", "endpoint": f"amqps://{marker}:1"})
        primary.wait_for(f"/agents/{rogue.id}", lambda agent: marker in str(agent["status"]["endpoint"]))


def test_that_what_was_said_is_logged_at_all(cluster: Cluster, primary: Client, rogue: Rogue) -> None:
    """The control: the attacks above do reach the log."""
    with one_line_each(cluster) as logs:
        rogue.say("pulse", {}, sender=f"evil\n{FORGED}")
        for name in cluster.providers:
            wait_until(
                lambda name=name: b"primary=evil" in logs[name].read_bytes(), timeout_s=30, what=f"{name} logs nothing"
            )


def test_names_in_a_database_server(cluster: Cluster, primary: Client) -> None:
    """Whoever may make databases there chooses what the agent reads, and reports."""
    server, name = cluster.servers["db1"], f"x\r\n{FORGED[:20]}\x1b[2J\u2028\u202e"
    with one_line_each(cluster):
        sql(server, f"CREATE DATABASE `{name}`")
        try:
            primary.put(f"/instances/db1/databases/{quote(name, safe='')}", {})
            primary.write("PUT", "/instances/db1/databases/logs_probe", {})
            primary.wait_for("/instances/db1/databases/logs_probe", lambda it: it["status"]["phase"] == "ready")
        finally:
            sql(server, f"DROP DATABASE `{name}`")
            primary.write("DELETE", "/instances/db1/databases/logs_probe")
