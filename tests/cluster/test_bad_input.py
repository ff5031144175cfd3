"""Invariant: whatever is sent, the answer is a problem document that says what is wrong (4xx), nothing is changed by
it, and the node's log holds no fault of ours. Through a standby as on the primary."""

import json
import socket
import ssl
from collections.abc import Iterator
from contextlib import suppress
from urllib.parse import quote, urlsplit
from uuid import uuid4

import pytest
from localcluster.cluster import Cluster

from shared.tls import client_context
from tests.support.api import Client, client
from tests.support.nodes import primary_of, standbys_of

SETTING = "/settings/user.bad"
DATABASE = "/instances/db1/databases"


@pytest.fixture(scope="module", autouse=True)
def _no_fault_is_logged(cluster: Cluster) -> Iterator[None]:
    before = {name: len(provider.log.read_text()) for name, provider in cluster.providers.items()}
    yield
    for name, provider in cluster.providers.items():
        said = provider.log.read_text()[before[name] :]
        assert "Traceback" not in said, said[:3000]
        assert "ERROR" not in said, said[:3000]


def _nested(levels: int) -> bytes:
    return b'{"value": ' + b"[" * levels + b"]" * levels + b"}"


BODIES = {
    "nothing": b"",
    "half": b'{"value": [1, 2',
    "no JSON": b"value=1",
    "an array": b"[]",
    "null": b"null",
    "a text": b'"value"',
    "two documents": b'{"value": 1}{"value": 2}',
    "a trailing comma": b'{"value": 1,}',
    "an unknown field": b'{"value": 1, "valeu": 2}',
    "the field missing": b"{}",
    "NaN": b'{"value": NaN}',
    "infinity": b'{"value": [-Infinity]}',
    "a float beyond floats": b'{"value": 1e999}',
    "a huge integer": b'{"value": ' + b"9" * 5000 + b"}",
    "a lone surrogate": b'{"value": "\\ud800"}',
    "a lone surrogate as key": b'{"value": {"\\udfff": 1}}',
    "a surrogate in UTF-8": b'{"value": "\xed\xa0\x80"}',
    "latin-1": b'{"value": "\xe9"}',
    "UTF-16": '{"value": 1}'.encode("utf-16"),
    "a byte order mark": b'\xef\xbb\xbf{"value": 1}',
    "NUL between": b'{"value": 1}\x00',
    "65 levels": _nested(65),
    "150 levels": _nested(150),
    "100,000 levels": _nested(100_000),
    "100,000 objects": b'{"value": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}",
}


@pytest.mark.parametrize("what", BODIES)
def test_a_body_that_is_none_is_refused(node: Client, what: str) -> None:
    answer = node.put(SETTING, BODIES[what])
    assert (answer.status, answer.code) == (422, "invalid"), answer
    assert len(answer.body) < 1000
    assert node.get(SETTING).status == 404


def test_what_is_odd_but_json_is_kept_as_it_is(node: Client) -> None:
    odd = ["\u0000", "😀", "' or 1=1 --", "\u2028", 10**40, -0.0, 1e-300, "", [], {}, {"": None}, "\ufffd", True]
    for value in odd:
        node.write("PUT", "/settings/user.odd", {"value": value})
        assert json.dumps(node.read("/settings/user.odd")["spec"]["value"]) == json.dumps(value)
    assert node.put("/settings/user.odd", b'{"value": 1, "value": 2}').json["spec"]["value"] == 2, "the last one counts"
    assert node.put("/settings/user.odd", _nested(64)).status == 200
    assert node.delete("/settings/user.odd").status == 204


