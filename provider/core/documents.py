"""The documents that make up the state, and their typed contents.

A document is identified by (kind, id). `spec` is what was asked for, `status` what became of it. Databases and accounts
belong to an instance: their id is `<instance>/<name>`.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Annotated, Any, Literal
from unicodedata import category

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

Kind = Literal[
    "node",
    "agent",
    "instance",
    "database",
    "account",
    "setting",
    "task",
    "token",
    "user",
    "session",
    "authority",
    "key",
    "credential",
]
Json = Mapping[str, Any]


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def canonical(value: object) -> str:
    """The one JSON text of `value`: sorted keys, no spaces. What is hashed, stored and compared."""
    return _CANONICAL.encode(value)


@dataclass(frozen=True, slots=True)
class Document:
    """One immutable version of a document. Times are Unix milliseconds."""

    kind: Kind
    id: str
    revision: int
    """Of the entry that last changed it; the ETag."""
    wish: int
    """Revision of the entry that last changed `spec`, or asked for a drop: what an agent's results refer to."""
    created_at: int
    updated_at: int
    spec: Json
    status: Json
    _text: str | None = field(init=False, default=None, repr=False, compare=False)

    @property
    def text(self) -> str:
        """Canonical JSON of everything above: what the store keeps and the digest covers. Made when first asked for."""
        text = self._text
        if text is None:
            parts = [self.kind, self.id, self.revision, self.wish, self.created_at, self.updated_at]
            text = canonical([*parts, self.spec, self.status])
            object.__setattr__(self, "_text", text)
        return text

    @classmethod
    def from_text(cls, text: str) -> "Document":
        """The document whose `text` this is."""
        return cls(*json.loads(text))

    @property
    def parent(self) -> str:
        """The instance that a database or account belongs to."""
        return self.id.partition("/")[0]

    @property
    def name(self) -> str:
        """The name within the parent; for the other kinds the id."""
        return self.id.partition("/")[2] or self.id


def fingerprint(text: str) -> int:
    """A 256-bit number that stands for `text` in sums; see `State.digest`."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest())


# ── contents ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Content(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _plain(text: str) -> str:
    # Cc: control characters. Zl, Zp: line ends to some readers of logs, letters to others. Cf: direction marks and
    # joiners of no width, with which two names look alike.
    if any(category(c) in ("Cc", "Cf", "Zl", "Zp") for c in text):
        raise ValueError("control characters and invisible ones are not allowed")
    if any(ord(c) > 0xFFFF or 0xD800 <= ord(c) <= 0xDFFF for c in text):
        raise ValueError("characters outside Unicode's basic plane (emoji, for instance) are not allowed in names")
    return text


def _identifier(text: str) -> str:
    if text != text.strip() or "/" in text or "\\" in text or text in (".", ".."):
        raise ValueError("slashes and leading or trailing spaces are not allowed")
    return _plain(text)


def _scope(text: str) -> str:
    parts = text.split("/")
    if "." in parts or ".." in parts:
        raise ValueError("no . or .. in a path")
    if parts[1] in ("tokens", "users", "login", "session"):
        raise ValueError("a token for this path could make itself one without a scope")
    return _plain(text)


def _address(text: str) -> str:
    address = ip_address(text)
    if address.is_loopback or address.is_multicast or address.is_unspecified or "%" in text:
        raise ValueError("an address at which other hosts reach this one is needed")
    return str(address)


def _legible(text: str) -> str:
    return text[:STATUS_TEXT_MAX].encode("utf-8", "replace").decode()


STATUS_TEXT_MAX = 1000
# What agents and servers say of themselves: not ours to refuse, but it must fit an entry.
StatusText = Annotated[str, AfterValidator(_legible)]

# MySQL and MariaDB: at most 64 characters of the basic plane, no trailing space (manual, "Identifier Names").
DatabaseName = Annotated[str, StringConstraints(min_length=1, max_length=64), AfterValidator(_identifier)]
# MariaDB: at most 80 characters (manual, "Identifier Names", "User names").
AccountName = Annotated[str, StringConstraints(min_length=1, max_length=80), AfterValidator(_identifier)]
# The host part of an account: a name, an address, or a pattern of them. mysql.global_priv.Host is char(60) up to 10.4.
HostPattern = Annotated[str, StringConstraints(min_length=1, max_length=60, pattern=r"^[A-Za-z0-9%_.:/*-]+$")]
ServerWord = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_]{1,64}$")]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?$")]
"""Of nodes, agents and instances: as a host name, so that it can stand in addresses, file names and routing keys."""
UserName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9._@-]{0,62}[a-z0-9])?$")]
IpAddress = Annotated[str, StringConstraints(max_length=45), AfterValidator(_address)]
"""Of a host, as other hosts reach it."""
PersonRole = Literal["admin", "operator", "viewer"]
Label = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(_plain)]
ScopePath = Annotated[
    str,
    StringConstraints(max_length=300, pattern=r"^(/settings/[A-Za-z0-9_.:-]+\*|(/[^/*?#%\\\s]+)+)$"),
    AfterValidator(_scope),
]
"""A path below /api/v1 and all below it; for settings also a beginning of the key, with `*` behind it."""
SettingKey = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}$")]


class GrantSpec(Content):
    """Privileges on one database, or on all (`*`)."""

    database: Literal["*"] | DatabaseName
    privileges: tuple[Annotated[str, StringConstraints(to_upper=True, pattern=r"^[A-Za-z]+( [A-Za-z]+)*$")], ...] = (
        Field(min_length=1, max_length=64)
    )


class CertificateSpec(Content):
    """A certificate that a node was given."""

    sha256: str = Field(description="of its DER form, hex")
    key_sha256: str = Field(description="of its public key, hex; a renewal is for the same key")
    authority: str = Field(description="id of the authority that signed it")
    expires_at: int = Field(description="Unix milliseconds")


class MaintenanceSpec(Content):
    """Somebody is about to work on a node: no new clients are sent there."""

    reason: Label | None = None
    since: int = Field(description="Unix milliseconds")


Placement = Literal["host", "zone"]
"""What may be said of where a node is: two that share one can be lost together."""


RESERVED_HOSTS = frozenset({"localhost", "localhost4", "localhost6", "ip6-localhost", "ip6-loopback", "broadcasthost"})
"""Names that mean something else on every host. Not part of the type: state that was written holds them."""


class BrokerNode(Content):
    """A node's own RabbitMQ, where Bellwether administers it."""

    node: Annotated[str, StringConstraints(pattern=r"^rabbit@[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")] = Field(
        description="its name among brokers, `rabbit@<host name>`"
    )
    version: Annotated[str, StringConstraints(pattern=r"^[0-9]{1,5}(\.[0-9]{1,5}){1,3}([-+~][A-Za-z0-9.+~-]{1,40})?$")]
    address: IpAddress = Field(description="where the other brokers reach it")
    plugins: tuple[Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]{1,64}$")], ...] = Field(
        default=(), max_length=100, description="that are active, sorted"
    )

    @property
    def host(self) -> str:
        """Its host's name, as the other brokers' hosts have to know it."""
        return self.node.partition("@")[2]


