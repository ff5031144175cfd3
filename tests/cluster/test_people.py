"""Invariant: whoever may do something may do it on every node, and whoever may not any longer, on none: people with
sessions, programs with tokens, with the primary there and without it."""

import json
import os
import threading
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from localcluster.cluster import Cluster
from localcluster.process import wait_until

from provider.client import Client as EventClient
from shared.tls import client_context
from shared.tokens import parse_token
from tests.cluster.conftest import StartCluster
from tests.support.api import Client, client
from tests.support.nodes import Said, command, primary_of, promote, restart, run, standbys_of, suspended, wait_equal

PASSWORD, OTHER = "correct horse battery", "another good password"
COOKIE = "__Host-bellwether"


@pytest.fixture(scope="module")
def own(start_cluster: StartCluster) -> Cluster:
    return start_cluster(providers=3, databases=1)


@pytest.fixture(scope="module", autouse=True)
def used(own: Cluster) -> str:
    """The id of a token that was used on a standby when these tests began."""
    made = client(own, primary_of(own)).write("POST", "/tokens", {"role": "viewer"})
    wait_equal(own)
    assert client(own, standbys_of(own)[0]).holding(made.json["token"]).get("/cluster").status == 200
    return str(made.json["id"])


@pytest.fixture(autouse=True)
def _left_in_order(own: Cluster) -> Iterator[None]:
    yield
    assert own.dead() == []
    wait_equal(own)


@pytest.fixture
def user(own: Cluster) -> Iterator[str]:
    """An operator."""
    admin = client(own, primary_of(own))
    admin.write("PUT", "/users/otto", {"role": "operator", "password": PASSWORD})
    wait_equal(own)
    yield "otto"
    client(own, primary_of(own)).delete("/users/otto")


def login(own: Cluster, node: str, name: str = "otto", password: str = PASSWORD) -> Any:
    """What a session of that user is given, at that node."""
    return client(own, node).holding(None).write("POST", "/login", {"name": name, "password": password}).json


def with_session(own: Cluster, node: str, token: str) -> Client:
    return client(own, node).holding(token)


def event_stream(own: Cluster, node: str, token: str) -> tuple[threading.Thread, list[str]]:
    """Reads that node's events until they end, into the list; begun when this returns."""
    asked = EventClient([client(own, node).url], token=token, tls=client_context(own.layout.ca))
    lines = asked.lines("GET", "/events", accept="text/event-stream")
    rest: list[str] = [next(lines)]  # it says at once where it begins

    def read() -> None:
        with closing(asked):
            rest.extend(lines)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    return reader, rest


def wait_refused(asked: Client) -> None:
    wait_until(lambda: asked.get("/cluster").status == 401, timeout_s=30, what=f"{asked.url} goes on with the session")


def test_a_session_that_one_node_began_is_good_on_all_of_them(own: Cluster, user: str) -> None:
    for begins in own.providers:
        token = login(own, begins)["token"]
        for name in own.providers:
            node = with_session(own, name, token)
            assert node.read("/session")["principal"] == f"user:{user}"
            node.write("PUT", "/settings/user.session", {"value": f"{begins} {name}"})
            assert node.get("/tokens").code == "forbidden"


def test_logging_out_on_one_node_ends_the_session_on_all(own: Cluster, user: str) -> None:
    standby, other = standbys_of(own)
    for where in (primary_of(own), standby):
        token, stays = login(own, other)["token"], login(own, other)["token"]
        assert with_session(own, where, token).delete("/session").status == 204
        assert with_session(own, where, token).get("/cluster").status == 401, "at once where it was asked"
        for name in own.providers:
            wait_refused(with_session(own, name, token))
            assert with_session(own, name, stays).get("/cluster").status == 200


@pytest.mark.parametrize("change", ["role", "password", "sessions", "removed"])
def test_what_changes_a_user_ends_the_sessions_on_all_nodes(own: Cluster, user: str, change: str) -> None:
    sessions = {name: login(own, name)["token"] for name in own.providers}
    asked = client(own, standbys_of(own)[0])
    match change:
        case "role":
            asked.write("PUT", f"/users/{user}", {"role": "viewer"})
        case "password":
            own_words = {"password": OTHER, "old_password": PASSWORD}
            with_session(own, standbys_of(own)[1], sessions["p1"]).write("PUT", f"/users/{user}/password", own_words)
        case "sessions":
            asked.write("DELETE", f"/users/{user}/sessions")
        case "removed":
            asked.write("DELETE", f"/users/{user}")
    for token in sessions.values():
        for name in own.providers:
            wait_refused(with_session(own, name, token))


def test_a_browser_writes_through_a_standby_with_its_cookie(own: Cluster, user: str) -> None:
    given = login(own, primary_of(own))
    cookie = {"Cookie": f"{COOKIE}={given['token']}"}
    for name in own.providers:
        node = client(own, name).holding(None)
        assert node.request("GET", "/cluster", headers=cookie).status == 200
        body = {"value": name}
        assert node.request("PUT", "/settings/user.cookie", body, cookie).code == "forbidden"
        said = node.request("PUT", "/settings/user.cookie", body, {**cookie, "Bellwether-Csrf": given["csrf"]})
        assert said.status in (200, 201), said


def test_people_log_in_and_read_while_there_is_no_primary(own: Cluster, user: str) -> None:
    leader = primary_of(own)
    standby, other = standbys_of(own)
    before = login(own, leader)["token"]
    own.kill(leader)
    try:
        token = login(own, standby)["token"]
        for session in (before, token):
            for name in (standby, other):
                assert with_session(own, name, session).read("/session")["user"] == user
        assert client(own, standby).holding(None).post("/login", {"name": user, "password": OTHER}).status == 401
        assert with_session(own, other, token).delete("/session").code == "no_primary", "it would not hold everywhere"
        assert with_session(own, other, token).get("/cluster").status == 200
        promote(own, other)
        assert with_session(own, standby, token).delete("/session").status == 204
        wait_refused(with_session(own, other, token))
    finally:
        restart(own, leader)
    wait_refused(with_session(own, leader, token))
    assert with_session(own, leader, before).get("/cluster").status == 200


