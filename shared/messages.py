"""What providers and agents say to each other: one envelope, a body per type.

Everything is level, not edge: `desired`, `hello` and `report` carry the whole picture, so a lost message costs time and
never truth. `decode` is the only way in: it raises `Undecodable` with a reason and never anything else, whatever the
bytes are.

    provider → agent, exchange `agents.down`, key = the agent's id or `all`
        advice    who is primary, and which broker endpoints to use, in order
        desired   everything that the agent's instances should hold
        inquire   "say hello": sent by a provider that has just started and knows nothing yet
        beat      "the primary is here": to all, every few seconds; see `Beat`
    agent → provider, exchange `agents.up`, key = TYPE.AGENT (the broker lets an agent use its own name alone)
        hello     sent on each connect and when asked
        pulse     "still here", every few seconds; soft state
        advised   acknowledges an epoch, the authorities that are trusted, and the number of a broker password
        report    what the instances hold, and how far the desired state has been reached
    provider ↔ provider, exchange `providers`, key = the message's type
        node_pulse
"""

from datetime import UTC, datetime
from functools import reduce
from operator import or_
from typing import Annotated, Any, Literal, TypeVar, cast
from uuid import uuid4

from pydantic import BaseModel, BeforeValidator, ConfigDict, FailFast, Field, TypeAdapter, ValidationError, create_model

VERSION = 1
MAX_BYTES = 4 * 1024 * 1024
"""Largest message that is looked at. 10,000 databases of one host are about 1.5 MB."""

PARTS_MAX = 200_000
"""Arrays and objects in a message. One of a few bytes takes half a kilobyte to read; with fewer bytes to each than this
leaves, nobody has anything to say."""
FIELDS_MAX = 250_000
"""Names in all objects of a message: 10,000 databases, as many accounts and the results of all have 150,000."""
POSITIONS_MAX = 1_000
"""Of an instance: one for each source that it replicates from."""

AGENTS_DOWN = "agents.down"
AGENTS_UP = "agents.up"
PROVIDERS = "providers"
TO_ALL = "all"
UP_KEYS = "*.*"
"""What providers hear of `agents.up`: two words, the second one the agent's name; see `up_key`."""


class Model(BaseModel):
    """Messages are immutable, and a field that we do not know is an error, not a surprise for later."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Count = Annotated[int, Field(ge=0, le=2**63 - 1)]
"""Epochs and revisions: what can be written down."""
T = TypeVar("T")
Many = Annotated[tuple[T, ...], FailFast()]
"""Looked at up to the first that is wrong: a description of a million errors would take gigabytes."""


# ── what is said of a database server ────────────────────────────────────────────────────────────────────────────────


class Grant(Model):
    """Privileges of an account on one database (`*` = all databases)."""

    database: str
    privileges: Many[str]


class DesiredDatabase(Model):
    name: str
    charset: str | None = None
    collation: str | None = None
    drop: bool = False
    hold: bool | None = Field(default=None, description="look and tell, do nothing; see `Result`")
    version: Count = Field(description="revision in which the wish last changed; echoed in the result")


class DesiredAccount(Model):
    name: str
    host: str = "%"
    grants: Many[Grant] = ()
    password: str | None = Field(default=None, repr=False)
    drop: bool = False
    hold: bool | None = Field(default=None, description="look and tell, do nothing; see `Result`")
    version: Count


class DesiredInstance(Model):
    id: str
    databases: Many[DesiredDatabase] = ()
    accounts: Many[DesiredAccount] = ()


class ObservedDatabase(Model):
    name: str
    charset: str
    collation: str
    size_bytes: int


class ObservedAccount(Model):
    name: str
    host: str
    grants: Many[Grant] = ()
    reserved: bool | None = Field(default=None, description="the server's own, or the agent's: never touched")


def _few(value: object) -> object:
    if isinstance(value, dict) and len(value) > POSITIONS_MAX:
        raise ValueError(f"more than {POSITIONS_MAX} positions")
    return value


Phase = Literal["ready", "failed", "dropped", "held"]


class Result(Model):
    """What became of one wish. `version` is that of the wish; `message` says why it failed and what to do; of one that
    is held, in what the server differs from it. Where it does not differ, a held wish is ready."""

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
    positions: Annotated[dict[str, str], BeforeValidator(_few)] = Field(default_factory=dict)
    databases: Many[ObservedDatabase] = ()
    accounts: Many[ObservedAccount] = ()
    database_results: Many[Result] = ()
    account_results: Many[Result] = ()


# ── bodies ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class Credential(Model):
    """The broker password that an agent is to have. It makes number `number` itself, offers its hash, and uses it once
    `active` says that the broker knows it."""

    number: Count
    active: bool = False


class Offer(Model):
    """A password that an agent has made and does not use yet: as RabbitMQ keeps it, salted SHA-256."""

    number: Count
    broker_password_hash: str = Field(pattern=r"^[A-Za-z0-9+/]{48}$", repr=False)


Trust = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
"""See `shared.tls.trust_of`."""


class Advice(Model):
    """Who is primary and how to reach the broker. Also the content of an agent's `broker.json` (CA as a file there).

    `credential` is for one agent: never in what is sent to all, nor in broker.json."""

    epoch: Count
    primary: str
    endpoints: Many[str] = Field(min_length=1)
    providers: Many[str]
    vhost: str
    ca: str = Field(description="PEM of every authority to trust")
    credential: Credential | None = None


class Desired(Model):
    revision: Count
    instances: Many[DesiredInstance]


class Inquire(Model):
    pass


BEAT_MAX_S = 3600.0
Seconds = Annotated[float, Field(ge=0, le=BEAT_MAX_S)]


class Beat(Model):
    """The primary is here, and its next beat follows in `interval_s`. An agent that misses some of them sits at a
    broker that is cut off from the primary. `spread_s`: over so long agents are to spread what all do at once."""

    interval_s: Annotated[float, Field(gt=0, le=BEAT_MAX_S)]
    spread_s: Seconds = 0.0


class Hello(Model):
    version: str
    session: str = Field(description="new at each start of the agent")
    epoch: Count
    revision: Count
    endpoint: str
    trust: Trust | None = None
    credential: Count = 0
    offer: Offer | None = None
    instances: Many[ObservedInstance]


class Pulse(Model):
    version: str
    session: str
    epoch: Count
    revision: Count
    endpoint: str
    trust: Trust | None = Field(default=None, description="what it trusts")
    credential: Count = Field(default=0, description="number of the broker password that it uses")
    offer: Offer | None = None


class Advised(Model):
    epoch: Count
    primary: str
    trust: Trust | None = None
    credential: Count = 0
    offer: Offer | None = None


class Report(Model):
    revision: Count = Field(description="of the desired state that this answers; 0 before the first")
    instances: Many[ObservedInstance]


class NodePulse(Model):
    """What a provider tells the others about itself, every second."""

    role: Literal["primary", "standby"]
    state: str
    reason: str | None = None
    version: str
    revision: Count
    digest: str
    started: str
    trust: str | None = Field(default=None, description="short name of the authorities that it trusts")
    configuration: str | None = Field(
        default=None, description="fingerprint of its settings that have to be the same on all nodes"
    )
    settings: dict[str, Any] = Field(default_factory=dict, description="those of them that are not at their defaults")


Body = Advice | Desired | Inquire | Beat | Hello | Pulse | Advised | Report | NodePulse

_TYPES: dict[str, type[Model]] = {
    "advice": Advice,
    "desired": Desired,
    "inquire": Inquire,
    "beat": Beat,
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


def _typed(name: str, body: type[Model]) -> type[Envelope]:
    fields: dict[str, Any] = {"type": (Literal[name], name), "body": (body, ...)}
    return create_model(name, __base__=Envelope, **fields)


# One for each type, so that a message is read once, and only what it may hold becomes objects.
_ENVELOPES: Any = reduce(or_, (_typed(name, body) for name, body in _TYPES.items()))
_ENVELOPE: TypeAdapter[Envelope] = TypeAdapter(Annotated[_ENVELOPES, Field(discriminator="type")])


class _Head(BaseModel):
    """What tells why a message is not understood."""

    v: int
    type: str


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
    """The type's name, which is also the routing key of `providers`."""
    return _NAMES[type(body)]


