"""What each route may be asked and what it answers, for the OpenAPI document.

Nothing here runs on the way of a request: the routes read and write for themselves, and the tests hold their answers
against this. A route that is not named here fails them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic.json_schema import models_json_schema

from provider.core.documents import CONTENTS, SECRETS
from shared.messages import Advice

Schema = dict[str, Any]
_REF = "#/components/schemas/{model}"
_JSON, _LINES = "application/json", "application/x-ndjson"
LIMIT_MAX = 1000


def _ref(name: str) -> Schema:
    return {"$ref": _REF.format(model=name)}


def _object(required: Mapping[str, Schema], optional: Mapping[str, Schema] | None = None) -> Schema:
    """An object that has the first fields and may have the others. More may come with a later version."""
    return {"type": "object", "required": list(required), "properties": {**required, **(optional or {})}}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


TEXT: Schema = {"type": "string"}
COUNT: Schema = {"type": "integer", "minimum": 0}
YES_OR_NO: Schema = {"type": "boolean"}
TIME: Schema = {"type": "string", "format": "date-time"}
NAMES = _list(TEXT)

# ── schemas ──────────────────────────────────────────────────────────────────────────────────────────────────────────

_SEEN: Mapping[str, Mapping[str, Schema]] = {
    "node": {
        "role": {"enum": ["primary", "standby"]},
        "state": TEXT,
        "reason": _or_null(TEXT),
        "version": _or_null(TEXT),
        "revision": _or_null(COUNT),
        "digest": _or_null(TEXT),
        "last_seen": _or_null(TIME),
        "lag": _or_null(COUNT),
        "clock_skew_s": _or_null({"type": "number", "description": "ahead of the primary's"}),
        "configuration": _or_null({**TEXT, "description": "fingerprint of what has to be the same on all nodes"}),
    },
    "agent": {
        "advised": YES_OR_NO,
        "last_seen": _or_null(TIME),
        "revision": _or_null({**COUNT, "description": "of the wishes that it has fulfilled"}),
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
        "uptime_s": _or_null({"type": "integer"}),
    },
}
"""What is shown in a status beside what is replicated: this node's own knowledge, from what it last heard."""

