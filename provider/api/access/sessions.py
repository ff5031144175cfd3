"""Sessions of people: a signed token that is stored nowhere, so that every node knows it, also without a primary.

    bw.session.<payload>.<signature>

The payload names the session, the user, the revision of the user's document that it was begun with, and its end. It is
over with its time; when the user's document is another (role, password, "end all sessions") or gone; and when a
document of kind `session` says that it was ended. All of that is looked up in this node's own state.
"""

import base64
import json
import secrets
from dataclasses import dataclass

from provider.core.documents import Document
from provider.core.state import State
from provider.trust.vault import Vault
from shared.errors import Unauthenticated

PREFIX = "bw.session."
COOKIE = "__Host-bellwether"
CSRF_HEADER = "Bellwether-Csrf"
LIFETIME_S = 8 * 3600
_LONGEST = 1000
_GONE = "this session is over: log in again"


@dataclass(frozen=True, slots=True)
class Session:
    """`wish` is the revision that last changed what is asked for in the user's document. Times are Unix ms."""

    id: str
    user: str
    wish: int
    expires_at: int

    def text(self, vault: Vault) -> str:
        """The token that stands for it."""
        payload = base64.urlsafe_b64encode(json.dumps([self.id, self.user, self.wish, self.expires_at]).encode())
        return f"{PREFIX}{payload.decode().rstrip('=')}.{vault.sign(_signed(payload.rstrip(b'=')))}"

    def csrf(self, vault: Vault) -> str:
        """What a page of ours sends in a header, and a page of somebody else's cannot know."""
        return vault.sign(b"csrf " + self.id.encode())


def begin(user: Document, now: int) -> Session:
    """A new session of that user."""
    return Session(secrets.token_hex(16), user.id, user.wish, now + LIFETIME_S * 1000)


def session_of(text: str, vault: Vault) -> Session:
    """The session in a token that this cluster signed. Raises `Unauthenticated`."""
    payload, _, signature = text.removeprefix(PREFIX).partition(".")
    if len(text) > _LONGEST or not text.isascii() or not vault.verify(_signed(payload.encode()), signature):
        raise Unauthenticated(_GONE)
    id_, user, wish, expires_at = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return Session(id_, user, wish, expires_at)


def user_of(session: Session, state: State, now: int) -> Document:
    """The user of a session that is not over. Raises `Unauthenticated`."""
    user = state.get("user", session.user)
    if user is None or user.wish != session.wish or now >= session.expires_at or state.get("session", session.id):
        raise Unauthenticated(_GONE)
    return user


def cookie_in(header: str) -> str | None:
    """The session token in a `Cookie` header."""
    for part in header.split(";"):
        name, _, value = part.strip().partition("=")
        if name == COOKIE:
            return value or None
    return None


def set_cookie(token: str, max_age_s: int) -> str:
    """The `Set-Cookie` header. `__Host-`: over HTTPS only, for this host alone, for all paths."""
    return f"{COOKIE}={token}; Path=/; Max-Age={max_age_s}; Secure; HttpOnly; SameSite=Strict"


def _signed(payload: bytes) -> bytes:
    return b"session " + payload
