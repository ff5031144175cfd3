"""Bearer tokens: what they look like, and what is stored of them.

    bw.<role>.<id>.<secret>[.<fingerprint>]

`role` is `admin`, `operator` or `viewer`, or one of the one-time kinds `node` and `agent`; `id` names the token's
document; `secret` is 256 random bits; `fingerprint` (one-time kinds only) is the SHA-256 of the cluster's CA
certificate, so that a newcomer knows whom it talks to before it has any file of ours. Only SHA-256 of the secret is
ever stored.
"""

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field

from shared.errors import Invalid

PREFIX = "bw"
ROLES = ("admin", "operator", "viewer", "node", "agent")
ONE_TIME = ("node", "agent")
_SECRET = re.compile(r"(bw\.[a-z]+\.[^./\s]+\.)[^/\s'\"]+")


@dataclass(frozen=True, slots=True)
class Token:
    role: str
    id: str
    secret: str = field(repr=False)
    fingerprint: str | None = None

    def text(self) -> str:
        """The form that is handed out, once."""
        parts = [PREFIX, self.role, self.id, self.secret]
        return ".".join(parts if self.fingerprint is None else [*parts, self.fingerprint])

    @property
    def hashed(self) -> str:
        return hash_secret(self.secret)


def new_token(role: str, fingerprint: str | None = None) -> Token:
    """A fresh token with a random id (64 bits) and secret (256 bits)."""
    return Token(role, secrets.token_hex(8), secrets.token_hex(32), fingerprint)


def parse_token(text: str) -> Token:
    """The token in `text`. Raises `Invalid` where it does not have the form; the text is never repeated."""
    parts = text.strip().split(".")
    if len(parts) not in (4, 5) or parts[0] != PREFIX or parts[1] not in ROLES or not all(parts):
        raise Invalid("this is not a Bellwether token; expected bw.<role>.<id>.<secret>")
    if len(parts) == 5 and parts[1] not in ONE_TIME:
        raise Invalid("only a one-time token has a fifth part")
    return Token(parts[1], parts[2], parts[3], parts[4] if len(parts) == 5 else None)


def without_secrets(text: str) -> str:
    """`text`, a path or what quotes one, with the secrets of tokens left out: somebody meant the token's id, and gave
    all of it."""
    return _SECRET.sub(r"\1…", text)


def hash_secret(secret: str) -> str:
    """What is stored. A plain hash is enough: the secret has 256 bits, there is nothing to guess."""
    return hashlib.sha256(secret.encode()).hexdigest()


def matches(token: Token, hashed: str) -> bool:
    """Whether `token` is the one whose hash is stored; constant time."""
    return hmac.compare_digest(token.hashed, hashed)
