"""What answers are made of, as schemas for the OpenAPI document: the documents as they are shown, and all the rest."""

from collections.abc import Mapping
from typing import Any

from pydantic.json_schema import models_json_schema

from provider.core.documents import CONTENTS, SECRETS
from shared.messages import Advice

Schema = dict[str, Any]
_REF = "#/components/schemas/{model}"


def ref(name: str) -> Schema:
    return {"$ref": _REF.format(model=name)}


def object_of(required: Mapping[str, Schema], optional: Mapping[str, Schema] | None = None) -> Schema:
    """An object that has the first fields and may have the others. More may come with a later version."""
    return {"type": "object", "required": list(required), "properties": {**required, **(optional or {})}}


def list_of(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


TEXT: Schema = {"type": "string"}
COUNT: Schema = {"type": "integer", "minimum": 0}
YES_OR_NO: Schema = {"type": "boolean"}
TIME: Schema = {"type": "string", "format": "date-time"}
NAMES = list_of(TEXT)

_SEEN: Mapping[str, Mapping[str, Schema]] = {
    "node": {
        "role": {"enum": ["primary", "standby"]},
        "state": TEXT,
        "reason": or_null(TEXT),
        "version": or_null(TEXT),
        "revision": or_null(COUNT),
        "digest": or_null(TEXT),
        "last_seen": or_null(TIME),
        "lag": or_null(COUNT),
        "clock_skew_s": or_null({"type": "number", "description": "ahead of the primary's"}),
        "configuration": or_null({**TEXT, "description": "fingerprint of what has to be the same on all nodes"}),
    },
    "agent": {
        "advised": YES_OR_NO,
        "last_seen": or_null(TIME),
        "revision": or_null({**COUNT, "description": "of the wishes that it has fulfilled"}),
    },
    "authority": {
        "name": TEXT,
        "expires_at": TIME,
        "days_left": {"type": "number"},
        "used_by": NAMES,
        "not_trusted_by": NAMES,
    },
    "instance": {
        "observed": {"type": "object", "description": "what its agent last reported"},
        "unmanaged": {"type": "object", "description": "names of what is there and in no wish; of one instance only"},
        "positions": {"type": "object", "additionalProperties": TEXT},
        "uptime_s": or_null({"type": "integer"}),
    },
}
"""What is shown in a status beside what is replicated: this node's own knowledge, from what it last heard."""

_NODE_STATUS: Schema = {"type": "object", "properties": dict(_SEEN["node"])}
_MISSING = object_of({"total": COUNT, "online": COUNT, "advised": COUNT, "missing": NAMES})
_OTHERS: Mapping[str, Schema] = {
    "Cluster": object_of(
        {
            "id": or_null(TEXT),
            "generation": TEXT,
            "epoch": COUNT,
            "primary": TEXT,
            "revision": COUNT,
            "digest": TEXT,
            "nodes": list_of(object_of({"name": TEXT, "url": TEXT, "role": _SEEN["node"]["role"]}, _SEEN["node"])),
            "agents": _MISSING,
            "agents_at": list_of(object_of({"endpoint": TEXT, "agents": COUNT, "preferred": YES_OR_NO})),
            "warnings": NAMES,
        }
    ),
    "LoggedIn": object_of({"token": TEXT, "csrf": TEXT, "expires_at": TIME, "user": TEXT, "role": TEXT}),
    "Session": object_of(
        {
            "principal": TEXT,
            "role": TEXT,
            "scope": {},
            "user": or_null(TEXT),
            "expires_at": or_null(TIME),
            "csrf": or_null(TEXT),
        }
    ),
    "Audit": object_of(
        {
            "items": list_of(
                object_of(
                    {"revision": COUNT, "at": TIME, "principal": TEXT, "action": TEXT},
                    {"source": or_null(TEXT), "outcome": {"enum": ["done", "refused"]}, "code": or_null(TEXT)},
                )
            ),
            "revision": COUNT,
            "next": or_null(TEXT),
            "complete": YES_OR_NO,
            "oldest": or_null(object_of({"revision": COUNT, "at": TIME})),
        }
    ),
    "Maintenance": object_of(
        {
            "node": TEXT,
            "maintenance": or_null(object_of({"since": COUNT}, {"reason": TEXT})),
            "connections": or_null(COUNT),
            "requests": or_null(COUNT),
            "quiet_s": or_null({"type": "number"}),
            "drained": or_null(YES_OR_NO),
        }
    ),
    "Backups": object_of({key: {} for key in ("recovery_key", "schedule", "last", "scheduled", "failed", "restored")}),
    "Adoption": object_of({"items": list_of({"type": "object"}), "revision": COUNT, "next": {}, "restored": {}}),
    "Told": object_of({"told": NAMES, "epoch": COUNT}),
    "Preflight": object_of(
        {
            "ok": YES_OR_NO,
            "node": TEXT,
            "primary": TEXT,
            "epoch": COUNT,
            "revision": COUNT,
            "checks": list_of(object_of({"check": TEXT, "ok": YES_OR_NO, "warning": YES_OR_NO, "detail": TEXT})),
        }
    ),
    "Standing": object_of(
        {
            "node": TEXT,
            "cluster": TEXT,
            "generation": TEXT,
            "epoch": COUNT,
            "revision": COUNT,
            "primary": YES_OR_NO,
            "lost": YES_OR_NO,
            "whole": YES_OR_NO,
            "marks": NAMES,
            "healthy": YES_OR_NO,
        }
    ),
    "Joined": object_of(
        {"certificate": TEXT, "ca": TEXT, "revision": COUNT, "generation": TEXT, "own_broker": YES_OR_NO}
    ),
    "Enrolled": object_of({"username": TEXT, "advice": ref("Advice")}),
    "Health": object_of(
        {"status": TEXT},
        {"now": {**COUNT, "description": "Unix milliseconds"}, "state": TEXT, "reason": or_null(TEXT), "lag": COUNT},
    ),
}


def _title(kind: str) -> str:
    return kind.title().replace("_", "")


def components() -> dict[str, Schema]:
    """All components: the documents as they are shown, without what is secret in them; and the rest."""
    models = [(model, "serialization") for pair in CONTENTS.values() for model in pair]
    pairs, definitions = models_json_schema([*models, (Advice, "serialization")], ref_template=_REF)  # type: ignore[list-item]
    found: dict[str, Schema] = {}
    parts: dict[str, Schema] = definitions.get("$defs", {})
    named = {model: parts[ref["$ref"].rpartition("/")[2]] for (model, _), ref in pairs.items()}
    for kind, (spec, status) in CONTENTS.items():
        found[_title(kind)] = _document(kind, named[spec], named[status])
        found[f"{_title(kind)}List"] = object_of(
            {"items": list_of(ref(_title(kind))), "revision": COUNT, "next": or_null(TEXT)}
        )
    shown = {"token": {**or_null(TEXT), "description": "the token itself, this once; null where the key came again"}}
    found["NewToken"] = {"allOf": [ref("Token"), object_of(shown)]}
    whole = {model.__name__ for model in named} - {Advice.__name__}
    kept = {name: part for name, part in parts.items() if name not in whole}
    return {**kept, **found, **_OTHERS}


def _document(kind: str, spec: Schema, status: Schema) -> Schema:
    hidden = SECRETS.get(kind, frozenset())
    specs = {name: part for name, part in spec.get("properties", {}).items() if name not in hidden}
    statuses = {**status.get("properties", {}), **_SEEN.get(kind, {})}
    return object_of(
        {
            "id": TEXT,
            "kind": {"const": kind},
            "revision": {**COUNT, "description": "of the entry that last changed it; its ETag"},
            "created_at": TIME,
            "updated_at": TIME,
            "spec": {"type": "object", "properties": specs},
            "status": {"type": "object", "properties": statuses},
        }
    )
