"""Limits of a provider's real process. Invariant: whatever one client does, another is served."""

import json
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from localcluster.api import Api
from localcluster.process import wait_until

from provider.founding import Place
from provider.settings import port_of
from shared.tls import client_context
from tests.support.daemons import founded, running
from tests.support.http_server import PATIENCE_S, Said, answered

SHORT = {
    "connections_per_client": 100,
    "handshake_timeout_s": 1.0,
    "head_timeout_s": 1.0,
    "body_grace_s": 1.0,
    "unread_timeout_s": 1.0,
    "unauthenticated_per_s": 0.001,
    "unauthenticated_burst": 20,
    "streams_per_client": 2,
}


@dataclass(slots=True)
class Node:
    place: Place
    token: str

    @property
    def good(self) -> Api:
        """Another client, at another address; it is to be served at all times."""
        return Api(self.place.url, ca=self.place.files.ca, token=self.token)

    def plain(self) -> socket.socket:
        where = ("127.0.0.1", port_of(self.place.url))
        return socket.create_connection(where, timeout=PATIENCE_S, source_address=("127.0.0.66", 0))

    def connect(self) -> ssl.SSLSocket:
        plain = self.plain()
        try:
            return client_context(self.place.files.ca).wrap_socket(plain, server_hostname="127.0.0.1")
        except OSError:
            plain.close()
            raise

    def head(self, method: str, path: str, *lines: str) -> bytes:
        all_lines = (f"{method} /api/v1{path} HTTP/1.1", "Host: x", f"Authorization: Bearer {self.token}", *lines)
        return "\r\n".join([*all_lines, "", ""]).encode()

    def told(self, sent: bytes) -> Said:
        with self.connect() as connection:
            with suppress(OSError):
                connection.sendall(sent)
            return answered(connection)

    def serves(self) -> None:
        assert self.good.get("/cluster").status == 200

    def open(self) -> float:
        """Open connections, as Prometheus is told."""
        lines = self.good.get("/metrics").body.decode().splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith("bellwether_connections "))

    def counted(self, what: str) -> bool:
        return f"{what} " in self.good.get("/metrics").body.decode()


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    directory = tmp_path_factory.mktemp("p1")
    place = founded(directory, **SHORT)
    with running(place):
        found = Node(place, (directory / "admin.token").read_text())

        def up() -> bool:
            with suppress(OSError):
                return found.good.get("/health/live").status == 200
            return False

        wait_until(up, timeout_s=PATIENCE_S, what="the provider does not serve")
        yield found
        said = (directory / "log").read_text()
        assert "Traceback" not in said
        assert " ERROR " not in said
        assert found.token not in said


def test_heads_and_bodies_that_are_too_much(node: Node) -> None:
    for sent, status, code in (
        (node.head("GET", "/cluster", "X: " + "x" * 40_960), 431, "too_large"),
        (node.head("GET", "/cluster", *[f"X-{n}: 1" for n in range(200)]), 431, "too_large"),
        (node.head("PUT", "/settings/user.a", "Content-Length: 10485760") + b"x" * 10_485_760, 413, "too_large"),
        (node.head("PUT", "/settings/user.a", "Content-Length: 200011") + _nested(100_000), 422, "invalid"),
    ):
        said = node.told(sent)
        assert (said.status, said.json["code"]) == (status, code)
        assert said.headers["bellwether-node"] == "p1"
        node.serves()


def test_clients_that_say_nothing_or_too_little(node: Node) -> None:
    with ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(node.plain())
        stack.enter_context(node.connect())
        half, slow, unread = (stack.enter_context(node.connect()) for _ in range(3))
        half.sendall(b"GET /api/v1/clu")
        slow.sendall(node.head("PUT", "/settings/user.a", "Content-Length: 1000") + b'{"value": ')
        unread.sendall(node.head("GET", "/openapi.json"))
        node.serves()
        for connection in (half, slow):
            assert (said := answered(connection)).status == 408, said
            assert said.json["code"] == "too_slow"
        node.serves()
        for reason in ("handshake", "silent", "slow_head", "slow_body"):
            wait_until(
                lambda reason=reason: node.counted(f'bellwether_refused_connections_total{{reason="{reason}"}}'),  # type: ignore[misc]
                timeout_s=PATIENCE_S,
                what=f"nobody counted {reason}",
            )