class NodeSpec(Content):
    url: str
    endpoints: tuple[str, ...]
    version: str
    token_sha256: str
    public_key: str = Field(description="X25519, hex; data keys are wrapped for it")
    broker_password_hash: str | None = Field(default=None, description="of its user on the broker; None: it has none")
    broker: BrokerNode | None = Field(default=None, description="its own broker; None: one that others administer")
    certificates: tuple[CertificateSpec, ...] = Field(
        default=(), max_length=2, description="that are good: the newest, and the one before it"
    )
    maintenance: MaintenanceSpec | None = Field(default=None, description="None: it is not in maintenance")
    labels: dict[Placement, Label] = Field(default_factory=dict, description="where it is placed")


class AuthoritySpec(Content):
    """A certificate authority that everybody in the cluster trusts. Its id is the SHA-256 of its certificate, short."""

    certificate: str = Field(description="PEM")
    key: str = Field(repr=False, description="PEM, sealed")
    signs: bool = Field(description="one of them signs what is signed from now on")


class KeySpec(Content):
    """A data key: what seals secrets. Ids are `k1`, `k2`…; the one with the highest number seals."""

    wrapped: dict[str, str] = Field(repr=False, description="by node; see provider.trust.vault")


PASSWORDS_MAX = 10
"""That one account may still have: a broker that cannot be reached misses one with each node that is removed."""


class CredentialSpec(Content):
    """An account of ours elsewhere. The passwords are sealed; the newest first, then what it may still be."""

    username: str
    passwords: tuple[str, ...] = Field(min_length=1, max_length=PASSWORDS_MAX, repr=False)


class AgentSpec(Content):
    token_sha256: str
    broker_password_hash: str
    credential: int = Field(default=0, description="number of the broker password in use")
    wanted_credential: int | None = Field(default=None, description="of the one that it was asked to make")
    credential_at: int | None = Field(default=None, description="when that came into use, Unix ms; None: at enrolment")


class InstanceSpec(Content):
    agent: Name
    engine: Literal["mariadb", "mysql", "postgresql"]
    host: str | None = None
    port: int | None = Field(default=None, ge=1, le=65535)
    socket: str | None = None


class DatabaseSpec(Content):
    charset: ServerWord | None = None
    collation: ServerWord | None = None


