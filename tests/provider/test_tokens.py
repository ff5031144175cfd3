"""Tokens on the real application: what they are good for, when they were used, and why one is refused."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from provider.api.access.bookkeeping import record_now
from provider.core.commands import DeleteToken, PutToken
from provider.core.documents import TokenSpec
from shared.tokens import Token, new_token, parse_token
from tests.support.apis import ApiNode, Said, later_ms
from tests.support.newcomers import newcomer


@pytest.fixture(scope="module")
def p1(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiNode]:
    with ApiNode(tmp_path_factory.mktemp("p1")) as node:
        yield node


def make(node: ApiNode, role: str = "admin", **body: Any) -> str:
    said = node.ask("POST", "/tokens", {"role": role, **body})
    assert said.status == 201, said
    assert said.headers["cache-control"] == "no-store"
    return str(said.json["token"])


def statuses(node: ApiNode, token: str, *paths: str) -> list[int]:
    return [node.ask("GET", path, token=token).status for path in paths]


# ── scope ──


def test_a_token_with_a_scope_reaches_nothing_else(p1: ApiNode) -> None:
    p1.ask("PUT", "/settings/user.app.x", {"value": 1})
    p1.ask("PUT", "/settings/user.other", {"value": 1})
    token = make(p1, scope=["/settings/user.app*", "/agents"], name="for the app")
    assert statuses(p1, token, "/settings/user.app.x", "/agents") == [200, 200]
    assert statuses(p1, token, "/settings/user.other", "/settings", "/cluster", "/tokens", "/snapshot") == [403] * 5
    assert p1.ask("PUT", "/settings/user.app.y", {"value": 1}, token=token).status == 201
    said = p1.ask("PUT", "/settings/user.x", {"value": 1}, token=token)
    assert (said.code, "/settings/user.app*" in said.json["detail"]) == ("forbidden", True)
    assert p1.ask("POST", "/tokens", {"role": "admin"}, token=token).code == "forbidden"
    assert p1.ask("GET", "/health/live", token=token).status == 200


def test_a_scope_does_not_widen_a_role(p1: ApiNode) -> None:
    token = make(p1, "viewer", scope=["/settings"])
    assert p1.ask("GET", "/settings", token=token).status == 200
    assert p1.ask("PUT", "/settings/user.v", {"value": 1}, token=token).code == "forbidden"


@pytest.mark.parametrize(
    "scope",
    [
        *(
            [path]
            for path in ("", "/", "settings", "/settings/", "/a/../b", "/instances/*", "/*", "/tokens", "/users/a")
        ),
        *([path] for path in ("/a%2fb", "/a?b", "/a b", "/a#b", "/" + "a" * 300)),
        [],
        ["/agents"] * 33,
        ["/users/ann"],
        "/agents",
    ],
)
def test_what_is_no_scope(p1: ApiNode, scope: object) -> None:
    assert p1.ask("POST", "/tokens", {"role": "viewer", "scope": scope}).status == 422


def test_a_one_time_token_has_no_scope(p1: ApiNode) -> None:
    assert p1.ask("POST", "/tokens", {"role": "agent", "scope": ["/agents"]}).status == 422


# ── what is shown ──


def test_a_token_is_shown_with_what_it_is_for_and_who_made_it(p1: ApiNode) -> None:
    token = make(p1, "operator", name="nightly job", ttl_s=60, scope=["/instances"])
    shown = p1.ask("GET", f"/tokens/{parse_token(token).id}").json
    maker = f"token:{parse_token(p1.admin).id}"
    assert shown["spec"] | {"expires_at": 0} == {
        "role": "operator",
        "name": "nightly job",
        "scope": ["/instances"],
        "created_by": maker,
        "expires_at": 0,
    }
    assert shown["status"] == {"last_used_at": None, "last_used_from": None}
    assert p1.ask("GET", "/tokens/nothing").status == 404
    assert p1.ask("POST", "/tokens", {"role": "viewer", "name": ""}).status == 422
    assert p1.ask("POST", "/tokens", {"role": "viewer", "name": "x" * 201}).status == 422


def test_a_last_use_is_known_at_once_here_and_later_in_the_state(p1: ApiNode) -> None:
    token = make(p1, "viewer")
    id_ = parse_token(token).id

    def status() -> dict[str, Any]:
        return dict(p1.ask("GET", f"/tokens/{id_}").json["status"])

    p1.ask("GET", "/cluster", token=token, source="198.51.100.7")
    assert status()["last_used_from"] == "198.51.100.7"
    document = p1.state.get("token", id_)
    assert document is not None
    assert document.status == {}
    before = p1.state.revision
    p1.run(record_now(p1.context))
    document = p1.state.get("token", id_)
    assert document is not None
    assert document.status["last_used_from"] == "198.51.100.7"
    assert p1.state.revision == before + 1, "one commit for all tokens"
    p1.ask("GET", "/cluster", token=token, source="198.51.100.8")
    p1.run(record_now(p1.context))
    assert p1.state.revision == before + 1, "and not another one soon"
    assert status()["last_used_from"] == "198.51.100.8"


def test_what_a_standby_saw_counts_too(p1: ApiNode) -> None:
    id_ = parse_token(make(p1, "viewer")).id
    at = later_ms(0)
    body = {"uses": [{"id": id_, "at": at, "source": "203.0.113.5"}, {"id": "gone", "at": at, "source": None}]}
    node = p1.files.node_token.read_text().strip()
    assert p1.ask("POST", "/tokens/uses", body).code == "forbidden", "not even an administrator"
    assert p1.ask("POST", "/tokens/uses", body, token=node, peer=p1.certificate).status == 204
    assert p1.ask("GET", f"/tokens/{id_}").json["status"] == {"last_used_at": at, "last_used_from": "203.0.113.5"}


def test_viewers_see_no_changes_of_tokens_and_users(p1: ApiNode) -> None:
    after = p1.state.revision
    viewer = make(p1, "viewer")
    p1.ask("PUT", "/users/ann", {"role": "viewer", "password": "correct horse battery"})
    p1.ask("PUT", "/settings/user.seen", {"value": 1})

    def kinds(token: str) -> list[list[str]]:
        said = p1.ask(
            "GET", f"/events?after={after}&follow=false", token=token, headers={"Accept": "application/x-ndjson"}
        )
        return [[change["kind"] for change in json.loads(line)["changes"]] for line in said.body.splitlines()]

    assert kinds(viewer) == [[], [], ["setting"]], "each revision is there all the same"
    assert kinds(p1.admin) == [["token"], ["user"], ["setting"]]


# ── the end of a token ──


def test_a_revoked_token_is_nobodys(p1: ApiNode) -> None:
    token = make(p1, "viewer")
    p1.commit(DeleteToken(parse_token(token).id))
    assert p1.ask("GET", "/events?follow=false", token=token).status == 401


def refused(node: ApiNode, path: str, token: str) -> tuple[str, str, dict[str, float]]:
    """Code and detail of the refusal, and what was counted."""
    before = dict(node.context.tokens_refused.counts)
    said: Said = node.ask("POST", path, {}, token=token)
    counted = {k: v - before.get(k, 0) for k, v in node.context.tokens_refused.counts.items() if v != before.get(k, 0)}
    return said.code, str(said.json["detail"]), {k: float(v) for k, v in counted.items()}


@pytest.mark.parametrize(("kind", "path"), [("node", "/join"), ("agent", "/enroll")])
def test_a_one_time_token_that_is_refused_says_why(p1: ApiNode, kind: str, path: str) -> None:
    good = make(p1, kind)
    revoked = make(p1, kind)
    assert p1.ask("DELETE", f"/tokens/{parse_token(revoked).id}").status == 204
    assert p1.ask("DELETE", f"/tokens/{parse_token(revoked).id}").status == 204
    other = make(p1, "agent" if kind == "node" else "node")
    over = new_token(kind)
    p1.commit(PutToken(over.id, TokenSpec(role=kind, sha256=over.hashed, expires_at=later_ms(-1))))  # type: ignore[arg-type]
    for token, reason, told in (
        (revoked, "revoked", "was revoked"),
        (over.text(), "expired", "has expired"),
        (other, "wrong_kind", "is for the role"),
        (p1.admin, "wrong_kind", "is for the role admin"),
        (Token(kind, parse_token(good).id, "0" * 64).text(), "unknown", "needs a one-time"),
        (Token(kind, parse_token(revoked).id, "0" * 64).text(), "unknown", "needs a one-time"),
        (new_token(kind).text(), "unknown", "needs a one-time"),
    ):
        code, detail, counted = refused(p1, path, token)
        assert (code, counted) == ("unauthenticated", {reason: 1.0}), (reason, detail)
        assert told in detail
    assert p1.ask("POST", path, {}, token=good).code == "invalid", "this one would have been good"


def test_a_token_that_was_used_says_by_whom(p1: ApiNode) -> None:
    token = make(p1, "agent")
    assert p1.ask("POST", "/enroll", newcomer("db1").body(), token=token).status == 201
    code, detail, counted = refused(p1, "/enroll", token)
    assert (code, counted) == ("unauthenticated", {"used": 1.0})
    assert "used before, by agent db1" in detail
    metrics = p1.ask("GET", "/metrics", token=None).body.decode()
    assert 'bellwether_tokens_refused_total{reason="used"} 1.0' in metrics


# ── the administrator ──


def test_the_first_administrators_token_is_issued_anew_by_a_node_only(p1: ApiNode) -> None:
    mine = make(p1, "admin")
    node = p1.files.node_token.read_text().strip()
    former = p1.admin
    for token in (former, mine, make(p1, "viewer")):
        assert p1.ask("POST", "/tokens/administrator", token=token).code == "forbidden"
    said = p1.ask("POST", "/tokens/administrator", token=node, peer=p1.certificate)
    assert said.status == 201
    p1.admin = said.json["token"]
    assert statuses(p1, former, "/cluster") == [401]
    assert statuses(p1, mine, "/cluster") == [200], "others stay as they are"
    assert statuses(p1, p1.admin, "/tokens") == [200]
    again = p1.ask("POST", "/tokens/administrator", token=node, peer=p1.certificate).json["token"]
    assert statuses(p1, p1.admin, "/cluster") == [401]
    p1.admin = again


@pytest.mark.parametrize("path", ["/tokens/{}", "/nowhere/{}", "/settings/{}"])
def test_a_whole_token_given_for_its_id_is_not_repeated(p1: ApiNode, path: str) -> None:
    """It went to the terminal, and into whatever keeps what commands say."""
    token = make(p1, "viewer")
    said = p1.ask("GET", path.format(token))
    assert said.status == 404
    assert parse_token(token).secret not in said.json["detail"]
    assert parse_token(token).id in said.json["detail"]
