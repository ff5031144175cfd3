"""Conditions and methods, as HTTP has them: what a client may ask for on a condition, and what a path can do."""

from collections.abc import Iterator

import pytest

from provider.core.commands import EnrollAgent, PutToken
from provider.core.documents import AgentSpec, InstanceSpec, TokenSpec
from tests.support.apis import ApiNode

PATH = "/settings/user.a"
LET_IN = TokenSpec(role="agent", sha256="0" * 64, expires_at=None)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiNode]:
    with ApiNode(tmp_path_factory.mktemp("p1")) as node:
        node.commit(PutToken("let-in", LET_IN))
        agent = AgentSpec(token_sha256="0" * 64, broker_password_hash="x")
        node.commit(EnrollAgent("db1", "let-in", agent, (("db1", InstanceSpec(agent="db1", engine="mariadb")),)))
        yield node


@pytest.fixture
def p1(running: ApiNode) -> Iterator[ApiNode]:
    yield running
    running.ask("DELETE", PATH)


def test_whoever_knows_a_document_is_not_told_again_in_whatever_form_they_say_so(p1: ApiNode) -> None:
    etag = p1.ask("PUT", PATH, {"value": 1}).headers["etag"]
    for known in (etag, f"W/{etag}", f'"1", {etag}', f'W/"1",W/{etag}', "*"):
        said = p1.ask("GET", PATH, headers={"If-None-Match": known})
        assert (said.status, said.headers["etag"], said.body) == (304, etag, b""), known
    for other in ('"1"', "", "x", etag.strip('"'), f"{etag}x"):
        assert p1.ask("GET", PATH, headers={"If-None-Match": other}).status == 200, other


@pytest.mark.parametrize("path", ["/nodes/p1", "/instances/db1"])
def test_how_a_node_or_a_server_is_now_is_always_told(p1: ApiNode, path: str) -> None:
    """Its state comes from what was heard last: no revision changes with it."""
    first = p1.ask("GET", path)
    again = p1.ask("GET", path, headers={"If-None-Match": first.headers["etag"]})
    assert (again.status, again.json["status"].keys()) == (200, first.json["status"].keys())


def test_if_match_with_a_star_asks_only_that_it_is_there(p1: ApiNode) -> None:
    there = {"If-Match": "*"}
    assert p1.ask("PUT", PATH, {"value": 1}, headers=there).code == "stale_revision"
    assert p1.ask("GET", PATH).status == 404
    p1.ask("PUT", PATH, {"value": 1})
    assert p1.ask("PUT", PATH, {"value": 2}, headers=there).status == 200
    assert p1.ask("DELETE", PATH, headers=there).status == 204


def test_whatever_is_removed_on_a_condition_stays_where_that_does_not_hold(p1: ApiNode) -> None:
    token = p1.ask("POST", "/tokens", {"role": "viewer"}).json["id"]
    for path in (f"/tokens/{token}", "/agents/db1", "/nodes/p1", "/nodes/p1/maintenance"):
        said = p1.ask("DELETE", path, headers={"If-Match": '"99999"'})
        assert (said.status, said.code) == (412, "stale_revision"), path
        assert p1.ask("GET", path).status == 200
    assert p1.ask("PUT", "/nodes/p1/maintenance", {}, headers={"If-Match": '"99999"'}).code == "stale_revision"
    revision = p1.ask("GET", f"/tokens/{token}").json["revision"]
    assert p1.ask("DELETE", f"/tokens/{token}", headers={"If-Match": f'"{revision}"'}).status == 204


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        (PATH, "DELETE, GET, HEAD, PUT"),
        ("/instances/db1/databases/shop", "DELETE, GET, HEAD, PUT"),
        ("/cluster", "GET, HEAD"),
        ("/failover", "POST"),
        ("/health/ready", "GET, HEAD"),
    ],
)
def test_whoever_asks_for_what_a_path_cannot_do_is_told_what_it_can(p1: ApiNode, path: str, allowed: str) -> None:
    for method in ("PATCH", "OPTIONS"):
        said = p1.ask(method, path)
        assert (said.status, said.headers["allow"], said.code) == (405, allowed, "invalid")


def test_all_events_begin_behind_the_founding_of_the_cluster(p1: ApiNode) -> None:
    accept = {"Accept": "application/x-ndjson"}
    told = p1.ask("GET", "/events?after=0&follow=false", headers=accept)
    assert (told.status, told.body.partition(b",")[0]) == (200, b'{"revision":2')
    assert p1.ask("GET", "/events?after=1&follow=false", headers=accept).body == told.body


def test_events_that_are_not_kept_any_more_are_not_passed_over(p1: ApiNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(p1.context, "oldest_history", lambda: 3)
    said = p1.ask("GET", "/events?after=0&follow=false")
    assert (said.status, said.code) == (410, "expired")
    assert p1.ask("GET", "/events?after=2&follow=false").status == 200
