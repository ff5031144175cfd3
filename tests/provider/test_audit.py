"""The audit: who did what, who was refused what, on one node whose API, engine and store are the real ones."""

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from provider.api.record import audit
from provider.backfill import fetch_history
from provider.client import Unreachable
from provider.core.commands import PutToken, RecordRefusals, RecordStatus
from provider.core.documents import TokenSpec
from provider.core.entries import Attempt
from provider.core.state import Answer
from provider.janitor import kept_since
from provider.store import Store
from shared.tokens import Token, new_token
from tests.support.apis import ApiNode
from tests.support.engines import PATIENCE_S

SECRET = "Hn7-correct horse"


@pytest.fixture(scope="module")
def shared_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiNode]:
    with ApiNode(tmp_path_factory.mktemp("audited")) as node:
        yield node


@pytest.fixture
def p1(shared_node: ApiNode) -> ApiNode:
    told(shared_node)  # what earlier tests left
    return shared_node


def told(node: ApiNode) -> None:
    """Whatever was noted is in the log."""

    async def tell() -> None:
        refusals = node.context.refusals
        while refusals._take():
            assert await refusals._tell(node.context)

    node.run(tell())


def audit_of(node: ApiNode, query: str = "") -> list[dict[str, Any]]:
    """All items, newest first, page by page."""
    told(node)
    items: list[dict[str, Any]] = []
    after = ""
    while True:
        page = node.ask("GET", f"/audit?limit=7{query}{after}").json
        items += page["items"]
        if page["next"] is None:
            assert page["complete"]
            return items
        after = f"&after={page['next']}"


def new_user(node: ApiNode, role: Any, expires_at: int | None = None) -> Token:
    token = new_token(role)
    node.commit(PutToken(token.id, TokenSpec(role=role, sha256=token.hashed, expires_at=expires_at)))
    return token


# ── what was done ──


def test_a_document_s_whole_life_is_in_the_audit(p1: ApiNode) -> None:
    admin = f"token:{p1.admin.split('.')[2]}"
    first = p1.ask("PUT", "/settings/user.life", {"value": 1}, source="192.0.2.7").json["revision"]
    second = p1.ask("PUT", "/settings/user.life", {"value": 2}).json["revision"]
    p1.ask("PUT", "/settings/user.life", {"value": 2})
    p1.ask("DELETE", "/settings/user.life?drop=true&password=secret")
    gone, same, changed, made = audit_of(p1, "&action=user.life")
    assert (made["principal"], made["source"], made["node"], made["outcome"]) == (admin, "192.0.2.7", "p1", "done")
    assert (made["action"], made["status"], made["count"]) == ("PUT /api/v1/settings/user.life", 201, 1)
    document = {"kind": "setting", "id": "user.life"}
    assert made["documents"] == [{**document, "change": "put", "before": None, "after": first}]
    assert changed["documents"] == [{**document, "change": "put", "before": first, "after": second}]
    assert (same["documents"], same["status"]) == ([], 200)
    assert gone["documents"] == [{**document, "change": "deleted", "before": second, "after": None}]
    assert gone["action"] == "DELETE /api/v1/settings/user.life?drop=true"


def test_what_nodes_write_down_of_agents_is_shown_only_where_it_is_asked_for(p1: ApiNode) -> None:
    ticket = p1.host.engine.ticket()
    p1.host.engine.submit(ticket, RecordStatus(), principal="node:p1", action="RecordStatus", wait_s=PATIENCE_S)
    assert isinstance(p1.host.result(ticket), Answer)
    assert audit_of(p1, "&action=RecordStatus") == []
    assert len(audit_of(p1, "&action=RecordStatus&all=true")) == 1
    # Nobody hides behind that name.
    p1.ask("PUT", "/settings/user.RecordStatus", {"value": {"action": "RecordStatus", "principal": "node:p1"}})
    assert len(audit_of(p1, "&action=RecordStatus")) == 1


def test_every_write_leaves_a_line_whichever_route_it_takes(p1: ApiNode) -> None:
    """Also those that will be added: asked with a body that may make no sense, as an administrator and as nobody."""
    paths = p1.ask("GET", "/openapi.json", token=None).json["paths"]
    writes = {
        (method.upper(), path.removeprefix("/api/v1")): operation["x-role"]
        for path, operations in paths.items()
        for method, operation in operations.items()
        if method not in ("get", "head")
    }
    assert len(writes) > 15
    for number, ((method, path), role) in enumerate(sorted(writes.items())):
        concrete = re.sub(r"{\w+}", f"walked{number}", path)
        for who, token in (("an administrator", ""), ("nobody", None)):
            source = f"198.18.{number}.{0 if token is None else 1}"
            answer = p1.ask(method, concrete, {}, token=token, source=source)
            outcome = "done" if answer.status < 400 else "refused"
            assert token is not None or role == "open" or answer.status == 401, (method, path)
            (item,) = audit_of(p1, f"&source={source}")
            assert (item["action"], item["outcome"], item["status"]) == (
                f"{method} /api/v1{concrete}",
                outcome,
                answer.status,
            ), who


