"""What an agent sends when it enrols, and the secrets of which it sends the hashes."""

from dataclasses import dataclass
from typing import Any

from shared.passwords import broker_password_hash, new_password
from shared.tokens import Token
from shared.version import VERSION


@dataclass(frozen=True)
class Newcomer:
    id: str
    token: Token
    password: str

    def body(self, **more: Any) -> dict[str, Any]:
        """For `POST /enroll`."""
        said = {
            "id": self.id,
            "version": VERSION,
            "token_sha256": self.token.hashed,
            "broker_password_hash": broker_password_hash(self.password),
        }
        return said | more


def newcomer(id_: str) -> Newcomer:
    """An agent that has made its secrets."""
    return Newcomer(id_, Token("agent", id_, new_password()), new_password())
