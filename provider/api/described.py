"""What each route may be asked and what it answers, for the OpenAPI document.

Nothing here runs on the way of a request: the routes read and write for themselves, and the tests hold their answers
against this. A route that is not named here fails them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from provider.api.schemas import COUNT, TEXT, TIME, YES_OR_NO, Schema, object_of, ref

_JSON, _LINES = "application/json", "application/x-ndjson"
LIMIT_MAX = 1000


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
    _header("If-Match", {"type": "string", "pattern": r'^(\*|"[0-9]{1,18}")$'}, "an ETag, or *: else 412"),
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
    return Operation({status: {_JSON: ref(schema) if isinstance(schema, str) else schema}}, parameters)


def _reads(schema: str, *parameters: Schema) -> Operation:
    return _says(schema, *parameters, *READ)


def _collection(name: str, *filters: Schema) -> Operation:
    return _reads(f"{name}List", *filters, *PAGE)


def _live(name: str) -> Operation:
    """One of which more is shown than its revision knows: there is no 304."""
    return Operation({200: {_JSON: ref(name)}}, READ, frozenset({200}))


def _one(name: str) -> Operation:
    return Operation({200: {_JSON: ref(name)}, 304: {}}, (KNOWN, *READ), frozenset({200, 304}))


def _put(name: str) -> Operation:
    content = {_JSON: ref(name)}
    return Operation({200: content, 201: content}, (KEY, *WHEN), frozenset({200, 201}))


def _delete(*parameters: Schema, name: str | None = None) -> Operation:
    if name is None:
        return Operation({204: {}}, (KEY, *parameters))
    return Operation({202: {_JSON: ref(name)}, 204: {}}, (KEY, *WHEN, *parameters), frozenset({202}))


def _probe(*parameters: Schema) -> Operation:
    return Operation({200: {_JSON: ref("Health")}, 503: {_JSON: ref("Health")}}, parameters)


def _choice(name: str, *values: str) -> Schema:
    return _query(name, {"enum": list(values)})


OPERATIONS: Mapping[tuple[str, str], Operation] = {
    ("get", "/cluster"): _reads("Cluster"),
    ("get", "/nodes"): _collection("Node"),
    ("get", "/nodes/{name}"): _live("Node"),
    ("put", "/nodes/{name}"): Operation({200: {_JSON: ref("Node")}}, (KEY, *WHEN), frozenset({200})),
    ("delete", "/nodes/{name}"): _delete(*WHEN),
    ("get", "/nodes/{name}/maintenance"): _reads("Maintenance"),
    ("put", "/nodes/{name}/maintenance"): Operation({200: {_JSON: ref("Node")}}, (KEY, *WHEN), frozenset({200})),
    ("delete", "/nodes/{name}/maintenance"): _delete(*WHEN),
    ("get", "/agents"): _collection(
        "Agent", _choice("state", "online", "offline", "never"), _query("advised", YES_OR_NO)
    ),
    ("get", "/agents/{agent}"): _reads("Agent"),
    ("delete", "/agents/{agent}"): _delete(*WHEN),
    ("get", "/agents/{agent}/advice"): _reads("Advice"),
    ("post", "/agents/advise"): _says("Told", KEY, status=202),
    ("post", "/agents/{agent}/advise"): _says("Told", KEY, status=202),
    ("get", "/instances"): _collection("Instance", _choice("state", "up", "down", "unknown"), _query("agent", TEXT)),
    ("get", "/instances/{instance}"): _live("Instance"),
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
    ("delete", "/tokens/{token}"): _delete(*WHEN),
    ("get", "/tokens/{token}"): _reads("Token"),
    ("post", "/tokens/administrator"): _says("NewToken", KEY, status=201),
    ("post", "/tokens/uses"): Operation({204: {}}),
    ("post", "/agents/{agent}/credential"): Operation({202: {_JSON: ref("Agent")}}, (KEY,)),
    ("get", "/authorities"): _collection("Authority"),
    ("get", "/authorities/{authority}"): _reads("Authority"),
    ("post", "/authorities"): Operation({201: {_JSON: ref("Authority")}}, (KEY,), frozenset({201})),
    ("post", "/authorities/{authority}/sign"): Operation(
        {200: {_JSON: ref("Authority")}}, (KEY, FORCE), frozenset({200})
    ),
    ("delete", "/authorities/{authority}"): _delete(FORCE),
    ("post", "/nodes/{name}/certificate"): _says(object_of({"certificate": TEXT, "revision": COUNT}), KEY),
    ("get", "/users"): _collection("User"),
    ("get", "/users/{name}"): _one("User"),
    ("put", "/users/{name}"): _put("User"),
    ("delete", "/users/{name}"): _delete(*WHEN),
    ("put", "/users/{name}/password"): Operation({200: {_JSON: ref("User")}}, (KEY,), frozenset({200})),
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
    ("post", "/backups"): Operation({200: {_JSON: ref("Setting")}}, (KEY,), frozenset({200})),
    ("put", "/backups/key"): Operation({200: {_JSON: ref("Credential")}}, (KEY,), frozenset({200})),
    ("get", "/adoption"): _reads("Adoption", _query("instance", TEXT), LIMIT, _query("after", TEXT)),
    ("delete", "/adoption"): _delete(),
    ("put", "/agents/{agent}/credential"): Operation({200: {_JSON: ref("Agent")}}, (KEY,), frozenset({200})),
    **{
        ("post", f"/instances/{{instance}}/{verb}"): Operation(
            {200: {_JSON: ref("Instance")}}, (KEY,), frozenset({200})
        )
        for verb in ("adopt", "release", "ignore")
    },
    ("get", "/history"): Operation({200: {_LINES: TEXT}}, (_query("until", COUNT, "a revision"), *READ)),
    ("get", "/events"): Operation(
        {200: {"text/event-stream": object_of({}, {"id": TEXT, "event": TEXT, "data": TEXT}), _LINES: TEXT}},
        (
            _query("after", COUNT, "a revision; without it, from now on"),
            _query("follow", {**YES_OR_NO, "default": True}, "false: ends at the newest"),
            _header("Last-Event-ID", COUNT, "resumes where a stream broke off"),
            *READ,
        ),
    ),
    ("post", "/failover"): Operation({200: {_JSON: ref("Preflight"), _LINES: TEXT}}),
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
