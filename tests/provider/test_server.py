"""What the server does with connections before the application hears of them. A real one, and raw sockets.

Invariant: whoever asks too much is told so in a problem document, and meanwhile another client is served.
"""

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.http_server import (
    AUTHORITY,
    GET,
    LARGE_BYTES,
    PATIENCE_S,
    STRANGER,
    Served,
    answered,
    ask,
    client,
    ended,
    problem,
    served,
    serving,
    told,
)

SHORT = {"head_timeout_s": 0.4, "body_grace_s": 0.4, "idle_timeout_s": 0.8, "unread_timeout_s": 0.8}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """With the limits as they are."""
    with serving(tmp_path_factory.mktemp("server")) as served:
        yield served


@pytest.fixture
def strict(tmp_path: Path) -> Iterator[Served]:
    """With little patience and few places."""
    limits: dict[str, Any] = {**SHORT, "handshake_timeout_s": 0.4, "connections_per_client": 5}
    with serving(tmp_path, **limits) as served:
        yield served


# ── who asks ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_application_sees_the_certificate_that_was_verified(server: Served) -> None:
    identity = AUTHORITY.issue_cert("p2")
    der = ssl.PEM_cert_to_DER_cert(identity.cert_chain_pems[0].bytes().decode())
    with server.connect(identity) as known, server.connect() as unknown:
        for _ in range(2):
            assert ask(known)["peer"] == der.hex()
            assert ask(unknown)["peer"] is None


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_certificate_of_another_authority_gets_no_connection(server: Served, version: ssl.TLSVersion) -> None:
    said = b""
    with suppress(OSError), server.connect(STRANGER.issue_cert("p2"), maximum_version=version) as refused:
        refused.sendall(GET)  # in TLS 1.3 the client may not know yet
        said = refused.recv(1000)
    assert said == b""
    served(server)


def test_a_resumed_session_brings_no_certificate(server: Served) -> None:
    context = client(AUTHORITY.issue_cert("p2"))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with server.wrap(context) as first:
        assert ask(first)["peer"] is not None
        session = first.session
        first.unwrap().close()  # one that ends without a word cannot be resumed
    with server.wrap(context, session) as second:
        assert second.session_reused, "else this test shows nothing"
        assert ask(second)["peer"] is None


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_an_old_version_of_tls_gets_no_connection(server: Served) -> None:
    with pytest.raises(ssl.SSLError):
        server.connect(minimum_version=ssl.TLSVersion.TLSv1, maximum_version=ssl.TLSVersion.TLSv1_1)


def test_another_context_counts_for_the_next_connection(server: Served, tmp_path: Path) -> None:
    """So an authority can be dropped while the node runs."""
    identity = STRANGER.issue_cert("p2")
    with server.connect() as before:
        server.trust(STRANGER, tmp_path)
        try:
            with server.connect(identity) as after:
                assert ask(after)["peer"] is not None
            assert ask(before)["peer"] is None
        finally:
            server.trust(AUTHORITY, tmp_path)


# ── how much ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_head_that_is_too_long_is_refused(server: Served) -> None:
    for line in (b"GET /%s HTTP/1.1\r\nHost: x\r\n" % (b"x" * 40_000), GET[:-2] + b"X: %s\r\n" % (b"x" * 40_000)):
        problem(told(server, line), 431, "too_large")
    problem(told(server, GET[:-2], *([b"X-%d: %s\r\n" % (n, b"x" * 1000) for n in range(40)])), 431, "too_large")
    served(server)


def test_a_head_that_never_ends_is_refused_without_its_end(server: Served) -> None:
    with server.connect() as connection:
        connection.sendall(GET[:-2] + b"X: ")
        with suppress(OSError):
            for _ in range(100):
                connection.sendall(b"x" * 1000)
        assert answered(connection).status == 431


def test_a_head_that_is_just_not_too_long_is_served(server: Served) -> None:
    with server.connect() as connection:
        for _ in range(3):
            head = GET[:-2] + b"X: " + b"x" * (32_768 - len(GET) - 5) + b"\r\n\r\n"
            assert len(head) == 32_768
            assert ask(connection, head)["path"] == "/"


