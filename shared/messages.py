"""What providers and agents say to each other: one envelope, a body per type.

Everything is level, not edge: `desired`, `hello` and `report` carry the whole picture, so a lost message costs time and
never truth. `decode` is the only way in: it raises `Undecodable` with a reason and never anything else, whatever the
bytes are.

    provider → agent, exchange `agents.down`, key = the agent's id or `all`
        advice    who is primary, and which broker endpoints to use, in order
        desired   everything that the agent's instances should hold
        inquire   "say hello": sent by a provider that has just started and knows nothing yet
    agent → provider, exchange `agents.up`, key = the message's type
        hello     sent on each connect and when asked
        pulse     "still here", every few seconds; soft state
        advised   acknowledges an epoch
        report    what the instances hold, and how far the desired state has been reached
    provider ↔ provider, exchange `providers`, key = the message's type
        node_pulse
"""

import json
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, cast
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

VERSION = 1
MAX_BYTES = 4 * 1024 * 1024
"""Largest message that is looked at. 10,000 databases of one host are about 1.5 MB."""

AGENTS_DOWN = "agents.down"
AGENTS_UP = "agents.up"
PROVIDERS = "providers"
TO_ALL = "all"


class Model(BaseModel):
    """Messages are immutable, and a field that we do not know is an error, not a surprise for later."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Count = Annotated[int, Field(ge=0, le=2**63 - 1)]
"""Epochs and revisions: what can be written down."""


# ── what is said of a database server ────────────────────────────────────────────────────────────────────────────────


class Grant(Model):
    """Privileges of an account on one database (`*` = all databases)."""

    database: str
    privileges: tuple[str, ...]


class DesiredDatabase(Model):
    name: str
    charset: str | None = None
    collation: str | None = None
    drop: bool = False
    version: Count = Field(description="revision in which the wish last changed; echoed in the result")


class DesiredAccount(Model):
    name: str
    host: str = "%"
    grants: tuple[Grant, ...] = ()
    password: str | None = Field(default=None, repr=False)
    drop: bool = False
    version: Count


class DesiredInstance(Model):
    id: str
    databases: tuple[DesiredDatabase, ...] = ()
    accounts: tuple[DesiredAccount, ...] = ()


class ObservedDatabase(Model):
    name: str
    charset: str
    collation: str
    size_bytes: int


class ObservedAccount(Model):
    name: str
    host: str
    grants: tuple[Grant, ...] = ()


Phase = Literal["ready", "failed", "dropped"]


class Result(Model):
    """What became of one wish. `version` is that of the wish; `message` says why it failed and what to do."""

    name: str
    version: Count
    phase: Phase
    message: str | None = None


class ObservedInstance(Model):
    """One look at an instance. While `state` is "down", everything below `message` is unknown and empty."""

    id: str
    engine: str
    host: str | None = None
    port: int | None = Field(default=None, ge=1, le=65535)
    socket: str | None = None
    state: Literal["up", "down"]
    message: str | None = None
    version: str | None = None
    role: Literal["primary", "replica", "unknown"] = "unknown"
    read_only: bool | None = None
    uptime_s: int | None = None
    positions: dict[str, str] = Field(default_factory=dict)
    databases: tuple[ObservedDatabase, ...] = ()
    accounts: tuple[ObservedAccount, ...] = ()
    database_results: tuple[Result, ...] = ()
    account_results: tuple[Result, ...] = ()


# ── bodies ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class Advice(Model):
    """Who is primary and how to reach the broker. Also the content of an agent's `broker.json` (CA as a file there)."""

    epoch: Count
    primary: str
    endpoints: tuple[str, ...] = Field(min_length=1)
    providers: tuple[str, ...]
    vhost: str
    ca: str = Field(description="PEM of every authority to trust")


class Desired(Model):
    revision: Count
    instances: tuple[DesiredInstance, ...]


class Inquire(Model):
    pass


class Hello(Model):
    version: str
    session: str = Field(description="new at each start of the agent")
    epoch: Count
    revision: Count
    endpoint: str
    instances: tuple[ObservedInstance, ...]


class Pulse(Model):
    version: str
    session: str
    epoch: Count
    revision: Count
    endpoint: str


class Advised(Model):
    epoch: Count
    primary: str


class Report(Model):
    revision: Count = Field(description="of the desired state that this answers; 0 before the first")
    instances: tuple[ObservedInstance, ...]


class NodePulse(Model):
    """What a provider tells the others about itself, every second."""

    role: Literal["primary", "standby"]
    state: str
    reason: str | None = None
    version: str
    revision: Count
    digest: str
    started: str


Body = Advice | Desired | Inquire | Hello | Pulse | Advised | Report | NodePulse

_TYPES: dict[str, type[Model]] = {
    "advice": Advice,
    "desired": Desired,
    "inquire": Inquire,
    "hello": Hello,
    "pulse": Pulse,
    "advised": Advised,
    "report": Report,
    "node_pulse": NodePulse,
}
_NAMES = {model: name for name, model in _TYPES.items()}


class Envelope(Model):
    """`epoch` is the sender's: agents ignore commands of a lower one than they have seen."""

    v: int
    type: str
    id: str
    sender: str
    epoch: Count
    at: str
    trace: str | None = None
    body: Annotated[Any, Field(description="a model above, by `type`")]


class Undecodable(Exception):
    """These bytes are no message for us. `kind` is a short stable word for a counter, the text says more."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


_ENVELOPE = TypeAdapter(Envelope)


def now_text() -> str:
    """The time now, RFC 3339, UTC, milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def encode(body: Body, *, sender: str, epoch: int, trace: str | None = None) -> bytes:
    """One message as bytes (UTF-8 JSON), with a fresh id and the time of now."""
    envelope = Envelope(
        v=VERSION,
        type=_NAMES[type(body)],
        id=uuid4().hex,
        sender=sender,
        epoch=epoch,
        at=now_text(),
        trace=trace,
        body=body.model_dump(mode="json", exclude_none=True),
    )
    return envelope.model_dump_json().encode()


def type_of(body: Body) -> str:
    """The type's name, which is also the routing key of `agents.up` and `providers`."""
    return _NAMES[type(body)]


def decode(data: bytes) -> tuple[Envelope, Body]:
    """The envelope and its typed body.

    Raises `Undecodable` with kind `too_large`, `not_json`, `malformed`, `newer_version` or `unknown_type`.
    """
    if len(data) > MAX_BYTES:
        raise Undecodable("too_large", f"{len(data)} bytes; at most {MAX_BYTES} are read")
    try:
        raw = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Undecodable("not_json", str(error)) from None
    version = raw.get("v") if isinstance(raw, dict) else None
    if isinstance(version, int) and version > VERSION:
        raise Undecodable("newer_version", f"version {version}; this program speaks {VERSION}")
    try:
        envelope = _ENVELOPE.validate_python(raw)
        model = _TYPES.get(envelope.type)
        if model is None or envelope.v != VERSION:
            raise Undecodable("unknown_type", f"type {envelope.type[:80]!r}, version {envelope.v}")
        # JSON mode, so that lists become tuples as they would from the wire.
        body = model.model_validate_json(json.dumps(envelope.body))
    except (ValidationError, RecursionError, ValueError) as error:
        raise Undecodable("malformed", " ".join(str(error).split())[:300]) from None
    return envelope, cast(Body, body)