def test_a_token_is_known_on_every_node_as_soon_as_its_revision_is_asked_for(own: Cluster) -> None:
    admin = client(own, primary_of(own))
    for _ in range(20):
        made = admin.write("POST", "/tokens", {"role": "viewer", "ttl_s": 60})
        seen = made.headers["bellwether-revision"]
        for name in own.providers:
            asked = client(own, name).holding(made.json["token"])
            assert asked.get("/cluster", Bellwether_Min_Revision=seen).status == 200


def test_a_revoked_token_ends_everywhere_and_its_stream_too(own: Cluster) -> None:
    standby = standbys_of(own)[0]
    made = client(own, primary_of(own)).write("POST", "/tokens", {"role": "viewer"})
    wait_equal(own)
    streams = {name: event_stream(own, name, made.json["token"]) for name in own.providers}
    client(own, standby).write("DELETE", f"/tokens/{made.json['id']}")
    for stream, rest in streams.values():
        stream.join(5)
        assert not stream.is_alive(), "the stream goes on without its token"
        assert made.json["id"] not in "".join(rest)
    for name in own.providers:
        wait_refused(client(own, name).holding(made.json["token"]))


# ── commands ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def bellwether(own: Cluster, *arguments: str, **variables: str) -> Said:
    where = {
        "BELLWETHER_API": ",".join(client(own, name).url for name in standbys_of(own)),
        "BELLWETHER_CA": str(own.layout.ca),
        "BELLWETHER_TOKEN_FILE": str(own.layout.admin_token),
    }
    return run("bellwether", *arguments, **{**where, **variables})


def test_users_and_tokens_from_the_command_line(own: Cluster, tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text(PASSWORD + "\n")
    node = standbys_of(own)[0]
    for ask, name in ((partial(bellwether, own), "eve"), (partial(command, own, node), "adam")):
        program = [] if name == "eve" else ["provider"]
        made = ask(*program, "user", "add", name, "--role", "viewer", "--password-file", str(secret))
        assert made.code == 0, made
        again = ask(*program, "user", "add", name, "--role", "admin", "--password-file", str(secret))
        assert (again.code, again.err.count("\n")) == (1, 1), again
        assert "exists already" in again.err
        assert login(own, node, name)["role"] == "viewer"
        assert ask(*program, "user", "role", name, "--role", "operator").code == 0
        assert login(own, node, name)["role"] == "operator"
        listed = json.loads(ask(*program, "user", "list", "--json").out)
        assert name in [user["id"] for user in listed]
        assert "argon2" not in json.dumps(listed)
        secret.write_text(OTHER)
        assert ask(*program, "user", "password", name, "--password-file", str(secret)).code == 0
        assert login(own, node, name, OTHER)["user"] == name
        secret.write_text(PASSWORD)
        assert ask(*program, "user", "remove", name).code == 0
        assert ask(*program, "user", "remove", name).code == 1

        token = ask(*program, "token", "create", "--role", "viewer", "--name", f"of {name}", "--scope", "/agents")
        assert token.code == 0, token
        id_ = parse_token(token.out.strip()).id
        wait_equal(own)
        assert client(own, node).holding(token.out.strip()).get("/agents").status == 200
        shown = {item["id"]: item for item in json.loads(ask(*program, "token", "list", "--json").out)}
        assert (shown[id_]["spec"]["name"], shown[id_]["spec"]["scope"]) == (f"of {name}", ["/agents"])
        assert f"of {name}" in ask(*program, "token", "list").out
        assert ask(*program, "token", "revoke", id_).code == 0
        assert ask(*program, "token", "revoke", id_).code == 1
    short = bellwether(own, "user", "add", "abel", "--role", "viewer", BELLWETHER_PASSWORD="short")
    assert short.code == 1
    assert "12 to 256" in short.err


@pytest.mark.skipif(os.geteuid() != 0, reason="this is what only root may do")
def test_root_on_a_provider_issues_the_administrators_token_anew(own: Cluster) -> None:
    """Also while that provider is a standby. The former token is good no longer, on no node."""
    file = own.layout.admin_token
    former = file.read_text().strip()
    said = command(own, standbys_of(own)[0], "provider", "token", "administrator", "--token-out", str(file), "--json")
    assert said.code == 0, said
    shown = json.loads(said.out)
    assert (shown["token_file"], shown["spec"]["role"], "token" in shown) == (str(file), "admin", False)
    assert file.stat().st_mode & 0o077 == 0
    assert file.read_text().strip() != former
    for name in own.providers:
        wait_refused(client(own, name).holding(former))
        assert client(own, name).get("/tokens").status == 200


def test_a_primary_that_hangs_keeps_nobody_from_logging_in_elsewhere(own: Cluster, user: str) -> None:
    standby = standbys_of(own)[0]
    with suspended(own, primary_of(own)):
        assert login(own, standby)["user"] == user


def test_the_primary_knows_what_a_standby_saw_of_a_token(own: Cluster, used: str) -> None:
    """Last, since standbys tell every 15 s; also after promotions, since the others began."""
    node = client(own, primary_of(own))
    shown = node.wait_for(f"/tokens/{used}", lambda token: token["status"]["last_used_at"])
    assert shown["status"]["last_used_from"] == "127.0.0.1"