def test_three_hundred_connections_of_one_client(node: Node) -> None:
    with ExitStack() as stack:
        for _ in range(300):
            stack.enter_context(node.plain())
        node.serves()
        wait_until(
            lambda: node.counted('bellwether_refused_connections_total{reason="per_client"}'),
            timeout_s=PATIENCE_S,
            what="all 300 had a place",
        )
        node.serves()
    wait_until(lambda: node.open() < 10, timeout_s=PATIENCE_S, what="connections that ended are still counted")


def test_clients_with_bad_tokens_are_slowed_down_and_good_ones_from_there_are_not(node: Node) -> None:
    bad = b"GET /api/v1/cluster HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer bw.admin.a.b\r\n\r\n"
    with node.connect() as connection:
        statuses = []
        for _ in range(25):
            connection.sendall(bad)
            statuses.append(answered(connection).status)
    assert statuses == [401] * 20 + [429] * 5
    assert node.told(node.head("GET", "/cluster")).status == 200
    node.serves()


def test_event_streams_of_one_token(node: Node) -> None:
    with ExitStack() as stack:
        streams = [stack.enter_context(node.connect()) for _ in range(3)]
        for stream in streams[:2]:
            stream.sendall(node.head("GET", "/events"))
            assert stream.recv(1000).startswith(b"HTTP/1.1 200 ")
        streams[2].sendall(node.head("GET", "/events"))
        said = answered(streams[2])
        assert (said.status, said.json["code"]) == (429, "too_many_requests")
        assert "streams_per_client" in said.json["detail"]
        node.serves()
    wait_until(
        lambda: node.told(node.head("GET", "/events?follow=false")).status == 200,
        timeout_s=PATIENCE_S,
        what="streams that ended are still counted",
    )


def test_head_is_answered_without_a_body(node: Node) -> None:
    with node.connect() as connection:
        for path in ("/health/live", "/cluster", "/events"):
            connection.sendall(node.head("HEAD", path) + b"")
            assert answered(connection, "HEAD").status == 200
        connection.sendall(node.head("GET", "/cluster"))
        assert answered(connection).json["primary"] == "p1", "it begins where the last one ended"


def test_a_node_that_may_open_few_files_serves_fewer_connections() -> None:
    code = """
import resource
from provider.api.http.guard import Guard
from provider.settings import ApiSettings
resource.setrlimit(resource.RLIMIT_NOFILE, (SOFT, HARD))
guard = Guard(ApiSettings(listen="127.0.0.1:1", connections_max=500))
guard.fit()
print(guard.connections.in_all, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""
    for soft, hard, expected in ((300, 300, "44 300"), (300, 2000, "500 756"), (1000, 2000, "500 1000")):
        text = code.replace("SOFT", str(soft)).replace("HARD", str(hard))
        done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == expected
        assert ("LimitNOFILE" in done.stderr) is (expected == "44 300")


def test_what_libraries_log_comes_out_as_our_own_lines_without_tokens(tmp_path: Path) -> None:
    code = """
import logging
from shared.logs import configure
configure("INFO", node="p1")
logging.getLogger("uvicorn.error").warning("a header: %s {x}", {"authorization": "Bearer bw.admin.a.verysecret"})
logging.getLogger("uvicorn.error").info("not worth a line")
try:
    raise ValueError("a bug")
except ValueError:
    logging.getLogger("asyncio").exception("failed")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    first, *rest = done.stderr.splitlines()
    assert first.endswith("a header: {'authorization': 'Bearer bw.…'} {x} node=p1 library=uvicorn.error")
    assert " WARNING " in first
    assert "ERROR   failed node=p1 library=asyncio" in rest[0]
    assert "ValueError: a bug" in rest[-1], "with what happened, in the same line"
    assert "verysecret" not in done.stderr


def _nested(levels: int) -> bytes:
    return json.dumps({"value": 0}).encode()[:-2] + b"[" * levels + b"]" * levels + b"}"
