"""How things look from outside."""

from bisect import bisect_right
from collections.abc import Container, Iterable
from datetime import UTC, datetime
from time import monotonic
from typing import Any

import pydantic_core

from provider.core.documents import Document, public_spec
from provider.core.state import State
from provider.fleet.follow import advised
from provider.fleet.view import View
from shared.errors import BellwetherError


def time_text(unix_ms: int | None) -> str | None:
    """RFC 3339, UTC, milliseconds."""
    if unix_ms is None:
        return None
    return datetime.fromtimestamp(unix_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def document_view(document: Document) -> dict[str, Any]:
    """A document without its secrets."""
    return {
        "id": document.id,
        "kind": document.kind,
        "revision": document.revision,
        "created_at": time_text(document.created_at),
        "updated_at": time_text(document.updated_at),
        "spec": public_spec(document.kind, document.spec),
        "status": dict(document.status),
    }


def agent_view(document: Document, state: State, view: View) -> dict[str, Any]:
    """An agent, with what this node last heard of it."""
    seen, limited = view.agents.get(document.id), view.limited.get(document.id)
    until_s = limited.until_s if limited is not None else None
    epoch = max(document.status.get("epoch", 0), seen.epoch if seen is not None else 0)
    status = {
        **document.status,
        "epoch": epoch,
        "advised": advised(document, state, view),
        "trust": seen.trust if seen is not None else document.status.get("trust"),
        # As it is written down: only then can the next one be asked for.
        "credential": document.status.get("credential", 0),
        "dropped": limited.dropped if limited is not None else 0,
        "suspended_s": round(max(0.0, until_s - monotonic())) if until_s is not None else None,
        "duplicate": seen is not None and seen.duplicate_until_s > monotonic(),
        "endpoint": seen.endpoint if seen is not None else document.status.get("endpoint"),
        "version": seen.version if seen is not None else document.status.get("version"),
        "last_seen": time_text(seen.at_ms) if seen is not None else None,
        "revision": seen.revision if seen is not None else None,
    }
    return {**document_view(document), "status": status}


def instance_view(document: Document, view: View) -> dict[str, Any]:
    """An instance, with what its agent last reported."""
    seen = view.agents.get(document.spec["agent"])
    observed = seen.instances.get(document.id) if seen is not None else None
    status: dict[str, Any] = dict(document.status)
    if observed is not None:
        status["observed"] = observed.model_dump(
            mode="json",
            exclude={"id", "engine", "host", "port", "socket", "database_results", "account_results", "message"},
        )
        status["positions"] = dict(observed.positions)
        status["uptime_s"] = observed.uptime_s
    return {**document_view(document), "status": status}


def rest(documents: list[Document], after: str | None) -> list[Document]:
    """Those behind `after`, of documents that are sorted by id: views are made only of what may be shown."""
    return documents if after is None else documents[bisect_right(documents, after, key=lambda document: document.id) :]


def page(items: Iterable[dict[str, Any]], revision: int, limit: int, after: str | None) -> dict[str, Any]:
    """One page of items that are sorted by id. `next` is what to give as `after` for the following one."""
    found: list[dict[str, Any]] = []
    for item in items:
        if after is not None and item["id"] <= after:
            continue
        if len(found) == limit:
            return {"items": found, "revision": revision, "next": found[-1]["id"]}
        found.append(item)
    return {"items": found, "revision": revision, "next": None}


def problem(error: BellwetherError, status: int | None = None) -> dict[str, Any]:
    """RFC 9457, with our `code` and `retryable`. `status` is that of the answer, where it is not the error's own."""
    return {
        "type": "about:blank",
        "title": error.code.replace("_", " "),
        "status": status or error.status,
        "detail": error.detail,
        "code": error.code,
        "retryable": error.retryable,
    }


ADMINISTRATIVE = frozenset({"credential", "key", "session", "token", "user"})
"""Kinds that administrators alone are shown."""


def event_view(record: dict[str, Any], revision: int, hidden: Container[str] = ()) -> dict[str, Any]:
    """An accepted record as watchers see it, without changes of `hidden` kinds."""
    shown: dict[str, Any] = {
        "revision": revision,
        "type": record["type"],
        "at": time_text(record["at"]),
        "node": record["node"],
    }
    if record["type"] == "claim":
        return shown | {"epoch": record["ends"] + 1, "primary": record["node"], "changes": []}
    changes = [
        {"op": "delete", "kind": change["kind"], "id": change["id"], "principal": commit["principal"]}
        if change["spec"] is None
        else {
            "op": "put",
            "kind": change["kind"],
            "id": change["id"],
            "revision": revision,
            "spec": public_spec(change["kind"], change["spec"]),
            "status": change["status"],
            "principal": commit["principal"],
        }
        for commit in record["commits"]
        for change in commit["changes"]
        if change["kind"] not in hidden
    ]
    return shown | {"epoch": record["epoch"], "changes": changes}


def to_json(value: object) -> bytes:
    """UTF-8 JSON."""
    return pydantic_core.to_json(value)
