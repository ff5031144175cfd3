"""What a command does that a cluster cannot take just now: asks again, as the same request, for as long as was said."""

import json
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import trustme

from provider.client import Client, Problem

AUTHORITY = trustme.CA(key_type=trustme.KeyType.ECDSA)


@dataclass
class Cluster:
    """Answers each request with the next of `answers`: a status, a code, whether to ask again."""

    url: str = ""
    answers: list[tuple[int, str, bool]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    """Of what was asked."""


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    found, context = Cluster(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AUTHORITY.issue_cert("127.0.0.1").configure_cert(context)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            found.keys.append(self.headers["Idempotency-Key"])
            status, code, again = found.answers.pop(0)
            data = json.dumps({"detail": f"{code} is why", "code": code, "retryable": again}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    found.url = f"https://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield found
    server.shutdown()
    thread.join()
    server.server_close()


def insist(cluster: Cluster, for_s: float, say: list[str]) -> object:
    tls = ssl.create_default_context()
    AUTHORITY.configure_trust(tls)
    client = Client([cluster.url], token="bw.admin.1.2", tls=tls)
    try:
        return client.insist("POST", "/join", {}, for_s=for_s, say=say.append)
    finally:
        client.close()


def test_it_is_asked_again_under_one_key_until_it_is_done_and_each_reason_is_told_once(cluster: Cluster) -> None:
    away, unknown = (503, "log_unavailable", True), (504, "outcome_unknown", False)
    cluster.answers, said = [away, away, unknown, (201, "done", False)], []
    assert insist(cluster, 60.0, said) == {"detail": "done is why", "code": "done", "retryable": False}
    assert len(cluster.keys) == 4
    assert len({*cluster.keys} - {None}) == 1
    assert said == ["log_unavailable is why; asking again", "outcome_unknown is why; asking again"]


def test_what_asking_again_cannot_help_is_told_at_once(cluster: Cluster) -> None:
    cluster.answers, said = [(409, "conflict", False)], []
    with pytest.raises(Problem, match="conflict is why"):
        insist(cluster, 60.0, said)
    assert (len(cluster.keys), said) == (1, [])


def test_in_the_end_it_gives_up(cluster: Cluster) -> None:
    cluster.answers = [(503, "log_unavailable", True)]
    with pytest.raises(Problem, match="log_unavailable is why"):
        insist(cluster, 0.0, [])
    assert len(cluster.keys) == 1
