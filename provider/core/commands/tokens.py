"""Tokens: of users, and those that let a node or an agent in once."""

from dataclasses import dataclass

from provider.core import documents as docs
from provider.core.commands.base import Plan, delete, need, put
from provider.core.documents import Document
from provider.core.entries import Change
from provider.core.state import State
from shared.errors import Conflict, Unauthenticated

EXPIRED_MAX = 100
"""Of expired tokens that one new one takes with it: an entry must stay small."""


@dataclass(frozen=True, slots=True)
class PutToken:
    id: str
    spec: docs.TokenSpec

    def plan(self, state: State, now: int) -> Plan:
        if state.get("token", self.id) is not None:
            raise Conflict("a token with this id exists already")
        # Tokens that have expired go when new ones come: the collection cannot grow without bound.
        expired = [token for token in state.of("token") if is_expired(token, now)][:EXPIRED_MAX]
        gone = [delete("token", token.id) for token in expired]
        return Plan(201, ("token", self.id), (*gone, put("token", self.id, self.spec)))


@dataclass(frozen=True, slots=True)
class DeleteToken:
    id: str

    def plan(self, state: State, now: int) -> Plan:
        need(state, "token", self.id)
        return Plan(204, None, (delete("token", self.id),))


def is_expired(token: Document, now: int) -> bool:
    """Whether its time is over at `now` (Unix ms)."""
    expires_at = token.spec.get("expires_at")
    return expires_at is not None and expires_at < now


def one_time_token(state: State, id_: str, role: str, now: int) -> Change:
    """The change that uses up a one-time token. Raises `Unauthenticated`: used, expired and wrong look alike."""
    token = state.get("token", id_)
    if token is None or token.spec["role"] != role or is_expired(token, now):
        raise Unauthenticated(
            f"this {role} token is not good (any longer): ask for a new one with `provider token create`"
        )
    return delete("token", id_)
