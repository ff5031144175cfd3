"""Attacks of a token that is good for some paths only: every way to write a path that is not among them, on every
node, also where the request is forwarded. Whatever it is taken for, what is beyond the scope is neither told nor done.
"""

import http.client
import json
from contextlib import closing
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from localcluster.cluster import Cluster

from shared.tls import client_context
from tests.support.api import Client, client
from tests.support.nodes import primary_of, standbys_of

OUTSIDE, INSIDE = "user.outside", "user.mine"
SECRET = "beyond-the-scope"


@pytest.fixture(scope="module")
def token(cluster: Cluster) -> str:
    """An administrator's, for one setting and all below one agent."""
    admin = client(cluster, primary_of(cluster))
    admin.write("PUT", f"/settings/{OUTSIDE}", {"value": SECRET})
    admin.write("PUT", f"/settings/{INSIDE}", {"value": 1})
    made = admin.write("POST", "/tokens", {"role": "admin", "scope": [f"/settings/{INSIDE}", "/agents/db1"]}).json
    for name in cluster.providers:
        client(cluster, name).read("/cluster", Bellwether_Min_Revision=str(made["revision"]))
    return str(made["token"])


@pytest.fixture(params=["primary", "standby"])
def node(request: pytest.FixtureRequest, cluster: Cluster) -> Client:
    return client(cluster, primary_of(cluster) if request.param == "primary" else standbys_of(cluster)[0])


def ask(node: Client, token: str, method: str, path: str, **headers: str) -> tuple[int, bytes]:
    """As it is written: nothing tidies the path up."""
    where = urlsplit(node.url)
    tls = client_context(node.ca)
    with closing(http.client.HTTPSConnection(where.hostname or "", where.port, timeout=10, context=tls)) as connection:
        connection.putrequest(method, path, skip_accept_encoding=True)
        body = json.dumps({"value": uuid4().hex}).encode() if method == "PUT" else b""
        sent = {
            "Authorization": f"Bearer {token}",
            "Content-Length": str(len(body)),
            "Content-Type": "application/json",
        }
        for name, value in (sent | {n.replace("_", "-"): v for n, v in headers.items()}).items():
            connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer.status, answer.read()


def test_what_it_is_good_for(node: Client, token: str) -> None:
    """The control: asked in the same way."""
    for method, path in (("GET", f"settings/{INSIDE}"), ("PUT", f"settings/{INSIDE}"), ("GET", "agents/db1/advice")):
        status, body = ask(node, token, method, f"/api/v1/{path}")
        assert status in (200, 201), (path, body)
    assert ask(node, token, "HEAD", f"/api/v1/settings/{INSIDE}") == (200, b"")


WRITTEN = [
    *("settings/{out}", "settings/{mine}/../{out}", "settings/{mine}/%2e%2e/{out}"),
    *("settings/{mine}%2f..%2f{out}", "settings/{mine}/..%2f{out}", "settings/{mine}%2F%2E%2E%2F{out}"),
    *("settings/{mine}/../../tokens", "settings//{out}", "settings/{mine}//../{out}", "/settings/{out}"),
    *("settings/./{out}", "settings/{out}/", "settings/{out}//", "settings/{mine};/../{out}"),
    *("settings/{mine};{out}", "settings/{out};x={mine}", "settings/{out}?x=/settings/{mine}"),
    *("settings/{out}?scope=/settings/{mine}", "settings/{out}#/settings/{mine}", "Settings/{out}"),
    *("SETTINGS/{out}", "settings/{MINE}", "settings/user.Mine", "settings/{mine}x", "settings/{mine}.x"),
    *("settings/{mine}%00{out}", "settings/{mine}%3f/../{out}", "settings/{mine}%252f..%252f{out}"),
    *("settings\\{out}", "settings/{mine}\\..\\{out}", "settings/%75ser.outside", "settings/user%2eoutside"),
    *("settings/us\u0435r.mine", "settings", "settings/", "settings?", "settings?prefix={mine}"),
    *("settings?prefix=user.", "settings/{mine}/..", "agents", "agents/", "agents?after=db0"),
    *("agents/db1/../../tokens", "agents/db1%2f..%2f..%2ftokens", "agents/db1x", "agents/DB1"),
    *("agents/db1;/advice/../..", "agents/db1/advice/../../../users", "instances/db1/accounts", "instances"),
    *("tokens", "users", "cluster", "nodes", "snapshot", "history", "audit", "events?after=1&follow=false"),
    *("events", "authorities", "session", "tasks"),
]  # fmt: skip


@pytest.mark.parametrize("written", WRITTEN)
def test_what_is_beyond_it(cluster: Cluster, primary: Client, node: Client, token: str, written: str) -> None:
    path = "/api/v1/" + written.format(out=OUTSIDE, mine=INSIDE, MINE=INSIDE.upper())
    path = "".join(c if c.isascii() else "".join(f"%{b:02x}" for b in c.encode()) for c in path)
    for method in ("GET", "HEAD", "PUT", "DELETE", "POST"):
        status, body = ask(node, token, method, path)
        assert 400 <= status < 500, (method, path, status, body)
        assert SECRET.encode() not in body
        assert b'"items"' not in body
    for headers in ({"Bellwether_Forwarded": "p1"}, {"X_Original_URL": f"/api/v1/settings/{INSIDE}"}):
        assert ask(node, token, "GET", path, **headers)[0] in range(400, 500)
    assert primary.read(f"/settings/{OUTSIDE}")["spec"]["value"] == SECRET
    assert primary.read("/agents/db1")["id"] == "db1"
    assert primary.get("/settings/user.minex").status == 404


def test_a_person_is_told_of_what_happens_only_with_the_scope_for_it(node: Client, token: str) -> None:
    """Nor through `Last-Event-ID`, nor in another form."""
    for accept in ("text/event-stream", "application/x-ndjson"):
        status, body = ask(node, token, "GET", "/api/v1/events?follow=false", Accept=accept, Last_Event_ID="1")
        assert (status, SECRET.encode() in body) == (403, False)
