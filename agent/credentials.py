"""The agent's password on the broker, and the next one while it is being changed.

    broker.password   the one in use, alone: text
    credential.json   {"number": 3, "next": {"number": 4, "password": "…", "active": false}}

The next one is made here and only its hash leaves this host. It is on disk before it is offered, and the one before is
kept until the broker has taken the next: whatever happens in between, the agent can log in with what is on disk.
"""

from dataclasses import dataclass, field, replace

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agent.settings import AgentFiles
from shared.errors import Invalid
from shared.files import write_atomically
from shared.messages import Offer
from shared.passwords import broker_password_hash, new_password
from shared.validation import problems


class _Next(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int = Field(ge=1)
    password: str = Field(min_length=1, repr=False)
    active: bool = False


class _Content(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int = Field(default=0, ge=0)
    next: _Next | None = None


@dataclass(frozen=True, slots=True)
class Held:
    """What the agent holds. `offer` is for the next one; `active`: the broker knows that one."""

    number: int
    password: str = field(repr=False)
    next_password: str | None = field(default=None, repr=False)
    offer: Offer | None = field(default=None, repr=False)
    active: bool = False

    @property
    def passwords(self) -> tuple[str, ...]:
        """To be tried in this order."""
        if self.next_password is None:
            return (self.password,)
        return (self.next_password, self.password) if self.active else (self.password, self.next_password)

    def with_next(self, number: int) -> "Held":
        """Together with a fresh password of that number."""
        password = new_password()
        offer = Offer(number=number, broker_password_hash=broker_password_hash(password))
        return replace(self, next_password=password, offer=offer, active=False)

    def activated(self) -> "Held":
        """The broker knows the next one."""
        return replace(self, active=True)

    def switched(self) -> "Held":
        """The broker has taken the next one: it is the only one from now on."""
        if self.next_password is None or self.offer is None:
            return self
        return Held(self.offer.number, self.next_password)


def read(files: AgentFiles) -> Held:
    """What is on disk. Raises `Invalid`."""
    try:
        password = files.broker_password.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise Invalid(f"the broker's password cannot be read ({error}); enrol this agent again") from None
    try:
        content = _Content.model_validate_json(files.credential.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Held(0, password)
    except ValidationError as error:
        raise Invalid(f"{files.credential}: {problems(error)}") from None
    except (OSError, ValueError) as error:
        raise Invalid(f"{files.credential} cannot be read: {error}") from None
    coming = content.next
    if coming is None:
        return Held(content.number, password)
    if coming.password == password:  # ended between the two files
        return Held(coming.number, password)
    # Another salt than before, so another text; it is of the same password, and as good.
    offer = Offer(number=coming.number, broker_password_hash=broker_password_hash(coming.password))
    return Held(content.number, password, coming.password, offer, coming.active)


def write(held: Held, files: AgentFiles) -> None:
    """Put it on disk. The password in use goes first: see `read`. Raises `OSError`."""
    coming = None
    if held.next_password is not None and held.offer is not None:
        coming = _Next(number=held.offer.number, password=held.next_password, active=held.active)
    write_atomically(files.broker_password, held.password + "\n")
    write_atomically(files.credential, _Content(number=held.number, next=coming).model_dump_json() + "\n")
