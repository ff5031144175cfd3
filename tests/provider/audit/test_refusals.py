"""The audit: who was refused what, and how that gets into the log."""

import json
from typing import Any

from shared.tokens import Token, new_token
from tests.support.apis import ApiNode
from tests.support.audits import SECRET, audit_of, new_user, refused, told


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
    assert p1.ask("GET", "/events?after=x").status == 422
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
        p1.telling.start()
        for number in range(10_000):
            p1.context.refusals.note(
                principal="?", source="203.0.113.1", action=f"PUT /api/v1/{number}", code="unauthenticated", status=401
            )

    p1.run(flood())
    p1.host.until(lambda: p1.state.revision > before, what="nothing is told")
    p1.run(p1.telling.stop())
    assert p1.state.revision <= before + 2
    items = refused(p1, "&source=203.0.113.1")
    assert sum(item["count"] for item in items) == 10_000
    assert len(items) <= 62


# ── the way into the log ──


def test_what_cannot_be_told_is_kept_and_told_once(p1: ApiNode) -> None:
    p1.ask("GET", "/cluster", token=None, source="198.51.100.97")
    p1.host.log.shut()

    async def fail() -> bool:
        p1.context.settings = p1.context.settings.model_copy(
            update={"api": p1.context.settings.api.model_copy(update={"commit_wait_s": 0.3})}
        )
        assert p1.telling.take()
        return await p1.telling.tell()

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
    away = p1.files.node_token.with_suffix(".away")
    p1.files.node_token.rename(away)

    async def tell() -> bool:
        assert p1.telling.take()
        return await p1.telling.tell()

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