def test_too_many_headers_are_refused(server: Served) -> None:
    lines = b"".join(b"X-%d: 1\r\n" % n for n in range(99))
    with server.connect() as connection:
        assert len(ask(connection, GET[:-2] + lines + b"\r\n")["headers"]) == 100
    problem(told(server, GET[:-2] + lines + b"Y: 1\r\n\r\n"), 431, "too_large")


def test_a_long_body_is_read_and_the_connection_goes_on(server: Served) -> None:
    with server.connect() as connection:
        for size in (0, 1, 300_000, 10_000_000):
            head = b"PUT /x HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size
            assert ask(connection, head + b"x" * size)["body"] == size
        chunks = b"".join(b"%x\r\n%s\r\n" % (n, b"x" * n) for n in (1, 70_000, 3)) + b"0\r\n\r\n"
        head = b"PUT /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        for _ in range(2):
            assert ask(connection, head + chunks)["body"] == 70_004


def test_who_is_answered_before_its_body_was_read_may_go_on_behind_it(server: Served) -> None:
    with server.connect() as connection:
        for _ in range(3):
            connection.sendall(b"PUT /early HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000\r\n\r\n" + b"x" * 3_000_000)
            assert answered(connection).json["path"] == "/early"
        assert ask(connection)["path"] == "/"


