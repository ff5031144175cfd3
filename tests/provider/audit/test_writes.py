"""The audit: who did what."""

import json
import re

from provider.core.commands import RecordStatus
from provider.core.state import Answer
from tests.support.apis import ApiNode
from tests.support.audits import SECRET, audit_of
from tests.support.engines import PATIENCE_S


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


def test_nothing_changes_or_removes_what_is_in_the_audit(p1: ApiNode) -> None:
    """By no route: whatever the method, whoever asks."""
    paths = p1.ask("GET", "/openapi.json", token=None).json["paths"]
    found = {(method, path) for path in paths if "audit" in path or "history" in path for method in paths[path]}
    assert found == {("get", "/api/v1/audit"), ("post", "/api/v1/audit/refusals"), ("get", "/api/v1/history")}
    node = p1.files.node_token.read_text().strip()
    for method in ("PUT", "POST", "PATCH", "DELETE"):
        for path in ("/audit", "/audit/1.0", "/history", "/history/1"):
            assert p1.ask(method, path, {}, token=node, peer=p1.certificate).status in (404, 405)
