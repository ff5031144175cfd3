"""What of an answer is noted for the audit: that it was a refusal, or that something was done which is no commit."""

from starlette.types import Scope

from provider.api.access.auth import Principal, bearer
from provider.api.access.policy import PRINCIPAL
from provider.api.context import Context
from provider.api.http.source import client_address
from provider.api.writes import described
from provider.core.state import State
from shared.errors import BellwetherError, Unauthenticated

CLAIMED = "bellwether.claimed"
"""Where in the scope the principal's name stands that somebody gave who was not let in, where there is such a one."""
_WRITES = frozenset({"PUT", "POST", "DELETE", "PATCH"})
_DETAILED = frozenset({"conflict", "forbidden", "refused", "stale_revision", "too_many_requests", "unauthenticated"})
"""Errors whose text is ours alone. The others repeat something of what was sent, which could be a password at the wrong
place."""


def note_answer(ctx: Context, scope: Scope, error: BellwetherError, status: int) -> None:
    """Notes that a request was answered with `error`, if that is a refusal: of whoever may not, or of a write."""
    stranger = status == 429 and PRINCIPAL not in scope  # who tried too many tokens
    if not 400 <= status < 500 or not (status in (401, 403) or scope["method"] in _WRITES or stranger):
        return
    principal: Principal | None = scope.get(PRINCIPAL)
    ctx.refusals.note(
        principal=principal.name if principal is not None else _claimed(ctx.gateway.state, scope),
        source=client_address(scope) or None,
        action=described(scope["method"], scope["raw_path"]),
        code=error.code,
        status=status,
        detail=error.detail if error.code in _DETAILED else None,
    )


def note_done(ctx: Context, scope: Scope, principal: str, status: int) -> None:
    """Notes what was done without a commit: a login, advice sent again."""
    ctx.refusals.note(
        principal=principal,
        source=client_address(scope) or None,
        action=described(scope["method"], scope["raw_path"]),
        code="",
        status=status,
    )


def _claimed(state: State, scope: Scope) -> str:
    """Whom somebody who was not authenticated named: "?", and the principal's name where there is such a one. Anybody
    can name it; that an expired token is tried, or a user's name, is worth knowing all the same."""
    if CLAIMED in scope:
        return f"?{scope[CLAIMED]}"
    header = next((value for name, value in scope["headers"] if name == b"authorization"), b"").decode("latin-1")
    try:
        token = bearer(header)
    except Unauthenticated:
        return "?"
    for kind in ("node", "agent", "token"):
        if kind in (token.role, "token") and state.get(kind, token.id) is not None:
            return f"?{kind}:{token.id}"
    return "?"
