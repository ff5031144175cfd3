"""`join.json`: what a host that joins has made for itself. It is stored before anybody is told of it, so that a join
that was interrupted is repeated by the same newcomer; it goes when the host is a standby."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from provider.founding import Secrets
from shared.errors import Invalid
from shared.files import read_text, write_atomically
from shared.messages import now_text
from shared.passwords import broker_password_hash
from shared.tokens import parse_token


class Journal(BaseModel):
    """As it stands in the file. All but name and time is secret."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    began_at: str = Field(description="RFC 3339")
    key: str = Field(repr=False, description="of the node's certificate, PEM")
    secrets_key: str = Field(repr=False)
    token: str = Field(repr=False, description="the node's own")
    broker_password: str = Field(repr=False)
    broker_password_hash: str = Field(description="salted, so it is not made twice alike")

    @property
    def secrets(self) -> Secrets:
        return Secrets(self.key, self.secrets_key, parse_token(self.token), self.broker_password)


def begun(path: Path) -> Journal | None:
    """The join that was begun here; None: there is none. Raises `Invalid` where the file cannot be read."""
    if not path.exists():
        return None
    try:
        return Journal.model_validate_json(read_text(path))
    except ValidationError:
        raise Invalid(f"{path} is not as `provider join` wrote it: remove it, join under another name") from None


def begin(path: Path, name: str) -> Journal:
    """New secrets for `name`, stored. Raises `OSError`."""
    own = Secrets.new(name)
    journal = Journal(
        name=name,
        began_at=now_text(),
        key=own.key,
        secrets_key=own.secrets_key,
        token=own.token.text(),
        broker_password=own.broker_password,
        broker_password_hash=broker_password_hash(own.broker_password),
    )
    write_atomically(path, journal.model_dump_json(indent=2) + "\n")
    return journal