def test_logins_are_in_the_audit_and_those_that_fail(p1: ApiNode) -> None:
    assert p1.ask("PUT", "/users/ann", {"role": "viewer", "password": SECRET}).status == 201
    assert p1.ask("POST", "/login", {"name": "ann", "password": SECRET}, token=None, source="192.0.2.50").status == 200
    for name in ("ann", "nobody"):
        said = p1.ask("POST", "/login", {"name": name, "password": "wrong one"}, token=None, source="192.0.2.50")
        assert said.status == 401
    items = audit_of(p1, "&source=192.0.2.50")
    assert {(i["principal"], i["action"], i["outcome"], i["status"], i["code"]) for i in items} == {
        ("user:ann", "POST /api/v1/login", "done", 200, None),
        ("?user:ann", "POST /api/v1/login", "refused", 401, "unauthenticated"),
        ("?", "POST /api/v1/login", "refused", 401, "unauthenticated"),
    }
    text = json.dumps(audit_of(p1, "&all=true"))
    assert SECRET not in text
    assert "wrong one" not in text


# ── what was refused ──


def refused(node: ApiNode, query: str = "") -> list[dict[str, Any]]:
    return audit_of(node, f"&outcome=refused{query}")


def test_every_kind_of_refusal_is_in_the_audit(p1: ApiNode) -> None:
    viewer, spent = new_user(p1, "viewer"), new_user(p1, "node")
    expired = new_user(p1, "admin", 1)  # the last: each new token takes those with it that have expired
    old = p1.ask("PUT", "/settings/user.old", {"value": 1}).json["revision"]
    wrong = {"Authorization": f"Bearer {Token('node', spent.id, '0' * 64).text()}"}
    asked: dict[str, tuple[Any, ...]] = {
        "no token": (("GET", "/cluster"), {"token": None}, "?", "unauthenticated"),
        "no token, a write": (("PUT", "/settings/user.x", {"value": 1}), {"token": None}, "?", "unauthenticated"),
        "made up": (("GET", "/nodes"), {"token": new_token("admin").text()}, "?", "unauthenticated"),
        "expired": (("GET", "/nodes"), {"token": expired.text()}, f"?token:{expired.id}", "unauthenticated"),
        "wrong one-time": (
            ("POST", "/join", {}),
            {"token": None, "headers": wrong},
            f"?token:{spent.id}",
            "unauthenticated",
        ),
        "wrong role": (("PUT", "/settings/user.x", {}), {"token": viewer.text()}, f"token:{viewer.id}", "forbidden"),
        "wrong role, a read": (("GET", "/tokens"), {"token": viewer.text()}, f"token:{viewer.id}", "forbidden"),
        "stale": (
            ("PUT", "/settings/user.old", {"value": 2}),
            {"headers": {"If-Match": f'"{old - 1}"'}},
            "token:",
            "stale_revision",
        ),
        "invalid": (("PUT", "/settings/user.x", {"wert": 1}), {}, "token:", "invalid"),
        "not there": (("DELETE", "/settings/user.none"), {}, "token:", "not_found"),
        "a rule": (("DELETE", "/nodes/p1"), {}, "token:", "refused"),
        "no such route": (("POST", "/nothing", {}), {}, "?", "not_found"),
        "not possible": (("PUT", "/cluster", {}), {}, "?", "invalid"),
        "a path that is none": (("DELETE", "/settings/%ff"), {}, "?", "invalid"),
    }
    for number, (what, (request, how, principal, code)) in enumerate(asked.items()):
        source = f"198.51.100.{number}"
        answer = p1.ask(*request, source=source, **how)
        assert answer.code == code, what
        (item,) = refused(p1, f"&source={source}")
        assert item["principal"].startswith(principal), what
        assert (item["code"], item["status"], item["node"]) == (code, answer.status, "p1"), what
        assert item["action"] == f"{request[0]} /api/v1{request[1]}", what
        assert (item["documents"], item["count"]) == ([], 1), what


