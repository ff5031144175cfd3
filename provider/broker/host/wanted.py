"""What the daemon asks root for: `broker.json` in its data directory. Pure.

The daemon's user writes it and root acts on it, so it is believed as little as a stranger's: each field has a form that
can do no harm outside the brokers, whatever the user wrote, and what is too much or unknown is refused as a whole.
"""

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from provider.core.documents import RESERVED_HOSTS, BrokerNode
from shared.errors import Invalid

FILE = "broker.json"
STATUS = Path("/run/bellwether-broker/status.json")
"""What became of it, for everybody on this host to read. It holds no secret."""
SIZE_MAX = 64 * 1024
_COOKIE = re.compile(r"[A-Za-z0-9+/=_-]{16,255}")
Cookie = Annotated[str, StringConstraints(pattern=f"^{_COOKIE.pattern}$")]
NodeName = Annotated[str, StringConstraints(pattern=r"^rabbit@[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
Stream = Annotated[str, StringConstraints(pattern=r"^bellwether\.log\.[a-z0-9]{1,64}$")]
Generation = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]{1,64}$")]
UserName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
PasswordHash = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9+/=]{20,128}$")]


class Anew(BaseModel):
    """The brokers' majority was given up (`failover --force`): each broker of those who are left begins anew, once."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    generation: Generation = Field(description="the log that began then; names what is set aside")
    first: NodeName = Field(description="the broker that the others join")
    user: UserName = Field(description="by whom brokers are administered")
    password_hash: PasswordHash = Field(repr=False)


class Wanted(BaseModel):
    """How this host's broker is to be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    v: Literal[1] = 1
    own: NodeName = Field(description="this host's broker; one of another name is left alone")
    asked: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{0,32}$")] = Field(
        default="", description="a number of its own; root says which it has done"
    )
    member: bool = Field(description="no: this node was removed, and its broker is to leave")
    brokers: tuple[BrokerNode, ...] = Field(default=(), max_length=16, description="of the cluster, own included")
    gone: tuple[NodeName, ...] = Field(default=(), max_length=1000, description="brokers of nodes that were removed")
    cookie: Cookie | None = Field(default=None, repr=False)
    stream: Stream | None = Field(default=None, description="the log")
    anew: Anew | None = None

    @model_validator(mode="after")
    def _sound(self) -> Self:
        names = [broker.node for broker in self.brokers]
        for one, other in combinations(self.brokers, 2):
            if one.node == other.node or one.address == other.address:
                both = f"{one.node} at {one.address}, {other.node} at {other.address}"
                raise ValueError(f"two brokers have one name or address: {both}")
        for broker in self.brokers:
            if broker.host in RESERVED_HOSTS:
                raise ValueError(f"a broker's host has a name that means something else: {broker.host}")
        if self.member != (self.own in names) or self.own in self.gone or set(names) & set(self.gone):
            raise ValueError("it contradicts itself about who is a member")
        if self.member and (self.cookie is None or self.stream is None):
            raise ValueError("a member needs a cookie and the log's name")
        if self.anew is not None and self.anew.first not in names:
            raise ValueError("the broker that begins anew is no member")
        return self

    @property
    def others(self) -> tuple[str, ...]:
        return tuple(broker.node for broker in self.brokers if broker.node != self.own)

    @property
    def begins(self) -> bool:
        """Whether this broker is the one that the others join: it joins nobody."""
        return self.anew is not None and self.anew.first == self.own

    def text(self) -> str:
        return json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True) + "\n"


def parse(data: bytes) -> Wanted:
    """Raises `Invalid`, with the field and without what it holds."""
    if len(data) > SIZE_MAX:
        raise Invalid(f"{FILE} is larger than {SIZE_MAX} bytes")
    try:
        return Wanted.model_validate_json(data, strict=False)
    except ValidationError as error:
        raise Invalid(f"{FILE}: {what_is_wrong(error)}") from None


def what_is_wrong(error: ValidationError) -> str:
    """The field and why, without what it holds."""
    first = error.errors(include_input=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"])[:80] or "it"
    return f"{where}: {first['msg']}"


def is_cookie(text: str) -> bool:
    """Whether that is an Erlang cookie such as brokers are given; RabbitMQ itself takes many more."""
    return _COOKIE.fullmatch(text) is not None