def test_too_much_is_refused(node: Client) -> None:
    assert node.put(SETTING, {"value": "x" * 65_536}).code == "too_large", "64 KiB of JSON, quotes included"
    assert node.put(SETTING, {"value": "x" * 65_534}).status == 201
    assert node.delete(SETTING).status == 204
    assert node.put(SETTING, {"value": "x" * 2_000_000}).code == "too_large"
    pieces = b"".join(b"10000\r\n" + b"x" * 0x10000 + b"\r\n" for _ in range(20)) + b"0\r\n\r\n"
    said = _raw(node, "PUT", SETTING, ["Transfer-Encoding: chunked"], pieces)
    assert said.startswith(b"HTTP/1.1 413 "), said[:200]
    said = _raw(node, "PUT", SETTING, ["Content-Length: 99999999999999999999"], b"{}")
    assert said.startswith((b"HTTP/1.1 413 ", b"HTTP/1.1 400 ")), said[:200]
    assert node.get(SETTING).status == 404


# ── names ────────────────────────────────────────────────────────────────────────────────────────────────────────────

REFUSED_NAMES = {
    "65 characters": "x" * 65,
    "5,000 characters": "x" * 5000,
    "NUL": "a%00b",
    "a tab": "a%09b",
    "DEL": "a%7Fb",
    "an emoji": quote("a😀"),
    "a slash": "a%2Fb",
    "a bare slash": "a/b",
    "a backslash": "a%5Cb",
    "a dot": "%2E",
    "two dots": "%2E%2E",
    "up and away": "%2E%2E%2F%2E%2E%2Fsettings",
    "a space before": "%20a",
    "a space behind": "a%20",
    "nothing but a space": "%20",
    "nothing": "",
    "no width": quote("a\u200bb"),
    "right to left": quote("a\u202eb"),
    "a line end of Unicode": quote("a\u2028b"),
    "no UTF-8": "a%FF",
    "a surrogate": "%ED%A0%80",
    "half a character": "%C3",
}


@pytest.mark.parametrize("what", REFUSED_NAMES)
@pytest.mark.parametrize("kind", ["databases", "accounts"])
def test_a_name_that_no_server_can_hold_is_refused(node: Client, kind: str, what: str) -> None:
    name = REFUSED_NAMES[what] if (kind, what) != ("accounts", "65 characters") else "x" * 81
    before = node.read(f"/instances/db1/{kind}?limit=1000")["items"]
    answer = node.put(f"/instances/db1/{kind}/{name}", {})
    assert (answer.status, answer.code) == (422, "invalid"), answer
    assert len(answer.body) < 1000
    after = node.read(f"/instances/db1/{kind}?limit=1000")["items"]
    assert [item["id"] for item in after] == [item["id"] for item in before]


def test_a_line_end_in_a_name_is_refused(node: Client) -> None:
    answer = node.put(f"{DATABASE}/a%0Ab", {})
    assert answer.code in ("invalid", "not_found")


@pytest.mark.parametrize("key", ["user.%00", "user.a%2Fb", "user.a b".replace(" ", "%20"), "user." + "x" * 200, "%FF"])
def test_a_key_that_is_none_is_refused(node: Client, key: str) -> None:
    answer = node.put(f"/settings/{key}", {"value": 1})
    assert answer.code in ("invalid", "not_found"), answer
    assert node.get(f"/settings/{key}").code in ("invalid", "not_found")


def test_paths_that_lead_nowhere(node: Client) -> None:
    for path in ("/", "/instances/../settings", "/instances/%2E%2E/databases", "/settings/", "//cluster", "/Cluster"):
        assert node.get(path).status in (404, 422), path
    assert node.put("/instances/nowhere/databases/a", {}).code == "not_found"
    assert node.put("/instances/%00/accounts/a", {}).code == "not_found"
    assert node.delete("/instances/nowhere/databases/a?drop=true").code == "not_found"
    assert node.get(f"/settings/{'x' * 30_000}").code == "not_found"
    assert node.get(f"/settings/{'x' * 40_000}").status == 431, "32 KiB for the head of a request"
    said = _raw(node, "GET", f"/settings/{'x' * 200_000}", [], b"")
    assert said.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 414 ", b"HTTP/1.1 404 ", b"HTTP/1.1 431 ")), said[:200]
    assert node.delete(f"{DATABASE}/a?drop=perhaps").code == "invalid"


