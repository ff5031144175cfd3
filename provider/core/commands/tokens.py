"""Tokens: of users, and those that let a node or an agent in once."""

from collections.abc import Callable
from dataclasses import dataclass

from provider.core import documents as docs
from provider.core.commands.base import ALWAYS, Plan, Precondition, delete, need, put, with_status
from provider.core.documents import Document, Kind
from provider.core.entries import Change
from provider.core.state import State
from shared.errors import Conflict, TokenRefused

EXPIRED_MAX = 100
"""Of expired tokens that one new one takes with it: an entry must stay small."""
USE_STEP_MS = 5 * 60 * 1000
"""A token's last use is recorded again when it is this much later than what is recorded."""
USES_MAX = 200
"""Uses that one command records."""
ONE_TIME = ("node", "agent")


@dataclass(frozen=True, slots=True)
class PutToken:
    id: str
    spec: docs.TokenSpec

    def plan(self, state: State, now: int) -> Plan:
        if state.get("token", self.id) is not None:
            raise Conflict("a token with this id exists already")
        # Tokens that have expired go when new ones come: the collection cannot grow without bound.
        return Plan(201, ("token", self.id), (*outlived(state, "token", now), put("token", self.id, self.spec)))


@dataclass(frozen=True, slots=True)
class ReissueAdministrator:
    """A new token in place of the cluster's first one, which is good no longer."""

    id: str
    spec: docs.TokenSpec

    def plan(self, state: State, now: int) -> Plan:
        if state.get("token", self.id) is not None:
            raise Conflict("a token with this id exists already")
        former = [delete("token", token.id) for token in state.of("token") if token.spec.get("administrator")]
        return Plan(201, ("token", self.id), (*former, put("token", self.id, self.spec)))


@dataclass(frozen=True, slots=True)
class DeleteToken:
    """Revoke a token. A one-time token stays until its time is over, so that whoever comes with it is told why not."""

    id: str
    when: Precondition = ALWAYS

    def plan(self, state: State, now: int) -> Plan:
        token = need(state, "token", self.id)
        self.when.check(f"token {self.id!r}", token)
        if token.spec["role"] not in ONE_TIME or token.spec.get("expires_at") is None or is_expired(token, now):
            return Plan(204, None, (delete("token", self.id),))
        status = docs.TokenStatus.model_validate(token.status)
        if status.revoked_at is not None:
            return Plan(204)
        return Plan(204, None, (with_status(token, status.model_copy(update={"revoked_at": now})),))


@dataclass(frozen=True, slots=True)
class TokenUse:
    """`at` is Unix milliseconds, `source` the address that it came from."""

    id: str
    at: int
    source: str | None


@dataclass(frozen=True, slots=True)
class RecordTokenUses:
    """Note when tokens were last used. What is not much later than what is known changes nothing."""

    uses: tuple[TokenUse, ...]

    def plan(self, state: State, now: int) -> Plan:
        latest = {use.id: use for use in sorted(self.uses, key=lambda use: use.at)}
        changes: list[Change] = []
        for use in latest.values():
            token = state.get("token", use.id)
            if token is not None and is_news(token, min(use.at, now)) and len(changes) < USES_MAX:
                status = docs.TokenStatus.model_validate(
                    {**token.status, "last_used_at": min(use.at, now), "last_used_from": use.source}
                )
                changes.append(with_status(token, status))
        return Plan(204, None, tuple(changes))


def is_news(token: Document, at: int) -> bool:
    """Whether a use at `at` (Unix ms) is to be recorded."""
    known = token.status.get("last_used_at")
    return known is None or at >= known + USE_STEP_MS


def is_expired(document: Document, now: int) -> bool:
    """Whether the time of a token or session is over at `now` (Unix ms)."""
    expires_at = document.spec.get("expires_at")
    return expires_at is not None and expires_at < now


def outlived(state: State, kind: Kind, now: int) -> list[Change]:
    """Changes that take documents away whose time is over; not too many at once."""
    return [delete(kind, document.id) for document in state.of(kind) if is_expired(document, now)][:EXPIRED_MAX]


# ── one-time tokens ──────────────────────────────────────────────────────────────────────────────────────────────────


_WHY: dict[str, Callable[[str, Document], str]] = {
    "wrong_kind": lambda role, token: f"this token is for the role {token.spec['role']}, not to let a new {role} in",
    "used": lambda role, token: f"this {role} token was used before, by {token.status.get('used_by')}: it works once",
    "revoked": lambda role, token: f"this {role} token was revoked",
    "expired": lambda role, token: f"this {role} token has expired",
}


def why_not(token: Document, role: str, now: int) -> str | None:
    """What is wrong with a genuine token that is to let a new `role` in: a key of what `refused` says; None if it is
    good."""
    if token.spec["role"] != role:
        return "wrong_kind"
    if token.status.get("used_at") is not None:
        return "used"
    if token.status.get("revoked_at") is not None:
        return "revoked"
    return "expired" if is_expired(token, now) else None


def refused(token: Document | None, token_id: str, role: str, reason: str) -> TokenRefused:
    """The refusal of a one-time token. `reason` is from `why_not`; `unknown` where the document or the secret is
    another: those all look alike."""
    ask = f"make a new one with `provider token create --role {role}`"
    if token is None or reason not in _WHY:
        return TokenRefused(f"this needs a one-time {role} token that is good: {ask}", reason=reason, token_id=token_id)
    return TokenRefused(f"{_WHY[reason](role, token)}; {ask}", reason=reason, token_id=token_id)


def one_time_token(state: State, id_: str, role: str, now: int, used_by: str) -> Change:
    """The change that uses up a one-time token for `used_by`. Its secret was checked before. Raises `TokenRefused`."""
    token = state.get("token", id_)
    reason = "unknown" if token is None else why_not(token, role, now)
    if token is None or reason is not None:
        raise refused(token, id_, role, reason or "unknown")
    if token.spec.get("expires_at") is None:
        return delete("token", id_)  # it would be remembered for ever
    status = docs.TokenStatus.model_validate({**token.status, "used_at": now, "used_by": f"{role} {used_by}"})
    return with_status(token, status)
