"""Attacks through a real HAProxy, in both ways that it is set up before providers: passing TLS on (tcp), and ending it
and speaking HTTPS to the nodes (http). Nothing that a path or a header says may make one request two, reach what the
token may not, or say who asks."""

import re
import socket
import ssl
from collections.abc import Iterator
from contextlib import suppress
from uuid import uuid4

import pytest
from localcluster.cluster import Cluster
from localcluster.ports import free_ports
from localcluster.process import start, wait_until

from shared.tls import client_context
from shared.tokens import parse_token
from tests.support.api import Client, client
from tests.support.nodes import primary_of, standbys_of

CONFIGURATION = """
global
    maxconn 200
defaults
    timeout connect 5s
    timeout client 30s
    timeout server 30s
    option redispatch

frontend passing
    mode tcp
    bind 127.0.0.1:{tcp}
    default_backend nodes_tcp
backend nodes_tcp
    mode tcp
{tcp_servers}

frontend ending
    mode http
    bind 127.0.0.1:{http} ssl crt {directory}/own.pem alpn http/1.1
    option forwardfor
    default_backend nodes_http
backend nodes_http
    mode http
    http-reuse always
{http_servers}
"""
SERVED = re.compile(rb"HTTP/1\.[01] (\d{3})")


@pytest.fixture(scope="module")
def proxies(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, int]]:
    """Ports of an HAProxy before both nodes, by mode."""
    directory = tmp_path_factory.mktemp("haproxy")
    tcp, http = free_ports(2)
    first = cluster.first.files.directory
    (directory / "own.pem").write_text((first / "node.pem").read_text() + (first / "node.key").read_text())
    (directory / "own.pem").chmod(0o600)
    servers = [f"    server {name} 127.0.0.1:{cluster.ports[name]}" for name in cluster.providers]
    verified = [f"{server} ssl verify required ca-file {cluster.layout.ca}" for server in servers]
    (directory / "haproxy.cfg").write_text(
        CONFIGURATION.format(
            tcp=tcp, http=http, directory=directory, tcp_servers="\n".join(servers), http_servers="\n".join(verified)
        )
    )
    process = start(["haproxy", "-db", "-f", directory / "haproxy.cfg"], log=directory / "haproxy.log")
    try:
        wait_until(lambda: listens(http) and listens(tcp), timeout_s=15, what="haproxy", process=process)
        yield {"tcp": tcp, "http": http}
    finally:
        process.stop(grace_s=2)


def listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


@pytest.fixture(params=["tcp", "http"])
def port(request: pytest.FixtureRequest, proxies: dict[str, int]) -> int:
    return proxies[request.param]


@pytest.fixture(scope="module")
def viewer(cluster: Cluster) -> str:
    admin = client(cluster, primary_of(cluster))
    made = admin.write("POST", "/tokens", {"role": "viewer"}).json
    for name in cluster.providers:
        client(cluster, name).read("/cluster", Bellwether_Min_Revision=str(made["revision"]))
    return str(made["token"])


