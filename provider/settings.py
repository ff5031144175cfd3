"""A provider's configuration: `provider.toml`, and the files beside it."""

import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from provider.core.documents import Name, canonical
from shared.errors import Invalid
from shared.files import user_name
from shared.validation import problems

DEFAULT_CONFIG = Path("/etc/bellwether/provider.toml")
LOOPBACK = "127.0.0.1"
"""Each node's certificate is for this address as well: whoever is on its host can verify it without a name."""


def _readable(url: str) -> str:
    parts = urlsplit(url)  # whoever uses it does the same, and would not expect this to fail
    if not parts.hostname or parts.port == 0:
        raise ValueError(f"{url!r} has no host, or port 0")
    return url


HttpsUrl = Annotated[str, StringConstraints(pattern=r"^https://[^/\s?#@]+$"), AfterValidator(_readable)]
AmqpsUrl = Annotated[str, StringConstraints(pattern=r"^amqps://[^/\s?#@]+$"), AfterValidator(_readable)]
_ADVISE_WAIT_S = 1.0


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BrokerSettings(_Section):
    """How this node reaches RabbitMQ. Its own password is in `broker.password` beside the configuration."""

    endpoints: tuple[AmqpsUrl, ...] = Field(min_length=1, description="this node's own broker first")
    management: HttpsUrl | None = Field(
        default=None, description="management API, to give each agent a user of its own"
    )
    username: str = Field(description="this node's own: `node.<name>`")
    vhost: str = "bellwether"
    heartbeat_s: int = Field(default=5, ge=2, description="one that is silent for half as long again is given up")


def _network(text: str) -> str:
    ip_network(text, strict=False)
    return text


Network = Annotated[str, AfterValidator(_network)]


class LimitSettings(_Section):
    """What one client may ask of the API before it is held back. See docs/LIMITS.md for what each is answered with."""

    trusted_proxies: tuple[Network, ...] = Field(
        default=(), description="addresses and networks whose X-Forwarded-For is believed"
    )
    body_max_bytes: int = Field(default=1_048_576, ge=65_536, description="larger request bodies are refused (413)")
    head_max_bytes: int = Field(default=32_768, ge=4_096, description="request line and headers in all (431)")
    head_max_lines: int = Field(default=100, ge=10, description="headers of one request (431)")
    connections_max: int = Field(default=4_096, ge=1, description="open connections in all (429)")
    connections_per_client: int = Field(default=256, ge=1, description="open connections of one address (429)")
    handshake_timeout_s: float = Field(default=10.0, gt=0, description="a TLS handshake may take this long")
    head_timeout_s: float = Field(default=10.0, gt=0, description="the head of a request may take this long (408)")
    body_grace_s: float = Field(default=10.0, gt=0, description="a body may be slow for this long")
    body_min_bytes_per_s: float = Field(default=1_024, ge=0, description="and must come this fast from then on (408)")
    idle_timeout_s: float = Field(
        default=75.0, gt=0, description="a connection without a request is kept this long; nodes reuse theirs for 30 s"
    )
    unread_timeout_s: float = Field(default=60.0, gt=0, description="a client that reads nothing is cut after this")
    requests_per_s: float = Field(default=5_000, gt=0, description="of one token, or of one address without (429)")
    requests_burst: int = Field(default=10_000, ge=1, description="requests at once, before that rate counts")
    unauthenticated_per_s: float = Field(default=100, gt=0, description="of one address without a good token (429)")
    unauthenticated_burst: int = Field(default=1_000, ge=1, description="at once, before that rate counts")
    streams_max: int = Field(default=200, ge=1, description="open /events streams at most; each holds a connection")
    streams_per_client: int = Field(default=20, ge=1, description="of those, with one token (429)")


class ApiSettings(LimitSettings):
    """The HTTPS API. Each figure here bounds how long a client can be kept waiting for one thing."""

    listen: str = Field(description="address:port to listen on")
    primary_wait_s: float = Field(default=2.0, ge=0, description="a write waits this long for a primary to be there")
    commit_wait_s: float = Field(
        default=5.0, gt=0, description="and this long for the log; then the outcome is unknown"
    )


class ProviderSettings(_Section):
    name: Name
    url: HttpsUrl = Field(description="where the other nodes and clients reach this one")
    data_dir: Path
    store_url: str = Field(description="sqlite:////path/state.db or mysql+pymysql://user@host/database")
    store_password_file: Path | None = Field(
        default=None, description="password of `store_url`; default: store.password beside this file, if there"
    )
    log_level: str = "INFO"
    advise_wait_s: float = Field(
        default=_ADVISE_WAIT_S, ge=0, description="promote waits this long for online agents to follow"
    )
    broker: BrokerSettings
    api: ApiSettings


COMMON = (
    "advise_wait_s",
    "broker.vhost",
    "broker.heartbeat_s",
    *(f"api.{name}" for name in ApiSettings.model_fields if name != "listen"),
)
"""Names of what has to be the same on all nodes; see `configuration`."""