class AccountSpec(Content):
    host: HostPattern = "%"
    grants: tuple[GrantSpec, ...] = Field(default=(), max_length=1000)
    password: str | None = Field(default=None, repr=False, description="sealed; see provider.trust.vault")


class SettingSpec(Content):
    value: Any


class TokenSpec(Content):
    role: Literal["admin", "operator", "viewer", "node", "agent"]
    sha256: str
    expires_at: int | None = Field(description="Unix milliseconds; None for ever")
    name: Label | None = Field(default=None, description="what it is for, in words")
    scope: tuple[ScopePath, ...] | None = Field(
        default=None, min_length=1, max_length=32, description="good for these paths below /api/v1 only"
    )
    created_by: str | None = Field(default=None, description="the principal that asked for it")
    administrator: Literal[True] | None = Field(default=None, description="the cluster's first one, or its successor")


class UserSpec(Content):
    role: PersonRole
    password_hash: str = Field(repr=False, description="argon2id, PHC string")
    sessions_since: int = Field(description="Unix milliseconds; sessions that were begun before it are over")


class SessionSpec(Content):
    """A session that was ended before its time. Those that go on are nowhere: their tokens are signed."""

    user: str
    expires_at: int = Field(description="Unix milliseconds; then it need not be remembered any longer")


class TaskSpec(Content):
    action: str
    target: str
    arguments: dict[str, Any] = Field(default_factory=dict)


class WishStatus(Content):
    """Of a database or account. `dropping` until the agent has dropped it, then the document goes. `held`: its agent
    looks whether the server is as wished, and does nothing; where it is, the wish is ready."""

    phase: Literal["pending", "ready", "failed", "dropping", "held"] = "pending"
    message: StatusText | None = None


class InstanceStatus(Content):
    state: Literal["unknown", "up", "down"] = "unknown"
    message: StatusText | None = None
    version: StatusText | None = None
    role: Literal["primary", "replica", "unknown"] = "unknown"
    read_only: bool | None = None


class AgentStatus(Content):
    state: Literal["never", "online", "offline"] = "never"
    version: StatusText | None = None
    endpoint: StatusText | None = None
    epoch: int | None = Field(
        ge=0, le=2**63 - 1, default=None, description="highest epoch it had acknowledged when last recorded"
    )
    trust: StatusText | None = Field(default=None, description="which authorities it trusts, when last recorded")
    credential: int | None = Field(default=None, description="number of the broker password that it then used")


class TokenStatus(Content):
    """Times are Unix milliseconds."""

    last_used_at: int | None = Field(default=None, description="known to some minutes only")
    last_used_from: StatusText | None = None
    used_at: int | None = Field(default=None, description="of a one-time token: it is used up")
    used_by: str | None = Field(default=None, description="whom it let in")
    revoked_at: int | None = Field(default=None, description="of a one-time token")


class TaskStatus(Content):
    phase: Literal["pending", "running", "done", "failed"] = "pending"
    progress: float = Field(default=0.0, ge=0, le=1)
    message: StatusText | None = None


class Nothing(Content):
    pass


CONTENTS: Mapping[Kind, tuple[type[Content], type[Content]]] = {
    "node": (NodeSpec, Nothing),
    "agent": (AgentSpec, AgentStatus),
    "instance": (InstanceSpec, InstanceStatus),
    "database": (DatabaseSpec, WishStatus),
    "account": (AccountSpec, WishStatus),
    "setting": (SettingSpec, Nothing),
    "task": (TaskSpec, TaskStatus),
    "token": (TokenSpec, TokenStatus),
    "user": (UserSpec, Nothing),
    "session": (SessionSpec, Nothing),
    "authority": (AuthoritySpec, Nothing),
    "key": (KeySpec, Nothing),
    "credential": (CredentialSpec, Nothing),
}
"""Spec and status of each kind. Checked when a change is planned, never when it is applied: what the log holds is
applied alike by every node, whatever version each runs."""

SECRETS: Mapping[str, frozenset[str]] = {
    "node": frozenset({"token_sha256", "broker_password_hash"}),
    "agent": frozenset({"token_sha256", "broker_password_hash"}),
    "account": frozenset({"password"}),
    "token": frozenset({"sha256"}),
    "user": frozenset({"password_hash"}),
    "authority": frozenset({"key"}),
    "key": frozenset({"wrapped"}),
    "credential": frozenset({"passwords"}),
}
"""Fields of a spec that never leave a provider."""


def public_spec(kind: str, spec: Json) -> dict[str, Any]:
    """`spec` without what is secret."""
    hidden = SECRETS.get(kind, frozenset())
    return {key: value for key, value in spec.items() if key not in hidden}
