"""Who asks. What they may do is for `provider.api.access.policy`.

| role     | may                                                                                    |
|----------|----------------------------------------------------------------------------------------|
| viewer   | read everything (secrets are never shown to anyone)                                    |
| operator | also databases, accounts, users' settings, advising agents                             |
| admin    | also members (nodes, agents), tokens, the cluster's settings, promotion, the snapshot  |
| node     | a provider itself, with token and certificate: as admin, and what only nodes do        |
| agent    | an agent: its own advice, nothing else                                                 |
"""

import time
from dataclasses import dataclass, field

from provider.api.access.sessions import Session, session_of, user_of
from provider.core.commands import ONE_TIME, given_up, is_expired, refused, why_not
from provider.core.documents import Document
from provider.core.state import State
from provider.trust.vault import Vault
from shared.errors import TOKEN_NOT_GOOD, Invalid, TokenRefused, Unauthenticated
from shared.tokens import Token, matches, parse_token


@dataclass(frozen=True, slots=True)
class Principal:
    """Who was authenticated. `name` stands in audit and scopes idempotency keys."""

    name: str
    role: str
    scope: tuple[str, ...] | None = None
    """Paths below /api/v1 that it may ask for; None: all."""
    session: Session | None = None
    """Of a person who logged in."""
    recorded: Document | None = field(default=None, compare=False)
    """The token's document, whose last use is recorded."""

    def reaches(self, path: str) -> bool:
        """Whether its scope covers a path below /api/v1."""
        return self.scope is None or any(covers(prefix, path) for prefix in self.scope)

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


def covers(prefix: str, path: str) -> bool:
    """Whether `path` is `prefix` or below it. With `*` at its end, `prefix` is the beginning of the last segment."""
    if prefix.endswith("*"):
        beginning = prefix[:-1]
        return path.startswith(beginning) and "/" not in path[len(beginning) :]
    return path == prefix or path.startswith(prefix + "/")


def authenticate(state: State, authorization: str | None, node: str | None = None) -> Principal:
    """The principal behind a header; `node` is the member whose certificate the connection shows.

    A node's token without that node's certificate stands for very little: see `policy.Rule`. Raises `Unauthenticated`;
    unknown, expired and wrong tokens look alike.
    """
    token = bearer(authorization)
    match token.role:
        case "node":
            document = state.get("node", token.id)
            if document is not None and matches(token, document.spec["token_sha256"]):
                return Principal(f"node:{token.id}", "node" if node == token.id else "node:token")
            gone = given_up(state, token.id) if document is None else None
            if gone is not None and matches(token, gone[0]):
                raise TokenRefused(gone[1], reason="given_up", token_id=token.id)
        case "agent":
            document = state.get("agent", token.id)
            if document is not None and matches(token, document.spec["token_sha256"]):
                return Principal(f"agent:{token.id}", "agent")
        case role:
            document = state.get("token", token.id)
            if document is not None and document.spec["role"] == role and matches(token, document.spec["sha256"]):
                if document.spec.get("expires_at", float("inf")) <= time.time() * 1000:
                    raise TokenRefused("this token has expired", reason="expired", token_id=token.id)
                scope = document.spec.get("scope")
                return Principal(
                    f"token:{token.id}", role, tuple(scope) if scope is not None else None, recorded=document
                )
    raise _not_good(state, token)


def _not_good(state: State, token: Token) -> TokenRefused:
    """Whoever has the secret of a one-time token is told that it is one. All others look alike."""
    document = state.get("token", token.id)
    if document is not None and document.spec["role"] in ONE_TIME and matches(token, document.spec["sha256"]):
        detail = f"this token lets a new {document.spec['role']} in, once; it is good for nothing else"
        return TokenRefused(detail, reason="wrong_kind", token_id=token.id)
    return TokenRefused(TOKEN_NOT_GOOD, reason="unknown", token_id=token.id)


def person(state: State, authorization: str, vault: Vault) -> Principal:
    """The principal behind a header with a session's token. Raises `Unauthenticated`."""
    scheme, _, text = authorization.partition(" ")
    if scheme.lower() != "bearer":
        raise Unauthenticated("no token: send `Authorization: Bearer TOKEN`")
    session = session_of(text.strip(), vault)
    user = user_of(session, state, _now_ms())
    return Principal(f"user:{user.id}", user.spec["role"], session=session)


def newcomer(state: State, authorization: str | None, kind: str) -> Principal:
    """The principal behind a one-time token for a `node` or an `agent`. Raises `Unauthenticated`.

    Looked at here for a quick answer; that it is used only once is decided when the command is planned. A node whose
    join was interrupted comes again with the token that it has used.
    """
    token = bearer(authorization)
    document = state.get("token", token.id)
    genuine = document is not None and matches(token, document.spec["sha256"])
    reason = why_not(document, kind, _now_ms()) if document is not None and genuine else "unknown"
    if reason == "used" and kind == "node" and document is not None and not is_expired(document, _now_ms()):
        reason = None
    if reason is not None or token.role != kind:
        raise refused(document, token.id, kind, reason or "unknown")
    return Principal(f"token:{token.id}", f"newcomer:{kind}")


def _now_ms() -> int:
    return int(time.time() * 1000)