def test_reads_that_fail_are_no_refusals(p1: ApiNode) -> None:
    before = len(refused(p1))
    assert p1.ask("GET", "/settings/user.none").status == 404
    assert p1.ask("GET", "/audit?limit=none").status == 422
    assert p1.ask("GET", "/events?after=0&follow=false").status == 410
    assert len(refused(p1)) == before


def test_equal_refusals_are_one_line_with_a_count(p1: ApiNode) -> None:
    for _ in range(20):
        p1.ask("GET", "/cluster", token=None, source="198.51.100.99")
    (item,) = refused(p1, "&source=198.51.100.99")
    assert item["count"] == 20


def test_noting_refusals_costs_the_others_no_document_and_watchers_no_gap(p1: ApiNode) -> None:
    before = p1.state
    p1.ask("GET", "/cluster", token=None, source="198.51.100.98")
    told(p1)
    assert p1.state.revision == before.revision + 1
    assert p1.state.documents == before.documents
    lines = p1.ask(
        "GET", f"/events?after={before.revision}&follow=false", headers={"Accept": "application/x-ndjson"}
    ).body.splitlines()
    (event,) = map(json.loads, lines)
    assert (event["revision"], event["changes"]) == (before.revision + 1, [])
    assert b"198.51.100" not in lines[0]


def test_no_secret_that_was_sent_is_in_the_audit(p1: ApiNode) -> None:
    sent = new_user(p1, "admin", 1)
    bodies: list[Any] = [
        {"password": SECRET, "grants": SECRET},
        {"password": [SECRET]},
        {SECRET: 1},
        {"password": "", "host": SECRET},
        {"grants": [{"database": SECRET * 9, "privileges": [SECRET]}]},
        SECRET,
        [SECRET],
    ]
    for body in bodies:
        assert p1.ask("PUT", "/instances/db1/accounts/a", body).status in (404, 422)
    for body in ({"role": SECRET}, {"role": "admin", "ttl_s": SECRET}, {SECRET: SECRET}):
        assert p1.ask("POST", "/tokens", body).status == 422
    p1.ask("POST", f"/tokens?password={SECRET}", {"role": "viewer"})
    p1.ask("PUT", "/settings/user.x", {"value": 1}, token=sent.text())
    p1.ask("DELETE", f"/tokens/{sent.text()}")
    text = json.dumps(audit_of(p1, "&all=true"), ensure_ascii=False)
    history = "".join(row.record for row in p1.host.store.history(0, 10_000))
    for shown in (text, history):
        assert SECRET not in shown
        assert sent.secret not in shown
        assert p1.admin.split(".")[3] not in shown
    assert f"DELETE /api/v1/tokens/bw.admin.{sent.id}.…" in text


def test_a_flood_of_refusals_makes_few_commits_and_little_to_remember(p1: ApiNode) -> None:
    before = p1.state.revision

    async def flood() -> None:
        p1.context.refusals.start(p1.context)
        for number in range(10_000):
            p1.context.refusals.note(
                principal="?", source="203.0.113.1", action=f"PUT /api/v1/{number}", code="unauthenticated", status=401
            )

    p1.run(flood())
    p1.host.until(lambda: p1.state.revision > before, what="nothing is told")
    p1.run(p1.context.refusals.stop(p1.context))
    assert p1.state.revision <= before + 2
    items = refused(p1, "&source=203.0.113.1")
    assert sum(item["count"] for item in items) == 10_000
    assert len(items) <= 62


# ── the way into the log ──


def test_what_cannot_be_told_is_kept_and_told_once(p1: ApiNode) -> None:
    p1.ask("GET", "/cluster", token=None, source="198.51.100.97")
    refusals = p1.context.refusals
    p1.host.log.shut()

    async def fail() -> bool:
        p1.context.settings = p1.context.settings.model_copy(
            update={"api": p1.context.settings.api.model_copy(update={"commit_wait_s": 0.3})}
        )
        assert refusals._take()
        return await refusals._tell(p1.context)

    settings = p1.context.settings
    try:
        assert not p1.run(fail())  # sent, and nobody knows whether it arrived
    finally:
        p1.context.settings = settings
        p1.host.log.open()
    told(p1)
    assert [item["count"] for item in refused(p1, "&source=198.51.100.97")] == [1]