# ── contents ─────────────────────────────────────────────────────────────────────────────────────────────────────────

DATABASES = [
    {"charset": 1},
    {"charset": ["utf8mb4"]},
    {"charset": "utf8mb4'; drop database mysql; --"},
    {"charset": ""},
    {"charset": "x" * 65},
    {"collation": "utf8mb4 general_ci"},
    {"size": 1},
    {"name": "other"},
    {"status": {"phase": "ready"}},
]
ACCOUNTS = [
    {"host": "'"},
    {"host": ""},
    {"host": "x" * 61},
    {"host": "%`"},
    {"password": ""},
    {"password": "x" * 257},
    {"password": "a\u0000b"},
    {"password": 1},
    {"grants": "ALL"},
    {"grants": [{"database": "a"}]},
    {"grants": [{"database": "a", "privileges": []}]},
    {"grants": [{"database": "a", "privileges": ["SELECT; DROP"]}]},
    {"grants": [{"database": "a", "privileges": ["SELECT` ON"]}]},
    {"grants": [{"database": "x" * 65, "privileges": ["SELECT"]}]},
    {"grants": [{"database": "a", "privileges": ["SELECT"], "with": "grant"}]},
    {"grants": [{"database": "a", "privileges": ["SELECT"]}] * 1001},
]


@pytest.mark.parametrize("body", [*DATABASES, *ACCOUNTS], ids=lambda body: json.dumps(body)[:40])
def test_contents_of_a_wrong_kind_are_refused_and_not_repeated(node: Client, body: dict[str, object]) -> None:
    kind = "databases" if body in DATABASES else "accounts"
    answer = node.put(f"/instances/db1/{kind}/wrong", body)
    assert (answer.status, answer.code) == (422, "invalid"), answer
    if body.get("password"):
        assert str(body["password"]) not in answer.json["detail"]
    assert node.get(f"/instances/db1/{kind}/wrong").status == 404


def test_settings_of_the_cluster_itself_are_guarded(node: Client) -> None:
    for key, value in (
        ("cluster.id", "mine"),
        ("cluster.removed.p9", 1),
        ("nothing.such", 1),
        ("agents.offline_after_s", 0),
        ("agents.offline_after_s", 2),
        ("agents.offline_after_s", "7"),
        ("agents.offline_after_s", True),
        ("agents.offline_after_s", 10**9),
        ("history.days", -1),
    ):
        assert node.put(f"/settings/{key}", {"value": value}).code == "invalid", (key, value)
    assert node.delete("/settings/cluster.id").code == "refused"


def test_tokens_and_failover_that_make_no_sense(node: Client) -> None:
    for body in ({}, {"role": "root"}, {"role": "viewer", "ttl_s": 0}, {"role": "viewer", "ttl_s": 10**12}, {"ttl": 1}):
        assert node.post("/tokens", body).code == "invalid", body
    for body in (
        {},
        {"operation": "explode", "node": "p1"},
        {"operation": "promote"},
        {"operation": "promote", "node": 1},
    ):
        assert node.post("/failover", body).code == "invalid", body
    assert node.post("/failover", {"operation": "promote", "node": "p9"}).code == "refused"
    assert node.delete("/tokens/nothing").code == "not_found"
    assert node.delete("/nodes/p9").code == "not_found"
    assert node.delete("/agents/db9").code == "not_found"


# ── headers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_conditions_that_make_no_sense(node: Client) -> None:
    for etag in ('"abc"', '""', '"-1"', '"1.0"', f'"{"9" * 30}"', "²", "W/", '"1", "2"'):
        assert node.request("PUT", SETTING, {"value": 1}, {"If-Match": etag}).code == "stale_revision", etag
    assert node.put(SETTING, {"value": 1}, If_None_Match='"1"').code == "invalid"
    assert node.get(SETTING).status == 404


