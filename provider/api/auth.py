"""Who asks, and what they may do.

| role     | may                                                                                    |
|----------|----------------------------------------------------------------------------------------|
| viewer   | read everything (secrets are never shown to anyone)                                    |
| operator | also databases, accounts, users' settings, advising agents                             |
| admin    | also members (nodes, agents), tokens, the cluster's settings, promotion, the snapshot  |
| node     | a provider itself: as admin                                                            |
| agent    | an agent: its own advice, nothing else                                                 |
"""

import time
from dataclasses import dataclass

from provider.core.state import State
from shared.errors import Forbidden, Invalid, Unauthenticated
from shared.tokens import Token, matches, parse_token

_RANK = {"agent": 0, "viewer": 1, "operator": 2, "admin": 3, "node": 3}


@dataclass(frozen=True, slots=True)
class Principal:
    """Who was authenticated. `name` stands in audit and scopes idempotency keys."""

    name: str
    role: str

    def require(self, role: str) -> None:
        """Raises `Forbidden` unless this principal may do what `role` may."""
        if _RANK[self.role] < _RANK[role]:
            raise Forbidden(f"this needs the role {role}; the token given is for {self.role}")


def bearer(authorization: str | None) -> Token:
    """The token in an `Authorization` header. Raises `Unauthenticated`."""
    scheme, _, text = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not text:
        raise Unauthenticated("no token: send `Authorization: Bearer TOKEN`")
    try:
        return parse_token(text)
    except Invalid as error:
        raise Unauthenticated(error.detail) from None


def authenticate(state: State, authorization: str | None) -> Principal:
    """The principal behind a header. Raises `Unauthenticated`; unknown, expired and wrong tokens look alike."""
    token = bearer(authorization)
    match token.role:
        case "node" | "agent":
            document = state.get("node" if token.role == "node" else "agent", token.id)
            if document is not None and matches(token, document.spec["token_sha256"]):
                return Principal(f"{token.role}:{token.id}", token.role)
        case role:
            document = state.get("token", token.id)
            if (
                document is not None
                and document.spec["role"] == role
                and matches(token, document.spec["sha256"])
                and document.spec.get("expires_at", float("inf")) > time.time() * 1000
            ):
                return Principal(f"token:{token.id}", role)
    raise Unauthenticated("this token is not good (any longer)")
