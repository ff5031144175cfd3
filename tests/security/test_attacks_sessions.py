"""Attacks upon people's sessions, with a browser and without, and with names that are no names."""

import json
import re
from uuid import uuid4

import pytest
from localcluster.api import Answer
from localcluster.cluster import Cluster

from shared.messages import up_key
from tests.support.amqp import Rogue, envelope, publish
from tests.support.api import Client, client, write_as
from tests.support.nodes import caught_up

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
    assert write_as(node, None, Cookie=sent, Bellwether_Csrf=answer.json["csrf"]).status in (200, 201), "the control"
    for headers in (
        {},
        {"Bellwether_Csrf": ""},
        {"Bellwether_Csrf": "x"},
        {"Bellwether_Csrf": other},
        {"Origin": "https://evil.example"},
        {"Bellwether_Csrf": "\u00e9"},
    ):
        refused = write_as(node, None, Cookie=sent, **headers)
        assert refused.status == 403, (headers, refused)
    assert write_as(node, None, Cookie=sent.replace("bw.session.", "bw.admin.")).status in (401, 403)


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
    assert write_as(primary, session).status in (200, 201)
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
        assert write_as(one, session).status == 401
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
