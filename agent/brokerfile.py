"""broker.json: which broker to use and who is primary. Written by the agent on advice, edited by people, watched.

    {"epoch": 4, "primary": "p2", "endpoints": ["amqps://10.0.0.1:5671", …], "providers": ["https://10.0.0.1:8443", …],
     "vhost": "bellwether", "ca": "/etc/bellwether/ca.pem"}

`ca` is a PEM file, relative to the directory of broker.json, or the PEM text itself. The agent writes ca.pem beside it.
"""

import json
import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from agent.settings import AgentFiles
from shared.errors import Invalid, Refused
from shared.files import locked, write_atomically
from shared.messages import Advice
from shared.validation import problems

MAX_BYTES = 1024 * 1024
_PEM_HEAD = "-----BEGIN CERTIFICATE-----"


class _Content(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    epoch: int = Field(ge=0)
    primary: str
    endpoints: list[str] = Field(min_length=1)
    providers: list[str]
    vhost: str = Field(min_length=1)
    ca: str = Field(min_length=1)

    @field_validator("endpoints")
    @classmethod
    def _amqps(cls, value: list[str]) -> list[str]:
        return [_checked_url(url, "amqps") for url in value]

    @field_validator("providers")
    @classmethod
    def _https(cls, value: list[str]) -> list[str]:
        return [_checked_url(url, "https") for url in value]


def _checked_url(url: str, scheme: str) -> str:
    parts = urlsplit(url)
    if parts.scheme != scheme or not parts.hostname or parts.username is not None:
        raise ValueError(f"expected {scheme}://host:port")
    _ = parts.port  # raises ValueError where it is no port
    return url


@dataclass(frozen=True, slots=True)
class BrokerSettings:
    """What broker.json says, checked. `ca_file` is the file to trust, `ca` its content at that moment."""

    epoch: int
    primary: str
    endpoints: tuple[str, ...]
    providers: tuple[str, ...]
    vhost: str
    ca: str
    ca_file: Path

    def connects_as(self, other: "BrokerSettings") -> bool:
        """Whether a connection made with `other` is the one that these settings ask for."""
        return self.endpoints == other.endpoints and self.trusts_as(other)

    def trusts_as(self, other: "BrokerSettings") -> bool:
        """Whether a connection to one of both's endpoints that was made with `other` is good for these settings."""
        return (self.vhost, self.ca) == (other.vhost, other.ca)


def read(files: AgentFiles) -> BrokerSettings:
    """The settings that broker.json holds. Raises `Invalid` with what is wrong."""
    path = files.broker
    try:
        if path.stat().st_size > MAX_BYTES:
            raise Invalid(f"{path} is larger than {MAX_BYTES} bytes")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise Invalid(f"{path} does not exist; get it with: agent advise URL --config {files.config}") from None
    except (OSError, ValueError) as error:
        raise Invalid(f"{path} cannot be read: {error}") from None
    return parse(text, files)


def parse(text: str, files: AgentFiles) -> BrokerSettings:
    """As `read`, of a text. It reads the CA file that the text names."""
    try:
        content = _Content.model_validate_json(text)
    except ValidationError as error:
        raise Invalid(f"{files.broker}: {problems(error)}") from None
    if content.ca.lstrip().startswith(_PEM_HEAD):
        ca, ca_file = content.ca, files.ca
    else:
        ca_file = files.directory / content.ca
        try:
            ca = ca_file.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise Invalid(f"{files.broker}: ca cannot be read: {error}") from None
    check_ca(ca, str(files.broker))
    return BrokerSettings(
        content.epoch,
        content.primary,
        tuple(content.endpoints),
        tuple(content.providers),
        content.vhost,
        ca,
        ca_file,
    )


def from_advice(advice: Advice, files: AgentFiles, *, good_ca: str | None = None) -> BrokerSettings:
    """What broker.json will say once `advice` is taken. Raises `Invalid` where it could not say that. `good_ca` is a
    text that was checked before."""
    try:
        _Content.model_validate(
            advice.model_dump(exclude={"credential"})
            | {"endpoints": list(advice.endpoints), "providers": list(advice.providers)}
        )
    except ValidationError as error:
        raise Invalid(f"advice: {problems(error)}") from None
    if advice.ca != good_ca:
        check_ca(advice.ca, "advice")
    return BrokerSettings(
        advice.epoch, advice.primary, advice.endpoints, advice.providers, advice.vhost, advice.ca, files.ca
    )


def check_ca(pem: str, where: str) -> None:
    """Raises `Invalid` unless `pem` holds certificates that TLS can use."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=pem)
    except (ssl.SSLError, ValueError, TypeError) as error:  # TypeError: text that is not ASCII
        raise Invalid(f"{where}: ca holds no usable certificate: {error}") from None


def check_not_older(settings: BrokerSettings, files: AgentFiles) -> None:
    """Raises `Refused` where broker.json says a newer epoch than this advice."""
    try:
        held = read(files).epoch
    except Invalid:
        return  # damaged or missing: that is what advice mends
    if settings.epoch < held:
        raise Refused(
            f"that provider speaks of epoch {settings.epoch}, this agent has seen {held}: it is deposed, ask another. "
            f"To go back on purpose, edit {files.broker}"
        )


def write_unless_newer(settings: BrokerSettings, files: AgentFiles) -> None:
    """As `write`, of advice. Raises `Refused` where the file says a newer epoch by now, which the daemon or a command
    has written, and where one is just doing so; `OSError`."""
    with locked(files.broker_lock, f"{files.broker} is being written by another process; try again"):
        check_not_older(settings, files)
        write(settings, files)


def write(settings: BrokerSettings, files: AgentFiles) -> None:
    """Replace broker.json, and the CA file where it differs. Raises `OSError`.

    The CA goes first: after a crash in between, the old endpoints are met with a new CA, which includes the old one for
    as long as it is in use. Both files are private to their owner.
    """
    try:
        same = settings.ca_file.read_text(encoding="utf-8") == settings.ca
    except (OSError, ValueError):
        same = False
    if not same:
        write_atomically(settings.ca_file, settings.ca)
    content = {
        "epoch": settings.epoch,
        "primary": settings.primary,
        "endpoints": settings.endpoints,
        "providers": settings.providers,
        "vhost": settings.vhost,
        "ca": str(settings.ca_file),
    }
    write_atomically(files.broker, json.dumps(content, indent=2) + "\n")
