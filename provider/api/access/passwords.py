"""Passwords of users: what one may be, and their hashes.

argon2id with 19 MiB, 2 passes, 1 lane: the least that OWASP's "Password Storage Cheat Sheet" recommends. More would not
fit a provider, which has 120 MB: two hashes are made at once, each on a thread, and a few wait. What a password may be
follows NIST SP 800-63B: a least and a most length, no rules about what characters it is made of.
"""

import asyncio
import base64
import os
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from argon2 import PasswordHasher, Type
from argon2.exceptions import InvalidHashError, VerificationError, VerifyMismatchError

from shared.errors import Invalid, TooManyRequests

LENGTH_MIN, LENGTH_MAX = 12, 256
MEMORY_KIB, PASSES, LANES = 19 * 1024, 2, 1
AT_ONCE = 2
WAITING_MAX = 16
"""Each takes some 30 ms: whoever comes last waits a quarter of a second."""
T = TypeVar("T")


def checked(password: str, user: str) -> str:
    """The password in the form that is hashed (Unicode NFKC: the same keys on another keyboard). Raises `Invalid`."""
    text = unicodedata.normalize("NFKC", password)
    if not LENGTH_MIN <= len(text) <= LENGTH_MAX or len(password) > LENGTH_MAX:
        raise Invalid(f"password: expected {LENGTH_MIN} to {LENGTH_MAX} characters")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise Invalid("password: not text that can be written as UTF-8")
    if text.casefold() == unicodedata.normalize("NFKC", user).casefold():
        raise Invalid("password: not the user's name")
    return text


class Passwords:
    """Makes and checks hashes. Coroutines on the event loop; the work is done on threads of its own."""

    def __init__(self) -> None:
        self._hasher = PasswordHasher(PASSES, MEMORY_KIB, LANES, hash_len=32, salt_len=16, type=Type.ID)
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="passwords")
        self._waiting = 0
        self._nobody = _hash_of_nothing()

    async def hash(self, password: str, user: str) -> str:
        """A PHC string for a new password. Raises `Invalid`, `TooManyRequests`."""
        text = checked(password, user)
        return await self._run(lambda: self._hasher.hash(text))

    async def matches(self, password: str, hashed: str | None) -> bool:
        """Whether this is the password. Takes as long where there is no hash (None): who is a user is not told by the
        time. Raises `TooManyRequests`."""
        if len(password) > LENGTH_MAX:
            return False
        text = unicodedata.normalize("NFKC", password).encode("utf-8", "replace")
        return await self._run(lambda: self._verify(text, hashed or self._nobody)) and hashed is not None

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _verify(self, text: bytes, hashed: str) -> bool:
        try:
            return self._hasher.verify(hashed, text)
        except (VerifyMismatchError, VerificationError, InvalidHashError):
            return False

    async def _run(self, work: Callable[[], T]) -> T:
        if self._waiting >= AT_ONCE + WAITING_MAX:
            raise TooManyRequests("too many passwords are being checked on this node: ask again in a second")
        self._waiting += 1
        # Not given up with the request: the thread works on, and counts until it has ended.
        running = asyncio.get_running_loop().run_in_executor(self._threads, work)
        running.add_done_callback(self._ended)
        return await asyncio.shield(running)

    def _ended(self, running: "asyncio.Future[T]") -> None:
        self._waiting -= 1
        if not running.cancelled():
            running.exception()  # seen, also where nobody waits any more


def _hash_of_nothing() -> str:
    """A hash that no password has, with our parameters: to check against it costs what a real one does."""
    salt, hashed = (base64.b64encode(os.urandom(n)).decode().rstrip("=") for n in (16, 32))
    return f"$argon2id$v=19$m={MEMORY_KIB},t={PASSES},p={LANES}${salt}${hashed}"