def said(cluster: Cluster, port: int, data: bytes, *, quiet_s: float = 1.0) -> bytes:
    """All that is answered to these bytes until the other side ends, or says nothing for a while."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as plain:
        tls: ssl.SSLContext = client_context(cluster.layout.ca)
        with tls.wrap_socket(plain, server_hostname="127.0.0.1") as connection:
            found = b""
            with suppress(OSError):
                connection.sendall(data)
                connection.settimeout(quiet_s)
                while piece := connection.recv(65536):
                    found += piece
            return found


def request(method: str, path: str, token: str | None, *headers: str, body: bytes = b"", close: bool = True) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: cluster"]
    lines += [f"Authorization: Bearer {token}"] if token else []
    lines += ["Connection: close"] if close else []
    return "\r\n".join([*lines, *headers, "", ""]).encode("latin-1") + body


def statuses(answers: bytes) -> list[int]:
    return [int(found) for found in SERVED.findall(answers)]


def test_what_is_rightly_asked_is_answered(cluster: Cluster, port: int, primary: Client, viewer: str) -> None:
    assert statuses(said(cluster, port, request("GET", "/api/v1/cluster", viewer))) == [200]
    body = b'{"value": "through"}'
    put = request(
        "PUT", "/api/v1/settings/user.proxy", primary.token, f"Content-Length: {len(body)}", body=body, close=True
    )
    assert statuses(said(cluster, port, put))[0] in (200, 201)


SMUGGLED = (
    b"PUT /api/v1/settings/user.smuggled HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n"
    b'Content-Length: 11\r\n\r\n{"value":1}'
)
FRAMINGS = {
    "CL.TE": ["Content-Length: 5", "Transfer-Encoding: chunked"],
    "TE.CL": ["Transfer-Encoding: chunked", "Content-Length: 3"],
    "two lengths": ["Content-Length: 5", "Content-Length: 0"],
    "two lengths in one": ["Content-Length: 5, 0"],
    "a signed length": ["Content-Length: +5"],
    "a hex length": ["Content-Length: 0x5"],
    "TE with a space": ["Transfer-Encoding : chunked", "Content-Length: 5"],
    "TE with a tab": ["Transfer-Encoding:\tchunked", "Content-Length: 5"],
    "TE folded": ["Transfer-Encoding:\r\n chunked", "Content-Length: 5"],
    "TE unknown": ["Transfer-Encoding: xchunked", "Content-Length: 5"],
    "TE twice": ["Transfer-Encoding: chunked", "Transfer-Encoding: identity", "Content-Length: 5"],
    "TE list": ["Transfer-Encoding: identity, chunked", "Content-Length: 5"],
    "TE with VT": ["Transfer-Encoding: \x0bchunked", "Content-Length: 5"],
    "TE behind a line feed": ["X: a\nTransfer-Encoding: chunked", "Content-Length: 5"],
    "TE underscored": ["Transfer_Encoding: chunked", "Content-Length: 5"],
    "chunk extension": ["Transfer-Encoding: chunked"],
}


@pytest.mark.parametrize("framing", FRAMINGS)
def test_one_request_does_not_become_two(
    cluster: Cluster, port: int, primary: Client, viewer: str, framing: str
) -> None:
    """A second request hidden in the body of the first, which one end takes for a body and the other for a request. It
    bears a good token here: had it been seen as a request, it would have been done, and be found."""
    hidden = SMUGGLED % str(primary.token).encode()
    for inside in (b"0\r\n\r\n" + hidden, b"5;\n" + hidden, b"", hidden):
        attack = request("POST", "/api/v1/agents/advise", viewer, *FRAMINGS[framing], body=inside, close=False)
        answers = said(cluster, port, attack + request("GET", "/api/v1/health/live", None))
        assert primary.get("/settings/user.smuggled").status == 404 or only_as_its_own(answers, inside), answers
        primary.delete("/settings/user.smuggled")


CUT_OFF = {
    "head": "PUT /api/v1/settings/user.stolen HTTP/1.1\r\nHost: x\r\nContent-Length: 11\r\nX-Ignore: ",
    "body": "PUT /api/v1/settings/user.stolen HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
    'Content-Length: 400\r\n\r\n{{"value": "',
    "whole": "DELETE /api/v1/settings/user.kept HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n",
}
"""What is hidden, and waits for the next request on the connection between proxy and node: to take it for the rest of
its head, with the victim's token; for its body, to show it to the attacker; or to be answered in its place."""


@pytest.mark.parametrize("framing", FRAMINGS)
def test_nobody_does_what_another_has_hidden(
    cluster: Cluster, proxies: dict[str, int], primary: Client, viewer: str, framing: str
) -> None:
    """Both use the same connections to the nodes. The audit says who did what: the victim what it asked for, the viewer
    nothing."""
    port, made = proxies["http"], primary.write("POST", "/tokens", {"role": "operator"}).json
    for name in cluster.providers:
        client(cluster, name).read("/cluster", Bellwether_Min_Revision=str(made["revision"]))
    primary.write("PUT", "/settings/user.kept", {"value": 1})
    before, asked = primary.read("/cluster")["revision"], []
    for hidden in CUT_OFF.values():
        inside = hidden.format(token=viewer).encode()
        for body in (b"0\r\n\r\n" + inside, b"5;\n" + inside, inside):
            attack = request("POST", "/api/v1/agents/advise", viewer, *FRAMINGS[framing], body=body, close=False)
            shown = said(cluster, port, attack, quiet_s=0.1)
            assert str(made["token"]).encode() not in shown
            assert b"user.victim" not in shown
            asked.append(f"user.victim.{uuid4().hex}")
            put = request(
                "PUT", f"/api/v1/settings/{asked[-1]}", made["token"], "Content-Length: 11", body=b'{"value":1}'
            )
            assert statuses(said(cluster, port, put)) == [201], "the victim's own answer, and no other"
    done = primary.read(f"/audit?principal=token:{parse_token(made['token']).id}&limit=1000")["items"]
    assert {item["outcome"] for item in done} == {"done"}
    assert sorted(document["id"] for item in done for document in item["documents"]) == sorted(asked)
    assert not primary.read(f"/audit?principal=token:{parse_token(viewer).id}&outcome=done")["items"]
    assert primary.get("/settings/user.stolen").status == 404
    assert primary.read("/settings/user.kept")["revision"] <= before


