"""Attacks upon the API of real nodes: with tokens that are not good, with a stolen agent's, with a viewer's; with
headers that only nodes may send; with other versions of TLS and other authorities. Each has its control: the same
request, rightly made, is done."""

import json
import ssl
import time
from pathlib import Path
from uuid import uuid4

import pytest
import trustme
from localcluster.api import Answer
from localcluster.cluster import Cluster
from localcluster.process import wait_until

from provider.trust import pki
from shared.tls import client_context
from shared.tokens import new_token, parse_token
from tests.support.amqp import Rogue
from tests.support.api import Client, write_as
from tests.support.newcomers import newcomer
from tests.support.nodes import caught_up, primary_of

# ── tokens ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def wait_until_over(primary: Client, token: str) -> None:
    """Until the time of a token is over."""
    expires_at = primary.read(f"/tokens/{parse_token(token).id}")["spec"]["expires_at"]
    wait_until(lambda: time.time() * 1000 > expires_at, timeout_s=10, what="the end of a token of one second")


def test_tokens_that_are_not_good(cluster: Cluster, primary: Client, node: Client) -> None:
    good = primary.write("POST", "/tokens", {"role": "operator"}).json["token"]
    revoked = primary.write("POST", "/tokens", {"role": "operator"}).json["token"]
    primary.write("DELETE", f"/tokens/{parse_token(revoked).id}")
    expired = primary.write("POST", "/tokens", {"role": "operator", "ttl_s": 1}).json["token"]
    id_, secret = parse_token(good).id, parse_token(good).secret
    wait_until_over(primary, expired)
    caught_up(cluster)
    assert write_as(node, good).status in (200, 201)
    for bad in (
        revoked,
        expired,
        new_token("admin").text(),
        good.replace(secret, "0" * 64),
        good.replace(secret, secret.upper()) if secret.upper() != secret else "x",
        good.replace(secret, secret[:-1]),
        good.replace(secret, secret + "0"),
        good.replace("bw.operator.", "bw.admin."),
        good.replace("bw.operator.", "bw.node."),
        good.replace(id_, id_.upper()) if id_.upper() != id_ else "x",
        good.replace(id_, "../" + id_),
        good + ".x",
        f"bw.node.p1.{secret}",
        f"bw.agent.db1.{secret}",
        "bw.session." + "e30.x",
    ):
        assert (write_as(node, bad).status, write_as(node, bad).code) == (401, "unauthenticated"), bad
    assert write_as(node, None).status == 401


def test_a_role_or_scope_that_does_not_reach(cluster: Cluster, primary: Client, node: Client) -> None:
    viewer = primary.write("POST", "/tokens", {"role": "viewer"}).json["token"]
    caught_up(cluster)
    assert node.holding(viewer).get("/cluster").status == 200
    assert (write_as(node, viewer).status, write_as(node, viewer).code) == (403, "forbidden")
    for method, path in (
        ("POST", "/tokens"), ("GET", "/tokens"), ("GET", "/snapshot"), ("GET", "/history"), ("GET", "/audit"),
        ("DELETE", "/nodes/p2"), ("DELETE", "/agents/db1"), ("POST", "/failover"), ("PUT", "/users/mine"),
        ("GET", "/users"),
        ("POST", "/agents/advise"), ("PUT", "/instances/db1/databases/x"), ("DELETE", "/instances/db1/accounts/x"),
    ):  # fmt: skip
        answer = node.holding(viewer).request(method, path, {} if method in ("POST", "PUT") else None)
        assert (answer.status, answer.code) == (403, "forbidden"), (method, path, answer)


def test_a_stolen_agents_token(cluster: Cluster, node: Client, agent: Rogue) -> None:
    """Its own advice, and nothing else. (`test_access` in tests/cluster tries every route.)"""
    caught_up(cluster)
    thief = node.holding(agent.api_token)
    assert thief.get(f"/agents/{agent.id}/advice").status == 200
    for path in (
        *("/agents/db1/advice", f"/agents/{agent.id}", "/agents", "/cluster", "/events?follow=false", "/settings"),
        *(f"/agents/{agent.id}%2f..%2fdb1/advice", f"/agents/{agent.id}/../db1/advice", "/instances/db1/accounts"),
    ):
        assert thief.get(path).status in (403, 404), path
    assert write_as(node, agent.api_token).code == "forbidden"


