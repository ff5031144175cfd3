"""The audit, when somebody looks for something."""

import json
import time
from pathlib import Path

import pytest

from provider.api.record import audit
from provider.core.commands import RecordRefusals
from provider.core.entries import Attempt
from provider.janitor import kept_since
from tests.support.apis import ApiNode
from tests.support.audits import audit_of, write_some


def test_filters_find_what_they_say_and_nothing_else(p1: ApiNode) -> None:
    quoted = 'a"b\\c/%_ü'
    names = {"plain": "user.f.one", "like": "user.f.o_e"}
    for name in names.values():
        p1.ask("PUT", f"/settings/{name}", {"value": {"principal": "token:none", "id": "user.f.hidden"}})
    write_some(p1)
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
    write_some(p1)
    everything = audit_of(p1, "&all=true")
    for query, wanted in checks.items():
        expected = [item for item in everything if wanted(item)]  # type: ignore[no-untyped-call]
        assert audit_of(p1, f"&all=true&{query}") == expected, query
    assert len(audit_of(p1, f"&source={quoted}")) == 1


def test_times_bound_what_is_shown(p1: ApiNode) -> None:
    p1.ask("PUT", "/settings/user.then", {"value": 1})
    time.sleep(0.01)  # the clock is what is tried here
    p1.ask("PUT", "/settings/user.now", {"value": time.time()})
    write_some(p1)
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
    write_some(p1)
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
    write_some(p1)
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
