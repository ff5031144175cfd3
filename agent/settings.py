"""agent.toml: who this agent is and which database servers it looks after. Read once at start.

Everything about the broker is in broker.json beside it (`agent.brokerfile`), because that changes while the agent runs.
"""

import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from shared.errors import Invalid
from shared.files import user_name
from shared.validation import problems

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?$")]
"""Of agents and instances: as a host name, so that it can stand in routing keys and names of files."""


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class InstanceSettings(Settings):
    """One database server. `socket`, or `host` and `port`. Durations in seconds."""

    id: Name
    engine: Literal["mariadb"] = "mariadb"
    socket: Path | None = Field(default=None, description="preferred: needs no password where unix_socket logs in")
    host: str | None = None
    port: int | None = Field(default=None, ge=1, le=65535, description="3306 where only host is given")
    user: str = Field(default="root", description="the account the agent uses; it is never changed by a wish")
    password_file: Path | None = Field(
        default=None, description="read at each connect, so a new password needs no restart"
    )

    probe_s: float = Field(default=1.0, gt=0, description="a dead server is known after this and `read_timeout_s`")
    look_s: float = Field(default=5.0, gt=0, description="what others changed is seen, and put right, within this")
    sizes_s: float = Field(default=60.0, gt=0, description="sizes cost the server a walk over all tables")
    retry_s: float = Field(default=30.0, gt=0, description="what failed may succeed later; often enough, not noisy")
    connect_timeout_s: float = Field(default=3.0, gt=0, description="a local server greets in milliseconds")
    read_timeout_s: float = Field(default=3.0, gt=0, description="a server that hangs longer is reported down")
    apply_timeout_s: float = Field(default=30.0, gt=0, description="dropping a large database takes its time")

    @model_validator(mode="after")
    def _one_address(self) -> Self:
        if (self.socket is None) == (self.host is None):
            raise ValueError("give either socket or host")
        if self.socket is not None and self.port is not None:
            raise ValueError("port goes with host, not with socket")
        return self


class AgentSettings(Settings):
    """The whole file."""

    id: Name
    broker_username: str | None = Field(default=None, description="given at enrolment; default: the agent's id")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    pulse_s: float = Field(
        default=2.0, gt=0, description="the provider calls an agent offline after a few missing ones"
    )
    stagger_s: float = Field(
        default=1.0, ge=0, description="moves and answers to all wait up to this, so that a fleet does not come at once"
    )
    return_s: float = Field(
        default=10.0, gt=0, description="from the preferred broker's loss to the first look whether it is back"
    )
    instances: tuple[InstanceSettings, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _different_ids(self) -> Self:
        if len({instance.id for instance in self.instances}) < len(self.instances):
            raise ValueError("two instances have the same id")
        return self


@dataclass(frozen=True, slots=True)
class AgentFiles:
    """Where everything of an agent is: beside its agent.toml."""

    config: Path

    @property
    def directory(self) -> Path:
        return self.config.absolute().parent

    @property
    def broker(self) -> Path:
        return self.directory / "broker.json"

    @property
    def broker_password(self) -> Path:
        return self.directory / "broker.password"

    @property
    def credential(self) -> Path:
        """Which password that is, and the next one; see `agent.credentials`."""
        return self.directory / "credential.json"

    @property
    def api_token(self) -> Path:
        return self.directory / "api.token"

    @property
    def ca(self) -> Path:
        return self.directory / "ca.pem"

    @property
    def status(self) -> Path:
        return self.directory / "status.json"

    @property
    def lock(self) -> Path:
        """Held by the daemon: two of them would answer to one name, and take each other's place."""
        return self.directory / "agent.lock"

    @property
    def broker_lock(self) -> Path:
        """Held while broker.json is written: by the daemon, or by a command."""
        return self.directory / ".broker.lock"

    def accounts(self, instance: str) -> Path:
        return self.directory / f"accounts.{instance}.json"


def load_settings(config: Path) -> AgentSettings:
    """The settings in `config`; relative paths in it are relative to its directory.

    Raises `Invalid` with the first thing that is wrong.
    """
    try:
        text = config.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise Invalid(
            f"{config} does not exist; enrol this agent first: agent enroll URL --config {config} …"
        ) from None
    except PermissionError:
        raise Invalid(
            f"{config}: {user_name(os.geteuid())} may not read it; run this as root (sudo), or, for a daemon, make it "
            "that user's"
        ) from None
    except (OSError, ValueError) as error:
        raise Invalid(f"{config} cannot be read: {error}") from None
    return parse_settings(text, config)


def parse_settings(text: str, config: Path) -> AgentSettings:
    """As `load_settings`, of a text."""
    try:
        raw = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise Invalid(f"{config} is not valid TOML: {error}") from None
    try:
        settings = AgentSettings.model_validate(raw)
    except ValidationError as error:
        raise Invalid(f"{config}: {problems(error)}") from None
    here = config.absolute().parent
    instances = tuple(
        one.model_copy(update={key: here / path for key in ("socket", "password_file") if (path := getattr(one, key))})
        for one in settings.instances
    )
    return settings.model_copy(update={"instances": instances})