def test_one_time_tokens(cluster: Cluster, primary: Client, node: Client) -> None:
    def fresh(role: str, **more: int) -> str:
        return str(primary.write("POST", "/tokens", {"role": role, **more}).json["token"])

    def enrol(token: str | None) -> Answer:
        name = f"late{uuid4().hex[:8]}"
        body = newcomer(name).body(instances=[{"id": name, "engine": "mariadb", "port": 1}])
        answer = node.holding(token).post("/enroll", body)
        if answer.status == 201:
            primary.write("DELETE", f"/agents/{name}")
        return answer

    used, expired, revoked, good = fresh("agent"), fresh("agent", ttl_s=1), fresh("agent"), fresh("agent")
    primary.write("DELETE", f"/tokens/{parse_token(revoked).id}")
    elsewhere = parse_token(fresh("agent"))
    wait_until_over(primary, expired)
    caught_up(cluster)
    assert enrol(used).status == 201, "the control"
    caught_up(cluster)
    for token in (
        used,
        expired,
        revoked,
        fresh("node"),
        fresh("viewer"),
        primary.token,
        new_token("agent", "f" * 64).text(),  # another cluster's
        good.replace(parse_token(good).secret, parse_token(used).secret),
        good.replace("bw.agent.", "bw.node."),
        f"bw.agent.{elsewhere.id}.{'0' * 64}.{elsewhere.fingerprint}",
        None,
    ):
        answer = enrol(token)
        assert answer.status in (401, 403), (token, answer)
    assert enrol(good).status == 201, "none of this used it up"
    assert write_as(node, fresh("agent")).status in (401, 403), "a one-time token opens nothing else"


# ── what only nodes may say ──────────────────────────────────────────────────────────────────────────────────────────

FORGED = {
    "X-Forwarded-For": "203.0.113.9",
    "X-Real-IP": "203.0.113.9",
    "Forwarded": "for=203.0.113.9",
    "X-Forwarded-Proto": "http",
    "X-Forwarded-Host": "evil.example",
    "Bellwether-Forwarded": "p2",
    "Bellwether-Client": "203.0.113.9",
    "Bellwether-Principal": "token:admin",
    "Bellwether-Role": "admin",
    "Bellwether-Node": "p1",
    "bellwether.principal": "admin",
    "Bellwether-Peer": "p1",
    "X-SSL-Client-CN": "p1",
    "X-Client-Cert": "p1",
    "X-HTTP-Method-Override": "GET",
}


@pytest.mark.parametrize("name", FORGED)
def test_a_header_makes_nobody_somebody(cluster: Cluster, primary: Client, node: Client, name: str) -> None:
    headers = {name.replace("-", "_"): FORGED[name]}
    assert write_as(node, None, **headers).status == 401
    viewer = primary.write("POST", "/tokens", {"role": "viewer"}).json["token"]
    caught_up(cluster)
    assert write_as(node, viewer, **headers).status == 403
    assert write_as(node, node.token, **headers).status in (200, 201), "it changes nothing for who is let in, either"
    caught_up(cluster)
    found = primary.read("/audit?limit=20")["items"]
    assert found
    assert "203.0.113.9" not in json.dumps(found), "an address that the client made up"


def test_a_standby_does_not_believe_that_somebody_was_let_in_elsewhere(cluster: Cluster, standby: Client) -> None:
    """As a node that forwards would ask, but without its certificate: with nothing, with the node's own token."""
    stolen = (cluster.providers[primary_of(cluster)].files.directory / "node.token").read_text().strip()
    for token in (None, stolen, "bw.node.p1." + "0" * 64):
        answer = write_as(standby, token, Bellwether_Forwarded="p1", Bellwether_Client="127.0.0.1")
        assert answer.status in (401, 403), (token, answer)
        # Without its certificate a node's token stands for nothing but this node's own certificate to be renewed.
        assert standby.holding(token).get("/cluster", Bellwether_Forwarded="p1").status in (401, 403)
    with_certificate = as_node(cluster, primary_of(cluster), standby)
    assert with_certificate("GET", "/api/v1/cluster", stolen) == 200, "the control: token and certificate together"
    assert with_certificate("GET", "/api/v1/cluster", None) == 401, "the certificate alone"