def test_idempotency_keys_that_make_no_sense(node: Client) -> None:
    for key in ("", " ", "k" * 201, "a\u00adb"):
        assert node.put(SETTING, {"value": 1}, Idempotency_Key=key).code == "invalid", key
    longest = uuid4().hex.ljust(200, "k")
    assert node.put(SETTING, {"value": 1}, Idempotency_Key=longest).status == 201
    assert node.delete(SETTING).status == 204
    said = _raw(node, "PUT", SETTING, ["Content-Length: 12", "Idempotency-Key: a\x00b"], b'{"value": 1}')
    assert said.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 422 ")), said[:200]


def test_authorization_that_makes_no_sense(node: Client) -> None:
    for value in (
        "",
        "Bearer",
        "Bearer ",
        "Basic YTpi",
        "Bearer a.b.c",
        "Bearer bw.admin..x",
        "bw.admin.a.b",
        "Bearer é",
    ):
        answer = node.holding(None).request("GET", "/cluster", headers={"Authorization": value})
        assert (answer.status, answer.code) == (401, "unauthenticated"), value
        assert answer.headers["www-authenticate"] == "Bearer"


def test_events_from_nowhere(node: Client) -> None:
    for after in ("x", "-1", "1.5", "9" * 30, "%C2%B2"):
        assert node.get(f"/events?follow=false&after={after}").code == "invalid", after
    assert node.get("/events?follow=false", Last_Event_ID="x").code == "invalid"
    assert node.get("/events?follow=perhaps").code == "invalid"


# ── the connection ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_client_that_leaves_in_the_middle_of_its_request_is_nobodys_fault(node: Client) -> None:
    for _ in range(3):
        with _connected(node) as connection:
            connection.sendall(_head(node, "PUT", SETTING, ["Content-Length: 1000"]) + b'{"value": ')
    with _connected(node) as connection:
        connection.sendall(b"GET /api/v1/clu")
    assert node.get(SETTING).status == 404


def test_what_is_no_http_ends_the_connection_and_nothing_else(node: Client) -> None:
    for sent in (
        b"\x00" * 100,
        b"GET /\r\n\r\n",
        b"AMQP\x00\x00\x09\x01",
        b"PUT / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
    ):
        with _connected(node) as connection:
            connection.sendall(sent)
            connection.settimeout(5)
            assert connection.recv(1000).startswith((b"HTTP/1.1 4", b"")), sent
    where = urlsplit(node.url)
    with socket.create_connection((where.hostname, where.port), timeout=5) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")  # no TLS
        assert plain.recv(1000)[:4] != b"HTTP"
    assert node.get("/cluster").status == 200


def test_after_all_this_every_node_writes_and_reads(cluster: Cluster) -> None:
    for name in (primary_of(cluster), *standbys_of(cluster)):
        one = client(cluster, name)
        one.write("PUT", "/settings/user.after", {"value": name})
        assert one.read("/settings/user.after")["spec"]["value"] == name


def _connected(node: Client) -> ssl.SSLSocket:
    where = urlsplit(node.url)
    plain = socket.create_connection((where.hostname, where.port), timeout=10)
    return client_context(node.ca).wrap_socket(plain, server_hostname=where.hostname)


def _head(node: Client, method: str, path: str, headers: list[str]) -> bytes:
    lines = [f"{method} /api/v1{path} HTTP/1.1", "Host: x", f"Authorization: Bearer {node.token}", *headers, "", ""]
    return "\r\n".join(lines).encode()


def _raw(node: Client, method: str, path: str, headers: list[str], body: bytes) -> bytes:
    """The beginning of what is answered to a request that no client would send."""
    with _connected(node) as connection:
        with suppress(OSError):  # refused before all was sent
            connection.sendall(_head(node, method, path, headers) + body)
        return connection.recv(4000)