def test_a_token_that_cannot_be_read_now_is_read_later(p1: ApiNode) -> None:
    p1.ask("GET", "/cluster", token=None, source="198.51.100.96")
    refusals, away = p1.context.refusals, p1.files.node_token.with_suffix(".away")
    p1.files.node_token.rename(away)

    async def tell() -> bool:
        assert refusals._take()
        return await refusals._tell(p1.context)

    try:
        assert not p1.run(tell())
    finally:
        away.rename(p1.files.node_token)
    told(p1)
    assert [item["count"] for item in refused(p1, "&source=198.51.100.96")] == [1]


def test_only_nodes_may_say_what_they_refused_each_for_itself(p1: ApiNode) -> None:
    attempt = {"at": 5, "principal": "?", "action": "GET /x", "code": "forged.here", "status": 403, "source": "s"}
    body = {"attempts": [attempt]}
    assert p1.ask("POST", "/audit/refusals", body).code == "forbidden"
    assert refused(p1, "&code=forged.here") == []
    node = p1.files.node_token.read_text().strip()
    assert (
        p1.ask(
            "POST", "/audit/refusals", {"attempts": [{**attempt, "node": "p9"}]}, token=node, peer=p1.certificate
        ).status
        == 422
    )
    assert p1.ask("POST", "/audit/refusals", body, token=node, peer=p1.certificate).status == 204
    (item,) = refused(p1, "&code=forged.here")
    assert (item["node"], item["source"]) == ("p1", "s")


def test_nothing_changes_or_removes_what_is_in_the_audit(p1: ApiNode) -> None:
    """By no route: whatever the method, whoever asks."""
    paths = p1.ask("GET", "/openapi.json", token=None).json["paths"]
    found = {(method, path) for path in paths if "audit" in path or "history" in path for method in paths[path]}
    assert found == {("get", "/api/v1/audit"), ("post", "/api/v1/audit/refusals"), ("get", "/api/v1/history")}
    node = p1.files.node_token.read_text().strip()
    for method in ("PUT", "POST", "PATCH", "DELETE"):
        for path in ("/audit", "/audit/1.0", "/history", "/history/1"):
            assert p1.ask(method, path, {}, token=node, peer=p1.certificate).status in (404, 405)


# ── looking for something ──


def test_filters_find_what_they_say_and_nothing_else(p1: ApiNode) -> None:
    quoted = 'a"b\\c/%_ü'
    names = {"plain": "user.f.one", "like": "user.f.o_e"}
    for name in names.values():
        p1.ask("PUT", f"/settings/{name}", {"value": {"principal": "token:none", "id": "user.f.hidden"}})
    everything = audit_of(p1, "&all=true")
    assert len({json.dumps(item) for item in everything}) == len(everything)
    kept = [(item["revision"]) for item in everything]
    assert kept == sorted(kept, reverse=True)
    checks = {
        "principal=token:none": lambda _: False,
        "principal=?": lambda i: i["principal"] == "?",
        "kind=setting": lambda i: any(d["kind"] == "setting" for d in i["documents"]),
        "id=user.f.one": lambda i: any(d["id"] == "user.f.one" for d in i["documents"]),
        "kind=token&id=user.f.one": lambda _: False,
        "id=user.f.hidden": lambda _: False,
        "action=/settings/": lambda i: "/settings/" in i["action"],
        "action=%25": lambda i: "%" in i["action"],
        "outcome=done": lambda i: i["outcome"] == "done",
        "outcome=refused": lambda i: i["outcome"] == "refused",
        "code=forbidden": lambda i: i["code"] == "forbidden",
        f"source={quoted}": lambda i: i["source"] == quoted,
    }
    attempt = Attempt(at=p1.state.now, node="p1", principal="?", source=quoted, action="x", code="c", status=403)
    p1.commit(RecordRefusals((attempt,)))
    everything = audit_of(p1, "&all=true")
    for query, wanted in checks.items():
        expected = [item for item in everything if wanted(item)]  # type: ignore[no-untyped-call]
        assert audit_of(p1, f"&all=true&{query}") == expected, query
    assert len(audit_of(p1, f"&source={quoted}")) == 1