def as_node(cluster: Cluster, name: str, to: Client):  # type: ignore[no-untyped-def]
    """Asks with the certificate of that node."""
    import http.client
    from urllib.parse import urlsplit

    directory, where = cluster.providers[name].files.directory, urlsplit(to.url)

    def ask(method: str, path: str, token: str | None) -> int:
        tls = client_context(cluster.layout.ca)
        tls.load_cert_chain(directory / "node.pem", directory / "node.key")
        connection = http.client.HTTPSConnection(where.hostname or "", where.port, timeout=10, context=tls)
        try:
            connection.request(method, path, headers={"Authorization": f"Bearer {token}"} if token else {})
            return connection.getresponse().status
        finally:
            connection.close()

    return ask


# ── TLS ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def handshake(tls: ssl.SSLContext, port: int, *, http: bool = True) -> str | None:
    """The version agreed upon, once a byte was answered; None where it was refused."""
    import socket

    try:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
            tls.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
        ):
            connection.sendall(
                b"GET /api/v1/health/live HTTP/1.1\r\nHost: x\r\n\r\n" if http else b"AMQP\x00\x00\x09\x01"
            )
            return connection.version() if connection.recv(1) else None
    except OSError:
        return None


def ports(cluster: Cluster) -> dict[str, int]:
    there = cluster.ports
    return {"api": there["p1"], "broker": there["broker"], "management": there["broker-management"]}


@pytest.mark.parametrize("what", ["api", "broker", "management"])
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_old_versions_of_tls_and_none_at_all(cluster: Cluster, what: str) -> None:
    import socket

    port = ports(cluster)[what]
    for version, allowed in (
        (ssl.TLSVersion.TLSv1, False),
        (ssl.TLSVersion.TLSv1_1, False),
        (ssl.TLSVersion.TLSv1_2, True),
        (ssl.TLSVersion.TLSv1_3, True),
    ):
        tls = client_context(cluster.layout.ca)
        tls.set_ciphers("ALL:@SECLEVEL=0")
        tls.minimum_version = tls.maximum_version = version
        agreed = handshake(tls, port, http=what != "broker")
        assert (agreed is not None) == allowed, (what, version, agreed)
    weak = client_context(cluster.layout.ca)
    weak.maximum_version = ssl.TLSVersion.TLSv1_2
    weak.set_ciphers("AES128-SHA:AES256-SHA:NULL-SHA:@SECLEVEL=0")
    assert handshake(weak, port, http=what != "broker") is None, "no forward secrecy, or nothing at all"
    for said in (b"GET /api/v1/health/live HTTP/1.1\r\nHost: x\r\n\r\n", b"AMQP\x00\x00\x09\x01"):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as plain:
            plain.sendall(said)
            try:
                answer = plain.recv(1000)
            except ConnectionError:
                answer = b""
        assert not answer.startswith((b"HTTP", b"AMQP", b"\x01")), answer


@pytest.mark.parametrize("what", ["api", "broker", "management"])
def test_a_server_of_another_authority_is_not_believed(cluster: Cluster, tmp_path: Path, what: str) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    port, http = ports(cluster)[what], what != "broker"
    assert handshake(client_context(tmp_path / "other.pem"), port, http=http) is None
    assert handshake(client_context(cluster.layout.ca), port, http=http) is not None, "the control"


def test_a_certificate_of_another_authority_is_not_believed(cluster: Cluster, tmp_path: Path, node: Client) -> None:
    """It may be called like a node."""
    pem, key = pki.new_ca("Bellwether")
    own = pki.new_key()
    for name, content in (
        ("c.pem", pki.sign(pki.new_request(own, "p1"), "p1", ("127.0.0.1",), pem, key)),
        ("k.pem", own),
    ):
        (tmp_path / name).write_text(content)
    tls = client_context(cluster.layout.ca)
    tls.load_cert_chain(tmp_path / "c.pem", tmp_path / "k.pem")
    port = int(node.url.rpartition(":")[2])
    assert handshake(tls, port) is None
    assert handshake(client_context(cluster.layout.ca), port) is not None