_NODE_STATUS: Schema = {"type": "object", "properties": dict(_SEEN["node"])}
_MISSING = _object({"total": COUNT, "online": COUNT, "advised": COUNT, "missing": NAMES})
_OTHERS: Mapping[str, Schema] = {
    "Cluster": _object(
        {
            "id": _or_null(TEXT),
            "generation": TEXT,
            "epoch": COUNT,
            "primary": TEXT,
            "revision": COUNT,
            "digest": TEXT,
            "nodes": _list(_object({"name": TEXT, "url": TEXT, "role": _SEEN["node"]["role"]}, _SEEN["node"])),
            "agents": _MISSING,
            "agents_at": _list(_object({"endpoint": TEXT, "agents": COUNT, "preferred": YES_OR_NO})),
            "warnings": NAMES,
        }
    ),
    "LoggedIn": _object({"token": TEXT, "csrf": TEXT, "expires_at": TIME, "user": TEXT, "role": TEXT}),
    "Session": _object(
        {
            "principal": TEXT,
            "role": TEXT,
            "scope": {},
            "user": _or_null(TEXT),
            "expires_at": _or_null(TIME),
            "csrf": _or_null(TEXT),
        }
    ),
    "Audit": _object(
        {
            "items": _list(
                _object(
                    {"revision": COUNT, "at": TIME, "principal": TEXT, "action": TEXT},
                    {"source": _or_null(TEXT), "outcome": {"enum": ["done", "refused"]}, "code": _or_null(TEXT)},
                )
            ),
            "revision": COUNT,
            "next": _or_null(TEXT),
            "complete": YES_OR_NO,
            "oldest": _or_null(_object({"revision": COUNT, "at": TIME})),
        }
    ),
    "Maintenance": _object(
        {
            "node": TEXT,
            "maintenance": _or_null(_object({"since": COUNT}, {"reason": TEXT})),
            "connections": _or_null(COUNT),
            "requests": _or_null(COUNT),
            "quiet_s": _or_null({"type": "number"}),
            "drained": _or_null(YES_OR_NO),
        }
    ),
    "Backups": _object({key: {} for key in ("recovery_key", "schedule", "last", "scheduled", "failed", "restored")}),
    "Adoption": _object({"items": _list({"type": "object"}), "revision": COUNT, "next": {}, "restored": {}}),
    "Told": _object({"told": NAMES, "epoch": COUNT}),
    "Preflight": _object(
        {
            "ok": YES_OR_NO,
            "node": TEXT,
            "primary": TEXT,
            "epoch": COUNT,
            "revision": COUNT,
            "checks": _list(_object({"check": TEXT, "ok": YES_OR_NO, "warning": YES_OR_NO, "detail": TEXT})),
        }
    ),
    "Standing": _object(
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
    "Joined": _object(
        {"certificate": TEXT, "ca": TEXT, "revision": COUNT, "generation": TEXT, "own_broker": YES_OR_NO}
    ),
    "Enrolled": _object({"username": TEXT, "password": TEXT, "api_token": TEXT, "advice": _ref("Advice")}),
    "Health": _object(
        {"status": TEXT},
        {"now": {**COUNT, "description": "Unix milliseconds"}, "state": TEXT, "reason": _or_null(TEXT), "lag": COUNT},
    ),
}


def _title(kind: str) -> str:
    return kind.title().replace("_", "")


def schemas() -> dict[str, Schema]:
    """All components: the documents as they are shown, without what is secret in them; and the rest."""
    models = [(model, "serialization") for pair in CONTENTS.values() for model in pair]
    pairs, definitions = models_json_schema([*models, (Advice, "serialization")], ref_template=_REF)  # type: ignore[list-item]
    found: dict[str, Schema] = {}
    parts: dict[str, Schema] = definitions.get("$defs", {})
    named = {model: parts[ref["$ref"].rpartition("/")[2]] for (model, _), ref in pairs.items()}
    for kind, (spec, status) in CONTENTS.items():
        found[_title(kind)] = _document(kind, named[spec], named[status])
        found[f"{_title(kind)}List"] = _object(
            {"items": _list(_ref(_title(kind))), "revision": COUNT, "next": _or_null(TEXT)}
        )
    shown = {"token": {**_or_null(TEXT), "description": "the token itself, this once; null where the key came again"}}
    found["NewToken"] = {"allOf": [_ref("Token"), _object(shown)]}
    whole = {model.__name__ for model in named} - {Advice.__name__}
    kept = {name: part for name, part in parts.items() if name not in whole}
    return {**kept, **found, **_OTHERS}


def _document(kind: str, spec: Schema, status: Schema) -> Schema:
    hidden = SECRETS.get(kind, frozenset())
    specs = {name: part for name, part in spec.get("properties", {}).items() if name not in hidden}
    statuses = {**status.get("properties", {}), **_SEEN.get(kind, {})}
    return _object(
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


# ── operations ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _query(name: str, schema: Schema, text: str = "") -> Schema:
    return {"name": name, "in": "query", "required": False, "description": text, "schema": schema}


def _header(name: str, schema: Schema, text: str) -> Schema:
    return {"name": name, "in": "header", "required": False, "description": text, "schema": schema}


LIMIT = _query("limit", {"type": "integer", "minimum": 1, "maximum": LIMIT_MAX, "default": 100}, "items of a page")
AFTER = _query("after", TEXT, "`next` of the page before")
PAGE = (LIMIT, AFTER)
READ = (
    _header("Bellwether-Min-Revision", COUNT, "waits until this node has it, else 503 `behind`"),
    _header("Bellwether-Wait", {"type": "number", "minimum": 0, "maximum": 60, "default": 5}, "for so many seconds"),
)
KEY = _header(
    "Idempotency-Key",
    {"type": "string", "minLength": 1, "maxLength": 200, "pattern": "^[!-~]+$"},
    "the same key again, on any node, gets the first answer, for 24 h",
)
WHEN = (
    _header("If-Match", {"type": "string", "pattern": '^"[0-9]{1,18}"$'}, "an ETag; another revision is 412"),
    _header("If-None-Match", {"const": "*"}, "only where there is none yet"),
)
KNOWN = _header("If-None-Match", {"type": "string", "pattern": '^"[0-9]{1,18}"$'}, "an ETag; 304 where it still is")
DROP = _query("drop", YES_OR_NO, "drop it on the server, and all data in it, too")

FORCE = _query("force", YES_OR_NO, "does not wait for who is not ready: they are cut off")

_STAMPS: Mapping[str, Schema] = {
    "Bellwether-Node": {"description": "who answered", "schema": TEXT},
    "Bellwether-Role": {"schema": {"enum": ["primary", "standby"]}},
    "Bellwether-Epoch": {"schema": COUNT},
    "Bellwether-Revision": {"description": "of the state that it answered from", "schema": COUNT},
}
_ETAG: Schema = {"description": "the document's revision, quoted", "schema": TEXT}


@dataclass(frozen=True, slots=True)
class Operation:
    """`answers`: by status, a schema for each content type; with `etag` where such an answer has one."""

    answers: Mapping[int, Mapping[str, Schema]]
    parameters: tuple[Schema, ...] = ()
    etag: frozenset[int] = field(default=frozenset())


def _says(schema: Schema | str, *parameters: Schema, status: int = 200) -> Operation:
    return Operation({status: {_JSON: _ref(schema) if isinstance(schema, str) else schema}}, parameters)


def _reads(schema: str, *parameters: Schema) -> Operation:
    return _says(schema, *parameters, *READ)


def _collection(name: str, *filters: Schema) -> Operation:
    return _reads(f"{name}List", *filters, *PAGE)


def _one(name: str) -> Operation:
    return Operation({200: {_JSON: _ref(name)}, 304: {}}, (KNOWN, *READ), frozenset({200, 304}))


def _put(name: str) -> Operation:
    content = {_JSON: _ref(name)}
    return Operation({200: content, 201: content}, (KEY, *WHEN), frozenset({200, 201}))


def _delete(*parameters: Schema, name: str | None = None) -> Operation:
    if name is None:
        return Operation({204: {}}, (KEY, *parameters))
    return Operation({202: {_JSON: _ref(name)}, 204: {}}, (KEY, *WHEN, *parameters), frozenset({202}))


def _probe(*parameters: Schema) -> Operation:
    return Operation({200: {_JSON: _ref("Health")}, 503: {_JSON: _ref("Health")}}, parameters)


def _choice(name: str, *values: str) -> Schema:
    return _query(name, {"enum": list(values)})


OPERATIONS: Mapping[tuple[str, str], Operation] = {
    ("get", "/cluster"): _reads("Cluster"),
    ("get", "/nodes"): _collection("Node"),
    ("get", "/nodes/{name}"): _one("Node"),
    ("put", "/nodes/{name}"): Operation({200: {_JSON: _ref("Node")}}, (KEY, *WHEN), frozenset({200})),
    ("delete", "/nodes/{name}"): _delete(),
    ("get", "/nodes/{name}/maintenance"): _reads("Maintenance"),
    ("put", "/nodes/{name}/maintenance"): Operation({200: {_JSON: _ref("Node")}}, (KEY,), frozenset({200})),
    ("delete", "/nodes/{name}/maintenance"): _delete(),
    ("get", "/agents"): _collection(
        "Agent", _choice("state", "online", "offline", "never"), _query("advised", YES_OR_NO)
    ),
    ("get", "/agents/{agent}"): _reads("Agent"),
    ("delete", "/agents/{agent}"): _delete(),
    ("get", "/agents/{agent}/advice"): _reads("Advice"),
    ("post", "/agents/advise"): _says("Told", KEY, status=202),
    ("post", "/agents/{agent}/advise"): _says("Told", KEY, status=202),
    ("get", "/instances"): _collection("Instance", _choice("state", "up", "down", "unknown"), _query("agent", TEXT)),
    ("get", "/instances/{instance}"): _one("Instance"),
    ("get", "/instances/{instance}/databases"): _collection("Database"),
    ("get", "/instances/{instance}/databases/{name}"): _one("Database"),
    ("put", "/instances/{instance}/databases/{name}"): _put("Database"),
    ("delete", "/instances/{instance}/databases/{name}"): _delete(DROP, name="Database"),
    ("get", "/instances/{instance}/accounts"): _collection("Account"),
    ("get", "/instances/{instance}/accounts/{name}"): _one("Account"),
    ("put", "/instances/{instance}/accounts/{name}"): _put("Account"),
    ("delete", "/instances/{instance}/accounts/{name}"): _delete(DROP, name="Account"),
    ("get", "/settings"): _collection("Setting", _query("prefix", TEXT)),
    ("get", "/settings/{key}"): _one("Setting"),
    ("put", "/settings/{key}"): _put("Setting"),
    ("delete", "/settings/{key}"): _delete(*WHEN),
    ("get", "/tasks"): _collection("Task", _choice("phase", "pending", "running", "done", "failed")),
    ("get", "/tasks/{task}"): _one("Task"),
    ("get", "/tokens"): _collection("Token"),
    ("post", "/tokens"): _says("NewToken", KEY, status=201),
    ("delete", "/tokens/{token}"): _delete(),
    ("get", "/tokens/{token}"): _reads("Token"),
    ("post", "/tokens/administrator"): _says("NewToken", KEY, status=201),
    ("post", "/tokens/uses"): Operation({204: {}}),
    ("post", "/agents/{agent}/credential"): Operation({202: {_JSON: _ref("Agent")}}, (KEY,)),
    ("get", "/authorities"): _collection("Authority"),
    ("get", "/authorities/{authority}"): _reads("Authority"),
    ("post", "/authorities"): Operation({201: {_JSON: _ref("Authority")}}, (KEY,), frozenset({201})),
    ("post", "/authorities/{authority}/sign"): Operation(
        {200: {_JSON: _ref("Authority")}}, (KEY, FORCE), frozenset({200})
    ),
    ("delete", "/authorities/{authority}"): _delete(FORCE),
    ("post", "/nodes/{name}/certificate"): _says(_object({"certificate": TEXT, "revision": COUNT}), KEY),
    ("get", "/users"): _collection("User"),
    ("get", "/users/{name}"): _one("User"),
    ("put", "/users/{name}"): _put("User"),
    ("delete", "/users/{name}"): _delete(*WHEN),
    ("put", "/users/{name}/password"): Operation({200: {_JSON: _ref("User")}}, (KEY,), frozenset({200})),
    ("delete", "/users/{name}/sessions"): _delete(),
    ("post", "/login"): _says("LoggedIn"),
    ("get", "/session"): _reads("Session"),
    ("delete", "/session"): _delete(),
    ("get", "/audit"): _reads(
        "Audit",
        *(_query(name, TEXT) for name in ("principal", "source", "action", "kind", "id", "code")),
        _choice("outcome", "done", "refused"),
        *(_query(name, TIME) for name in ("since", "until")),
        _query("all", YES_OR_NO, "also what nodes write down of agents' reports"),
        LIMIT,
        _query("after", {"type": "string", "pattern": r"^[0-9]{1,18}\.[0-9]{1,9}$"}, "`next` of the page before"),
    ),
    ("post", "/audit/refusals"): Operation({204: {}}, (KEY,)),
    ("get", "/backups"): _reads("Backups"),
    ("post", "/backups"): Operation({200: {_JSON: _ref("Setting")}}, (KEY,), frozenset({200})),
    ("put", "/backups/key"): Operation({200: {_JSON: _ref("Credential")}}, (KEY,), frozenset({200})),
    ("get", "/adoption"): _reads("Adoption", _query("instance", TEXT), LIMIT, _query("after", TEXT)),
    ("delete", "/adoption"): _delete(),
    ("put", "/agents/{agent}/credential"): Operation({200: {_JSON: _ref("Agent")}}, (KEY,), frozenset({200})),
    **{
        ("post", f"/instances/{{instance}}/{verb}"): Operation(
            {200: {_JSON: _ref("Instance")}}, (KEY,), frozenset({200})
        )
        for verb in ("adopt", "release", "ignore")
    },
    ("get", "/history"): Operation({200: {_LINES: TEXT}}, (_query("until", COUNT, "a revision"), *READ)),
    ("get", "/events"): Operation(
        {200: {"text/event-stream": _object({}, {"id": TEXT, "event": TEXT, "data": TEXT}), _LINES: TEXT}},
        (
            _query("after", COUNT, "a revision; without it, from now on"),
            _query("follow", {**YES_OR_NO, "default": True}, "false: ends at the newest"),
            _header("Last-Event-ID", COUNT, "resumes where a stream broke off"),
            *READ,
        ),
    ),
    ("post", "/failover"): Operation({200: {_JSON: _ref("Preflight"), _LINES: TEXT}}),
    ("get", "/snapshot"): Operation(
        {200: {_LINES: TEXT}},
        (_query("digest", TEXT, "of a state"), _query("from", COUNT, "lines to leave out"), *READ),
    ),
    ("get", "/standing"): _reads("Standing"),
    ("get", "/ca"): Operation({200: {"application/x-pem-file": TEXT}}),
    ("post", "/join"): _says("Joined", status=201),
    ("post", "/enroll"): _says("Enrolled", status=201),
    ("get", "/health/live"): _says("Health"),
    ("get", "/health/ready"): _probe(),
    ("get", "/health/primary"): _probe(),
    ("get", "/health/standby"): _probe(_query("max_lag", COUNT, "revisions")),
    ("get", "/api/leader-check"): Operation({200: {_JSON: {"const": "OK"}}, 404: {_JSON: {"const": "Not leader"}}}),
    ("get", "/metrics"): Operation({200: {"text/plain": TEXT}}),
}


def describe(method: str, path: str, operation: Schema) -> None:
    """Writes into `operation`, as FastAPI made it, what it is asked and what it answers. `path` lacks the `/api/v1`."""
    said = OPERATIONS.get((method, path))
    if said is None:
        return
    operation["parameters"] = [*operation.get("parameters", []), *said.parameters]
    answers: dict[str, Schema] = {}
    for status, content in said.answers.items():
        headers = {**_STAMPS, "ETag": _ETAG} if status in said.etag else dict(_STAMPS)
        answers[str(status)] = {"description": _MEANING[status], "headers": headers}
        if content:
            answers[str(status)]["content"] = {kind: {"schema": schema} for kind, schema in content.items()}
    default = operation["responses"].get("default")
    operation["responses"] = answers | ({"default": {**default, "headers": dict(_STAMPS)}} if default else {})


_MEANING = {
    200: "Done; this is how it is.",
    201: "Made.",
    202: "Begun; what became of it is shown later.",
    204: "Gone.",
    304: "As you know it.",
    404: "No.",
    503: "No; the reason says why.",
}
