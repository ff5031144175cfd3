"""Invariant: nobody does what the role of their token does not allow (`provider/api/access/auth.py`), on any node, by
any route; and nothing that is secret leaves a provider by an answer, an event or a log."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from localcluster.cluster import Cluster
from localcluster.process import wait_until

from shared.tokens import parse_token
from tests.support.api import Client, client
from tests.support.nodes import primary_of

RANK = {"node:token": -1, "agent": 0, "viewer": 1, "operator": 2, "admin": 3, "node": 3}
PROBES = {"/health/live", "/health/ready", "/health/primary", "/health/standby", "/api/leader-check", "/metrics", "/ca"}


@pytest.fixture(scope="module")
def routes(cluster: Cluster) -> dict[tuple[str, str], str]:
    """What the API says of itself: who may call which route. Documented in docs/ROLES.md."""
    document = client(cluster, "p1").read("/openapi.json")
    return {
        (method.upper(), path.removeprefix("/api/v1")): operation["x-role"]
        for path, item in document["paths"].items()
        for method, operation in item.items()
    }


PARAMETERS = {
    "name": "access",
    "agent": "db1",
    "instance": "db1",
    "key": "user.access",
    "task": "none",
    "token": "none",
    "authority": "none",
}
UNKNOWN = {
    ("DELETE", "/agents/{agent}"): "/agents/db9",
    ("POST", "/agents/{agent}/credential"): "/agents/db9/credential",
}
"""What is asked where the route would do harm to a cluster that others use."""
OWN = {("POST", "/nodes/{name}/certificate"): {"node"}}
"""What each may do for itself alone: answered with 403, since none of those who ask is meant."""
OTHERS = {
    ("PUT", "/users/{name}/password"): "admin",
    ("DELETE", "/users/{name}/sessions"): "admin",
    ("PUT", "/agents/{agent}/credential"): "admin",
}
"""What a route needs that asks less of whoever it is about."""
MEANT = {("PUT", "/agents/{agent}/credential"): {"agent"}}
"""Who is asked about itself there, and may."""
HARMFUL = {("POST", "/tokens/administrator"): "node"}
"""Not asked by that role: it would revoke the token that all these tests use. See tests/provider/test_tokens.py."""


@dataclass(frozen=True)
class Principal:
    """Whose token. `role` is what it counts as: one of `RANK`, "one-time …", or None for no good."""

    token: str | None
    role: str | None


@pytest.fixture(scope="module")
def principals(cluster: Cluster) -> dict[str, Principal]:
    admin = client(cluster, primary_of(cluster))

    def new(role: str) -> str:
        return str(admin.write("POST", "/tokens", {"role": role}).json["token"])

    revoked = new("admin")
    admin.write("DELETE", f"/tokens/{parse_token(revoked).id}")
    viewer = new("viewer")
    raised = viewer.replace("bw.viewer.", "bw.admin.")
    standby = next(name for name in cluster.providers if name != primary_of(cluster))
    files = cluster.providers[standby].files.directory
    found = {
        "nobody": Principal(None, None),
        "garbage": Principal("garbage", None),
        "made up": Principal(f"bw.admin.{'0' * 16}.{'0' * 64}", None),
        "revoked": Principal(revoked, None),
        "a viewer who says admin": Principal(raised, None),
        "viewer": Principal(viewer, "viewer"),
        "operator": Principal(new("operator"), "operator"),
        "admin": Principal(new("admin"), "admin"),
        "node": Principal((files / "node.token").read_text().strip(), "node:token"),
        "agent": Principal((cluster.agents["db1"].files.directory / "api.token").read_text().strip(), "agent"),
        "one-time node": Principal(new("node"), "newcomer:node"),
        "one-time agent": Principal(new("agent"), "newcomer:agent"),
    }
    revision = admin.read("/cluster")["revision"]
    for name in cluster.providers:
        client(cluster, name).read("/cluster", Bellwether_Min_Revision=str(revision))
    return found


def test_what_is_open_to_everybody(routes: dict[tuple[str, str], str]) -> None:
    """Whoever adds to these must think twice."""
    assert {path for (_, path), role in routes.items() if role == "open"} <= PROBES | {"/login"}
    assert all(method == "GET" for (method, path), role in routes.items() if role == "open" and path != "/login")


@pytest.mark.parametrize(
    "who",
    [
        "nobody",
        "garbage",
        "made up",
        "revoked",
        "a viewer who says admin",
        "viewer",
        "operator",
        "admin",
        "node",
        "agent",
        "one-time node",
        "one-time agent",
    ],
)
def test_a_token_opens_what_its_role_may_and_nothing_else(
    node: Client, principals: dict[str, Principal], routes: dict[tuple[str, str], str], who: str
) -> None:
    asked = node.holding(principals[who].token)
    wrong = []
    for (method, path), needed in routes.items():
        if HARMFUL.get((method, path)) == principals[who].role:
            continue
        concrete = UNKNOWN.get((method, path)) or re.sub(r"{(\w+)}", lambda m: PARAMETERS[m[1]], path)
        answer = asked.request(
            method,
            concrete + ("?follow=false" if path == "/events" else ""),
            {"nonsense": True} if method in ("PUT", "POST") else None,
        )
        expected = _expected(principals[who].role, OTHERS.get((method, path), needed))
        if who in OWN.get((method, path), ()):
            expected = 403
        if who in MEANT.get((method, path), ()):
            expected = 200
        got = answer.status if answer.status in (401, 403) else 200
        if got != expected or (answer.status >= 500 and not path.startswith("/health/")):
            wrong.append((method, concrete, answer.status, expected, answer.body[:200]))
    assert wrong == []


def _expected(role: str | None, needed: str) -> int:
    if needed == "open":
        return 200
    if needed.startswith("newcomer"):
        return 200 if role == needed else 401
    if role not in RANK:
        return 401
    if needed in ("node", "node:token"):
        return 200 if role in ("node", needed) else 403
    return 200 if RANK[role] >= RANK[needed] else 403


def test_settings_of_the_cluster_need_an_administrator(node: Client, principals: dict[str, Principal]) -> None:
    operator = node.holding(principals["operator"].token)
    assert operator.put("/settings/agents.offline_after_s", {"value": 7}).code == "forbidden"
    assert operator.delete("/settings/history.days").code == "forbidden"
    assert node.holding(principals["admin"].token).put("/settings/history.days", {"value": 30}).status in (200, 201)


def test_an_agent_reads_its_own_advice_only(cluster: Cluster, node: Client, principals: dict[str, Principal]) -> None:
    agent = node.holding(principals["agent"].token)
    advice = agent.read("/agents/db1/advice")
    assert (advice["primary"], advice["vhost"]) == (primary_of(cluster), "bellwether")
    assert advice["endpoints"] == [cluster.broker.endpoint]
    assert agent.get("/agents/db2/advice").code == "forbidden"
    assert node.read("/agents/db1/advice") == advice


def test_a_token_ends_with_its_time_and_with_its_revocation(node: Client) -> None:
    brief = node.write("POST", "/tokens", {"role": "viewer", "ttl_s": 1}).json
    asked = node.holding(brief["token"])
    assert asked.get("/cluster").status == 200
    wait_until(lambda: asked.get("/cluster").status == 401, timeout_s=30, what="the end of a token of one second")

    lasting = node.write("POST", "/tokens", {"role": "viewer"}).json
    asked = node.holding(lasting["token"])
    assert asked.get("/cluster").status == 200
    assert lasting["id"] in [token["id"] for token in node.read("/tokens?limit=1000")["items"]]
    assert node.delete(f"/tokens/{lasting['id']}").status == 204
    assert asked.get("/cluster").status == 401


def test_a_new_token_is_shown_once(node: Client, other: Client) -> None:
    first = node.post("/tokens", {"role": "viewer"}, Idempotency_Key="one token")
    again = other.post("/tokens", {"role": "viewer"}, Idempotency_Key="one token")
    if first.json["token"] is not None:  # else the other parameter of `node` has had it
        assert node.holding(first.json["token"]).get("/cluster").status == 200
    assert (again.status, again.json["id"], again.json["token"]) == (201, first.json["id"], None)


# ── secrets ──────────────────────────────────────────────────────────────────────────────────────────────────────────

PASSWORD = "Hn7-correct'horse`battery\"staple"


@pytest.fixture(scope="module")
def secrets(cluster: Cluster, principals: dict[str, Principal]) -> Iterator[dict[str, str]]:
    """What must not be told, with a name for each: plain, and as it is stored."""
    admin = client(cluster, primary_of(cluster))
    admin.write("PUT", "/instances/db1/accounts/keeper", {"password": PASSWORD})
    admin.wait_for("/instances/db1/accounts/keeper", lambda a: a["status"]["phase"] == "ready")
    admin.put("/instances/db1/accounts/keeper", {"password": PASSWORD, "grants": "wrong"})
    snapshot = admin.get("/snapshot").body.decode()
    documents = [json.loads(line[1]) for line in map(json.loads, snapshot.splitlines()[1:]) if line[0] == "document"]
    found = {"a password": PASSWORD}
    for kind, id_, *_, spec, _status in documents:
        found |= {f"{what} of {kind} {id_}": secret for what, secret in _hidden(kind, spec)}
    for who, principal in principals.items():
        if principal.role is not None and principal.token is not None:
            found[f"the token of {who}"] = parse_token(principal.token).secret
    for file in _secret_files(cluster):
        text = file.read_text().strip()
        found[str(file)] = parse_token(text).secret if text.startswith("bw.") else text
    assert len(found) > 15
    yield found
    admin.write("DELETE", "/instances/db1/accounts/keeper?drop=true")


HASHES = ("token_sha256", "broker_password_hash", "sha256", "password_hash")


def _hidden(kind: str, spec: Any) -> Iterator[tuple[str, str]]:
    """What of a document is for providers alone."""
    yield from ((field, spec[field]) for field in HASHES if field in spec)
    yield from (
        (field, spec[field]) for field in ("password", "key") if kind in ("account", "authority") and field in spec
    )
    yield from ((f"password {n}", sealed) for n, sealed in enumerate(spec.get("passwords", ())))
    yield from ((f"key for {node}", wrapped) for node, wrapped in spec.get("wrapped", {}).items())


def _secret_files(cluster: Cluster) -> list[Path]:
    names = ["broker.password", "node.token", "api.token", "secrets.key", "node.key", "admin.token"]
    return [file for name in names for file in cluster.layout.root.rglob(name)]


def test_secrets_lie_in_files_that_nobody_else_can_read(cluster: Cluster) -> None:
    files = [*_secret_files(cluster), *cluster.layout.root.rglob("state.db*")]
    assert len(files) > 15
    assert [file for file in files if file.stat().st_mode & 0o077] == []


def test_no_answer_tells_a_secret(
    node: Client, principals: dict[str, Principal], routes: dict[tuple[str, str], str], secrets: dict[str, str]
) -> None:
    for who in ("admin", "node", "viewer", "agent"):
        asked = node.holding(principals[who].token)
        for method, path in routes:
            if method != "GET" or path in ("/snapshot", "/history"):  # for a new node: they must hold the hashes
                continue
            concrete = re.sub(r"{(\w+)}", lambda m: {**PARAMETERS, "name": "keeper"}[m[1]], path)
            answer = asked.get(concrete + ("?follow=false" if path == "/events" else "?limit=1000"))
            assert _told(answer.body.decode(), secrets) == [], (who, path)


def test_no_event_tells_a_secret(node: Client, secrets: dict[str, str]) -> None:
    oldest = node.get("/events?after=0&follow=false")
    first = int(re.findall(r"\d+", oldest.json["detail"])[-1]) if oldest.status == 410 else 0
    for accept in ("text/event-stream", "application/x-ndjson"):
        answer = node.get(f"/events?after={first}&follow=false", Accept=accept)
        assert answer.status == 200
        assert b"keeper" in answer.body
        assert _told(answer.body.decode(), secrets) == []


def test_no_log_tells_a_secret(cluster: Cluster, secrets: dict[str, str]) -> None:
    logs = list(cluster.layout.root.rglob("*.log"))
    assert len(logs) >= 6
    for log in logs:
        assert _told(log.read_text(errors="replace"), secrets) == [], log


def test_no_secret_shows_in_the_list_of_processes(cluster: Cluster, secrets: dict[str, str]) -> None:
    for name, member in cluster.members.items():
        assert member.process is not None
        line = Path(f"/proc/{member.process.pid}/cmdline").read_bytes().decode(errors="replace")
        assert _told(line, secrets) == [], name


def _told(text: str, secrets: dict[str, str]) -> list[str]:
    forms: Any = {name: {secret, json.dumps(secret)[1:-1]} for name, secret in secrets.items()}
    return [name for name, spellings in forms.items() if any(spelling in text for spelling in spellings)]