def only_as_its_own(answers: bytes, inside: bytes) -> bool:
    """Where both ends agree on where the first request ends, what follows is a request of the same client, and has an
    answer of its own, the second of three: nothing was smuggled past anybody."""
    return inside.endswith(b'{"value":1}') and len(statuses(answers)) >= 3


PATHS = [
    *("/api/v1/../v1/tokens", "/api/v1/%2e%2e/v1/tokens", "/api/v1//tokens", "//api/v1/tokens", "/api/v1/tokens/"),
    *("/API/v1/tokens", "/api/v1/cluster/..%2ftokens", "/api/v1/cluster/%2e%2e/tokens", "/api/v1/tokens%00"),
    *(
        "/api/v1/settings/..%2ftokens",
        "/api/v1/tokens%20",
        "/api/v1/tokens;x=1",
        "/api/v1/tokens?x=1",
        "/./api/v1/tokens",
    ),
    *("/api/v1/cluster%2f..%2ftokens", "/api/v1\\tokens", "https://cluster/api/v1/tokens", "http://evil/api/v1/tokens"),
    *("/api/v1/%74okens", "/api/v1/tokens#x", "*", ""),
]


@pytest.mark.parametrize("path", PATHS)
def test_no_way_of_writing_a_path_leads_past_the_policy(cluster: Cluster, port: int, viewer: str, path: str) -> None:
    for token in (viewer, None):
        answer = said(cluster, port, request("GET", path, token))
        assert answer
        assert not [status for status in statuses(answer) if status < 400 or status >= 500], answer
        assert b"sha256" not in answer
        assert b'"items"' not in answer


HEADERS = [
    *("Bellwether-Forwarded: p1", "Bellwether-Client: 127.0.0.1", "Bellwether_Forwarded: p1", "Authorization_: x"),
    *("X-Forwarded-For: 127.0.0.1", "X-Original-URL: /api/v1/health/live", "X-Rewrite-URL: /api/v1/health/live"),
    *("X-HTTP-Method-Override: GET", "X-Forwarded-Client-Cert: p1", "Connection: close, Authorization"),
    "Connection: close, Bellwether-Client",
]


@pytest.mark.parametrize("header", HEADERS)
def test_no_header_lets_a_viewer_write(cluster: Cluster, port: int, viewer: str, header: str) -> None:
    body = b'{"value": 1}'
    for token, expected in ((viewer, (400, 401, 403)), (None, (400, 401))):
        lines = [header, f"Content-Length: {len(body)}"]
        answer = said(cluster, port, request("PUT", "/api/v1/settings/user.viewer", token, *lines, body=body))
        assert statuses(answer)[0] in expected, answer


def test_two_tokens_are_not_more_than_one(cluster: Cluster, port: int, viewer: str) -> None:
    """Whichever counts: it is one that was shown, and it is not the better of the two that an attacker cannot have."""
    body = b'{"value": 1}'
    made_up = "bw.admin." + "0" * 16 + "." + "0" * 64
    for pair in ([viewer, made_up], [made_up, viewer]):
        lines = [*(f"Authorization: Bearer {token}" for token in pair), f"Content-Length: {len(body)}"]
        answer = said(cluster, port, request("PUT", "/api/v1/settings/user.viewer", None, *lines, body=body))
        assert statuses(answer)[0] in (400, 401, 403), answer


def test_clients_that_say_nothing_keep_nobody_out(cluster: Cluster, standby: Client) -> None:
    """Two hundred to the node itself: half have done their handshake, half have not."""
    silent: list[socket.socket] = []
    try:
        for number in range(200):
            plain = socket.create_connection(("127.0.0.1", int(standby.url.rpartition(":")[2])), timeout=5)
            silent.append(plain)
            if number % 2:
                with suppress(OSError):  # one too many of one address: it is told so
                    silent.append(client_context(cluster.layout.ca).wrap_socket(plain, server_hostname="127.0.0.1"))
        name = next(name for name in standbys_of(cluster) if client(cluster, name).url == standby.url)
        assert client(cluster, name).get("/health/ready").status == 200
        assert standby.read("/cluster")["revision"] > 0
    finally:
        for one in silent:
            one.close()