def up_key(type_: str, agent: str) -> str:
    """The routing key of what an agent says. The broker checks it, so that also of a message without a sender, or one
    that is dropped unread, it is known who said it."""
    return f"{type_}.{agent}"


def agent_of(key: str) -> str | None:
    """The agent in such a key; None where it names none."""
    return key.partition(".")[2] or None


def decode(data: bytes) -> tuple[Envelope, Body]:
    """The envelope and its typed body. Takes at most some 100 MB for a moment, whatever the bytes are.

    Raises `Undecodable` with kind `too_large`, `not_json`, `malformed`, `newer_version` or `unknown_type`.
    """
    if len(data) > MAX_BYTES:
        raise Undecodable("too_large", f"{len(data)} bytes; at most {MAX_BYTES} are read")
    if data.count(b"{") + data.count(b"[") > PARTS_MAX or data.count(b":") > FIELDS_MAX:
        raise Undecodable("too_large", f"more than {PARTS_MAX} arrays and objects, or {FIELDS_MAX} fields")
    try:
        envelope = _ENVELOPE.validate_json(data)
    except ValidationError as error:
        raise _undecodable(data, error) from None
    if envelope.v != VERSION:
        raise Undecodable("newer_version" if envelope.v > VERSION else "unknown_type", f"version {envelope.v}")
    return envelope, cast(Body, envelope.body)


def _undecodable(data: bytes, error: ValidationError) -> Undecodable:
    try:
        head = _Head.model_validate_json(data)
    except ValidationError as why:
        kind = "not_json" if why.errors(include_url=False)[0]["type"] == "json_invalid" else "malformed"
        return Undecodable(kind, _reason(why))
    if head.v > VERSION:
        return Undecodable("newer_version", f"version {head.v}; this program speaks {VERSION}")
    if head.type not in _TYPES or head.v != VERSION:
        return Undecodable("unknown_type", f"type {head.type[:80]!r}, version {head.v}")
    return Undecodable("malformed", _reason(error))


def _reason(error: ValidationError) -> str:
    if error.error_count() > 20:  # a text of a hundred thousand errors takes a second to write
        return f"{error.error_count()} errors"
    return " ".join(str(error).split())[:300]