def test_times_bound_what_is_shown(p1: ApiNode) -> None:
    p1.ask("PUT", "/settings/user.then", {"value": 1})
    time.sleep(0.01)  # the clock is what is tried here
    p1.ask("PUT", "/settings/user.now", {"value": time.time()})
    everything = audit_of(p1, "&all=true")
    for moment in {item["at"] for item in everything[:: max(1, len(everything) // 7)]}:
        since = [item for item in everything if item["at"] >= moment]
        until = [item for item in everything if item["at"] <= moment]
        assert audit_of(p1, f"&all=true&since={moment}") == since
        assert audit_of(p1, f"&all=true&until={moment}") == until
    assert audit_of(p1, "&since=2999-01-01T00:00:00Z") == []
    assert audit_of(p1, "&until=2001-01-01T00:00:00Z") == []
    for wrong in ("since=yesterday", "until=1e9999", "after=x", "after=1", "outcome=maybe", "all=perhaps", "limit=0"):
        assert p1.ask("GET", f"/audit?{wrong}").code == "invalid", wrong


def test_a_search_that_takes_too_long_says_so_and_is_gone_on_with(p1: ApiNode, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = audit_of(p1, "&all=true")
    monkeypatch.setattr(audit, "CHUNK", 2)
    monkeypatch.setattr(audit, "SCANNED_MAX", 4)
    items, after, pages = [], "", 0
    while True:
        page = p1.ask("GET", f"/audit?all=true{after}").json
        items += page["items"]
        pages += 1
        assert page["complete"] == (page["next"] is None)
        if page["next"] is None:
            break
        after = f"&after={page['next']}"
    assert items == everything
    assert pages > 5


def test_a_page_is_bounded_also_where_its_items_are_large(p1: ApiNode, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = audit_of(p1)
    monkeypatch.setattr(audit, "DOCUMENTS_MAX", 3)
    assert len(p1.ask("GET", "/audit?limit=1000&kind=setting").json["items"]) == 3
    assert audit_of(p1) == everything


def test_what_is_too_old_is_not_shown_whenever_it_is_removed(tmp_path: Path) -> None:
    """By the state's time: nodes that have read equally far show the same."""
    with ApiNode(tmp_path) as node:
        for number in range(3):
            node.ask("PUT", f"/settings/user.{number}", {"value": 1})
        time.sleep(0.05)  # what is before must be older than what comes
        days = 0.03 / 86_400
        node.ask("PUT", "/settings/history.days", {"value": days})
        shown = node.ask("GET", "/audit").json
        assert [item["action"] for item in shown["items"]] == ["PUT /api/v1/settings/history.days"]
        assert shown["oldest"]["revision"] == shown["items"][0]["revision"]
        assert node.host.store.prune_history(kept_since(node.state, int(time.time() * 1000))) == 3
        assert node.ask("GET", "/audit").json == shown


# ── for a node that joins ──


@contextmanager
def joined(node: ApiNode, path: Path) -> Iterator[Store]:
    store = Store(f"sqlite:///{path / 'joined.db'}")
    store.migrate()
    store.seed(node.state, None)
    try:
        yield store
    finally:
        store.close()


def lines_of(node: ApiNode, until: int) -> list[str]:
    return node.ask("GET", f"/history?until={until}").body.decode().strip().split("\n")


def test_a_node_that_joins_gets_the_whole_history(p1: ApiNode, tmp_path: Path) -> None:
    p1.ask("PUT", "/settings/user.lines", {"value": "a\u2028b\x85c\nd"})
    newest = p1.state.revision
    with joined(p1, tmp_path) as store:
        assert fetch_history(store, lambda until: lines_of(p1, until), newest)
        assert store.history(0, 10_000) == [row for row in p1.host.store.history(0, 10_000) if row.revision <= newest]


def test_a_history_that_breaks_off_is_gone_on_with_and_has_no_gap(p1: ApiNode, tmp_path: Path) -> None:
    newest = p1.state.revision
    asked = []

    def broken(until: int) -> Iterator[str]:
        asked.append(until)
        yield from lines_of(p1, until)[:3]
        raise Unreachable("the connection broke")

    with joined(p1, tmp_path) as store:
        assert not fetch_history(store, broken, newest)
        assert asked == [newest, newest - 3, newest - 6]
        assert [row.revision for row in store.history(0, 100)] == list(range(newest - 8, newest + 1))
        assert fetch_history(store, lambda until: lines_of(p1, until), newest - 9)
        assert len(store.history(0, 10_000)) == newest - 1


@pytest.mark.parametrize(
    "lines", [["x"], ["[1]"], ['["end", 5]'], ["{}"], ["[2, 1, 1]"], ['[1, 1, 1, "later"]'], ['["a", "b", "c", "d"]']]
)
def test_what_is_no_history_is_not_taken_for_one(p1: ApiNode, tmp_path: Path, lines: list[str]) -> None:
    """And the node has joined all the same."""
    with joined(p1, tmp_path) as store:
        assert not fetch_history(store, lambda _: lines, p1.state.revision)
        assert store.history(0, 10) == []
