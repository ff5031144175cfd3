"""What the server does with connections before the application hears of them. A real one, and raw sockets."""

import json
import ssl
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.http_server import AUTHORITY, STRANGER, Served, client, serving

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path) as served:
        yield served


def ask(connection: ssl.SSLSocket, request: bytes = GET) -> Any:
    """The JSON that one request is answered with."""
    connection.sendall(request)
    head, _, body = connection.recv(100_000).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), head
    return json.loads(body or connection.recv(100_000))


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
    answered = b""
    with suppress(OSError), server.connect(STRANGER.issue_cert("p2"), maximum_version=version) as refused:
        refused.sendall(GET)  # in TLS 1.3 the client may not know yet
        answered = refused.recv(1000)
    assert answered == b""
    with server.connect() as another:
        assert ask(another)


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
