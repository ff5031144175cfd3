"""Who asks. What they may do is for `provider.api.policy`.

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
from shared.errors import Invalid, Unauthenticated
from shared.tokens import Token, matches, parse_token


@dataclass(frozen=True, slots=True)
class Principal:
    """Who was authenticated. `name` stands in audit and scopes idempotency keys."""

    name: str
    role: str

    @property
    def id(self) -> str:
        """The name without its kind: the id of the token, node or agent."""
        return self.name.partition(":")[2]


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


def newcomer(state: State, authorization: str | None, kind: str) -> Principal:
    """The principal behind a one-time token for a `node` or an `agent`. Raises `Unauthenticated`.

    Looked at here for a quick answer; that it is used only once is decided when the command is planned.
    """
    token = bearer(authorization)
    document = state.get("token", token.id)
    if token.role != kind or document is None or not matches(token, document.spec["sha256"]):
        raise Unauthenticated(
            f"this needs a one-time {kind} token that is still good: `provider token create --role {kind}`"
        )
    return Principal(f"token:{token.id}", f"newcomer:{kind}")