@dataclass(frozen=True, slots=True)
class Files:
    """What lies beside `provider.toml`. Everything but `ca` and `certificate` is secret (mode 600)."""

    config: Path

    def _beside(self, name: str) -> Path:
        return self.config.parent / name

    @property
    def ca(self) -> Path:
        return self._beside("ca.pem")

    @property
    def certificate(self) -> Path:
        return self._beside("node.pem")

    @property
    def key(self) -> Path:
        return self._beside("node.key")

    @property
    def secrets_key(self) -> Path:
        """This node's own private key, for which the cluster's data keys are wrapped."""
        return self._beside("secrets.key")

    @property
    def join(self) -> Path:
        """What a host that joins has made for itself; only while it joins."""
        return self._beside("join.json")

    @property
    def node_token(self) -> Path:
        return self._beside("node.token")

    @property
    def broker_password(self) -> Path:
        return self._beside("broker.password")

    @property
    def store_password(self) -> Path:
        """Only where the store is a database server that asks for one."""
        return self._beside("store.password")

    @property
    def s3_credentials(self) -> Path:
        """For S3-compatible storage, in AWS' form. Only where backups go there and the environment does not say."""
        return self._beside("s3.credentials")

    @property
    def secrets(self) -> tuple[Path, ...]:
        """What a provider cannot do without, and nobody else may read."""
        return (self.key, self.secrets_key, self.node_token, self.broker_password)


def load_settings(path: Path) -> ProviderSettings:
    """The settings in `path`. Raises `Invalid` with what is wrong and where."""
    try:
        with path.open("rb") as file:
            return ProviderSettings.model_validate(tomllib.load(file))
    except FileNotFoundError:
        raise Invalid(f"{path}: not found; `provider init` or `provider join` makes it") from None
    except PermissionError:
        raise not_allowed(path) from None
    except ValidationError as error:
        raise Invalid(f"{path}: {problems(error)}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise Invalid(f"{path}: {error}") from None


def not_allowed(path: Path) -> Invalid:
    """What whoever may not read the configuration is told."""
    who = user_name(os.geteuid())
    return Invalid(f"{path}: {who} may not read it; run this as root (sudo), or, for a daemon, make it that user's")


def common_settings(path: Path) -> dict[str, Any]:
    """What the file says, by name, of what all nodes share. Raises `Invalid`."""
    try:
        with path.open("rb") as file:
            content = tomllib.load(file)
    except (OSError, ValueError, RecursionError) as error:
        raise Invalid(f"{path}: {error}") from None
    tables = {name: table for name, table in content.items() if isinstance(table, dict)}
    found = {name: value for name, value in content.items() if name not in tables}
    return found | {f"{table}.{name}": value for table, fields in tables.items() for name, value in fields.items()}


def to_toml(settings: ProviderSettings) -> str:
    """The text of a configuration file. What has its default is left out."""
    content = settings.model_dump(mode="json", exclude_defaults=True)
    tables = {key: value for key, value in content.items() if isinstance(value, dict)}
    lines = ["# Written by `provider init` or `provider join`. See docs: `provider --help`.", ""]
    lines += [f"{key} = {_value(value)}" for key, value in content.items() if key not in tables]
    for table, fields in tables.items():
        lines += ["", f"[{table}]", *(f"{key} = {_value(value)}" for key, value in fields.items())]
    return "\n".join(lines) + "\n"


def _value(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)  # strings, numbers, booleans and lists of them: TOML writes them alike


def host_of(url: str) -> str:
    """The host name or address in a URL. Raises `Invalid` where there is none."""
    try:
        host = urlsplit(url).hostname
    except ValueError as error:
        raise Invalid(f"{url!r}: {error}") from None
    if host is None:
        raise Invalid(f"{url!r} has no host")
    return host


def is_loopback(url: str) -> bool:
    """Whether the host in a URL means, on each host, that host itself."""
    host = host_of(url)
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def port_of(url: str) -> int:
    """The port in a URL. Raises `Invalid` where there is none, or none that there could be."""
    try:
        port = urlsplit(url).port
    except ValueError as error:
        raise Invalid(f"{url!r}: {error}") from None
    if port is None:
        raise Invalid(f"{url!r} has no port: https://host:port is expected, for example {url}:8443")
    return port


def configuration(settings: ProviderSettings) -> dict[str, Any]:
    """What has to be the same on all nodes, by name (`api.body_max_bytes`): whichever of them a client asks, it meets
    the same limits. What belongs to one host alone (addresses, files, users) is left out."""
    content = settings.model_dump(mode="json")
    tables = {"": content, "broker": content["broker"], "api": content["api"]}
    return {name: tables[name.rpartition(".")[0]][name.rpartition(".")[2]] for name in COMMON}


def set_apart(settings: ProviderSettings) -> dict[str, Any]:
    """Those of `configuration` that are not at their defaults."""
    bare = BrokerSettings(endpoints=("amqps://x:1",), username="x")
    plain = settings.model_copy(update={"broker": bare, "api": ApiSettings(listen=""), "advise_wait_s": _ADVISE_WAIT_S})
    defaults = configuration(plain)
    return {name: value for name, value in configuration(settings).items() if value != defaults[name]}


def fingerprint_of(named: Mapping[str, Any]) -> str:
    """A short name for a `configuration`: the first 16 hex digits of SHA-256 over its canonical JSON."""
    return sha256(canonical(named).encode()).hexdigest()[:16]


def nested(named: Mapping[str, Any]) -> dict[str, Any]:
    """`configuration` as the tables of provider.toml."""
    found: dict[str, Any] = {}
    for name, value in named.items():
        table, _, key = name.rpartition(".")
        (found.setdefault(table, {}) if table else found)[key] = value
    return found


def certificate_hosts(url: str) -> tuple[str, ...]:
    """Names and addresses that the certificate of the node at `url` is for."""
    return (host_of(url), "localhost", LOOPBACK)