def test_a_body_without_end_behind_an_answer_is_not_read_for_ever(strict: Served) -> None:
    with strict.connect() as connection:
        connection.sendall(b"PUT /early HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert answered(connection).status == 200
        deadline_s = time.monotonic() + PATIENCE_S
        with pytest.raises(OSError):
            while time.monotonic() < deadline_s:
                connection.sendall(b"a\r\n0123456789\r\n")
                time.sleep(0.001)


def test_one_connection_too_many_is_told_so_and_the_others_notice_nothing(strict: Served) -> None:
    with ExitStack() as stack:
        first = [stack.enter_context(strict.connect()) for _ in range(5)]
        for connection in first:
            ask(connection)
        for _ in range(3):
            with strict.connect() as surplus:
                said = answered(surplus)
                problem(said, 429, "too_many_requests")
                assert said.headers["retry-after"] == "1"
                assert "connections_per_client" in said.json["detail"]
        identity = AUTHORITY.issue_cert("p2")
        with strict.connect(identity) as node:
            assert ask(node)["peer"] is not None, "a node of the cluster has a place all the same"
        strict.removed.add(ssl.PEM_cert_to_DER_cert(identity.cert_chain_pems[0].bytes().decode()))
        with strict.connect(identity) as stranger:
            assert answered(stranger).status == 429, "not one that was removed"
        for connection in first:
            ask(connection)
        assert strict.guard.refused["per_client"] >= 3
    strict.until(lambda: strict.guard.connections.total == 0)
    served(strict)


def test_three_hundred_connections_that_say_nothing_keep_nobody_else_out(tmp_path: Path) -> None:
    with serving(tmp_path, connections_per_client=256, handshake_timeout_s=2.0) as server, ExitStack() as stack:
        silent = [stack.enter_context(socket.create_connection(("127.0.0.1", server.port))) for _ in range(300)]
        server.until(lambda: server.guard.refused["per_client"] > 0)
        assert server.guard.connections.total <= 256 + 32
        with server.connect(source="127.0.0.2") as another:
            assert ask(another)["path"] == "/"
        server.until(lambda: server.guard.connections.total == 0)
        assert server.guard.refused["handshake"] >= 256
        assert len(silent) == 300
    assert server.guard.connections.clients == 0


def test_all_places_can_be_taken_but_not_those_of_nodes(tmp_path: Path) -> None:
    with serving(tmp_path, connections_max=3) as server, ExitStack() as stack:
        for n in range(3):
            stack.enter_context(server.connect(source=f"127.0.0.{n + 2}"))
        with server.connect(source="127.0.0.9") as surplus:
            said = answered(surplus)
        problem(said, 429, "too_many_requests")
        assert "connections_max" in said.json["detail"]
        with server.connect(AUTHORITY.issue_cert("p2")) as node:
            assert ask(node)["peer"] is not None


def test_a_trusted_proxy_is_many_clients(tmp_path: Path) -> None:
    with (
        serving(tmp_path, connections_per_client=1, trusted_proxies=["127.0.0.2/31"]) as server,
        server.connect(source="127.0.0.2") as one,
        server.connect(source="127.0.0.2") as two,
        server.connect(source="127.0.0.2") as three,
    ):
        for connection in (one, two, three):
            assert ask(connection)["path"] == "/"


# ── how slow ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_who_connects_and_says_nothing_is_let_go(strict: Served) -> None:
    with (
        socket.create_connection(("127.0.0.1", strict.port), timeout=PATIENCE_S) as no_tls,
        strict.connect() as no_word,
    ):
        served(strict)
        with suppress(OSError):
            assert no_tls.recv(1) == b""
        assert no_word.recv(1) == b"", "nothing was asked, so nothing is answered"
    assert strict.guard.refused["handshake"] == 1
    assert strict.guard.refused["silent"] == 1


@pytest.mark.parametrize("first", [b"", GET], ids=["at once", "after another request"])
@pytest.mark.parametrize("half", [b"G", b"GET / HTTP/1.1\r\nHost: x\r\nX: 1"])
def test_half_a_head_is_not_waited_for(strict: Served, half: bytes, first: bytes) -> None:
    with strict.connect() as connection:
        if first:
            ask(connection, first)
        connection.sendall(half)
        served(strict)
        problem(answered(connection), 408, "too_slow")
        assert ended(connection)
    assert strict.guard.refused["slow_head"] == 1


def test_a_head_that_comes_byte_by_byte_is_not_waited_for(strict: Served) -> None:
    with strict.connect() as connection:
        stop = threading.Event()

        def drip() -> None:
            with suppress(OSError):
                for byte in GET[:-1] + b"X: " + b"x" * 10_000:
                    if stop.wait(0.05):
                        return
                    connection.send(bytes([byte]))

        dripping = threading.Thread(target=drip)
        dripping.start()
        problem(answered(connection), 408, "too_slow")
        stop.set()
        dripping.join(PATIENCE_S)


@pytest.mark.parametrize("pause_s", [PATIENCE_S, 0.05], ids=["stops", "drips"])
def test_a_body_that_hardly_comes_is_not_waited_for(strict: Served, pause_s: float) -> None:
    with strict.connect() as connection:
        connection.sendall(b"PUT /x HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
        stop = threading.Event()

        def drip() -> None:
            with suppress(OSError):
                while not stop.wait(pause_s):
                    connection.send(b"x")

        dripping = threading.Thread(target=drip)
        dripping.start()
        served(strict)
        problem(answered(connection), 408, "too_slow")
        stop.set()
        dripping.join(PATIENCE_S)
    assert strict.guard.refused["slow_body"] == 1


def test_who_does_not_read_the_answer_is_cut(strict: Served) -> None:
    with strict.connect() as connection:
        connection.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        served(strict)
        strict.until(lambda: strict.guard.refused["unread"] == 1)
        served(strict)
        got = 0
        with suppress(OSError):
            while piece := connection.recv(1_000_000):
                got += len(piece)
        assert got < LARGE_BYTES


def test_who_goes_on_asking_and_does_not_read_is_cut(strict: Served) -> None:
    with strict.connect() as connection:
        connection.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n" * 2)
        strict.until(lambda: strict.guard.refused["unread"] == 1)
    strict.until(lambda: strict.guard.connections.total == 0)


def test_who_reads_slowly_gets_everything(strict: Served) -> None:
    with strict.connect() as connection:
        connection.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        got = 0
        while got < LARGE_BYTES:
            got += len(connection.recv(1_000_000))
            if got % 7 == 0:
                time.sleep(0.01)


def test_a_slow_application_is_not_the_clients_fault(strict: Served) -> None:
    with strict.connect() as connection:
        for _ in range(2):
            assert ask(connection, b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")["path"] == "/slow"


def test_an_idle_connection_ends_without_a_word(strict: Served) -> None:
    with strict.connect() as connection:
        ask(connection)
        assert connection.recv(1) == b""
    assert not strict.guard.refused


def test_a_server_that_ends_does_not_wait_for_clients_that_do_not_say_goodbye(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with ExitStack() as stack:
        with serving(tmp_path) as server:
            idle, new = (stack.enter_context(server.connect()) for _ in range(2))
            ask(idle)
            server.until(lambda: server.guard.connections.total == 2)
        assert "graceful shutdown exceeded" not in caplog.text, "uvicorn's own patience came to its end"
        assert (idle.recv(1), new.recv(1)) == (b"", b"")
