"""Who can open a backup: whoever has the recovery key, or knows the passphrase.

Each backup is encrypted with a key of its own. That key is in the file's head, wrapped once for each opener:

    recovery     for the holder of the recovery key's private half (HPKE, as data keys are wrapped for nodes), and
                 under a secret that only the cluster and the recovery key's file have: who can write to the place
                 where backups lie, and has no part in the cluster, can make none that the recovery key would open
    passphrase   under a key that scrypt makes of it
"""

import base64
import hmac
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from provider.trust.vault import Unsealable, new_private_key, public_key, unwrap, wrap
from shared.errors import Invalid, Refused

FORM = "bellwether-recovery"
PASSPHRASE_MIN = 12
_NONCE_BYTES = 12
_CONTEXT = "bellwether backup"
_SALT_BYTES = 16
_SCRYPT = {"n": 2**17, "r": 8, "p": 1}
"""128 MiB and some 0.4 s: what OWASP's cheat sheet on storing passwords names for scrypt."""
_N_MAX = 2**20
"""Of a file that wants more to be opened, 1 GiB, something is wrong."""

Opener = Mapping[str, Any]


class Closing(Protocol):
    """Something that a backup is made for."""

    def close(self, key: bytes) -> dict[str, Any]:
        """`key`, wrapped: an opener, as it stands in the head."""


class Opening(Protocol):
    """Something that a backup is opened with."""

    def open(self, openers: list[Opener]) -> bytes:
        """The key. Raises `Refused` where none of these openers is for us, or it was altered."""


@dataclass(frozen=True, slots=True)
class ForRecovery:
    """The half of the recovery key that the cluster has. Both in hex."""

    public: str
    secret: str = field(repr=False)

    def close(self, key: bytes) -> dict[str, Any]:
        fresh = os.urandom(32)
        wrapped = wrap(fresh, self.public, _CONTEXT)
        return {"kind": "recovery", "public": self.public, "fresh": wrapped, "key": _sealed(key, self._under(fresh))}

    def _under(self, fresh: bytes) -> bytes:
        return _joint(self.secret, fresh)


@dataclass(frozen=True, slots=True)
class RecoveryKey:
    """What a person keeps, away from the cluster."""

    private: str = field(repr=False)
    secret: str = field(repr=False)

    @classmethod
    def new(cls) -> "RecoveryKey":
        return cls(new_private_key(), os.urandom(32).hex())

    @classmethod
    def parse(cls, text: str) -> "RecoveryKey":
        """Raises `Invalid` for what is no recovery key."""
        parts = text.strip().split(".")
        if len(parts) != 4 or parts[:2] != [FORM, "1"] or not _is_secret(parts[3]):
            raise Invalid(f"this is no recovery key; expected one line that begins with {FORM}.1.")
        try:
            public_key(parts[2])
        except Invalid:
            raise Invalid("the recovery key is damaged: a part of it is no key") from None
        return cls(parts[2], parts[3])

    def text(self) -> str:
        return f"{FORM}.1.{self.private}.{self.secret}"

    @property
    def clusters_half(self) -> ForRecovery:
        return ForRecovery(public_key(self.private), self.secret)

    def open(self, openers: list[Opener]) -> bytes:
        own = public_key(self.private)
        for opener in openers:
            if opener.get("kind") == "recovery" and opener.get("public") == own:
                try:
                    fresh = unwrap(str(opener["fresh"]), self.private, _CONTEXT)
                    return _unsealed(str(opener["key"]), _joint(self.secret, fresh))
                except (Unsealable, InvalidTag, ValueError, KeyError):
                    raise Refused(
                        "this backup was not made by the cluster that the recovery key is of, or it was altered"
                    ) from None
        raise Refused("this backup was made for another recovery key" if _has(openers, "recovery") else _NO_RECOVERY)


@dataclass(frozen=True, slots=True)
class Passphrase:
    """Closes and opens. Raises `Invalid` where it is too short to be one."""

    text: str = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.text) < PASSPHRASE_MIN:
            raise Invalid(f"a passphrase has at least {PASSPHRASE_MIN} characters: all of the cluster's keys are in it")

    def close(self, key: bytes) -> dict[str, Any]:
        salt = os.urandom(_SALT_BYTES)
        derived = self._derived(salt, **_SCRYPT)
        return {"kind": "passphrase", **_SCRYPT, "salt": base64.b64encode(salt).decode(), "key": _sealed(key, derived)}

    def open(self, openers: list[Opener]) -> bytes:
        for opener in openers:
            if opener.get("kind") == "passphrase":
                try:
                    n, r, p = (int(opener[name]) for name in ("n", "r", "p"))
                    if not (2 <= n <= _N_MAX and 1 <= r <= 16 and 1 <= p <= 4):
                        raise Refused("this backup's head asks for more memory than any backup of ours: it was altered")
                    derived = self._derived(base64.b64decode(str(opener["salt"])), n=n, r=r, p=p)
                    return _unsealed(str(opener["key"]), derived)
                except (InvalidTag, ValueError, KeyError, TypeError):
                    raise Refused("this passphrase does not open the backup") from None
        raise Refused("this backup was made without a passphrase: give the recovery key")

    def _derived(self, salt: bytes, *, n: int, r: int, p: int) -> bytes:
        return Scrypt(salt=salt, length=32, n=n, r=r, p=p).derive(self.text.encode())


_NO_RECOVERY = "this backup was made without a recovery key: give the passphrase"


def _joint(secret: str, fresh: bytes) -> bytes:
    return hmac.digest(bytes.fromhex(secret), fresh, "sha256")


def _sealed(key: bytes, under: bytes) -> str:
    nonce = os.urandom(_NONCE_BYTES)
    return base64.b64encode(nonce + AESGCM(under).encrypt(nonce, key, _CONTEXT.encode())).decode()


def _unsealed(text: str, under: bytes) -> bytes:
    raw = base64.b64decode(text)
    return AESGCM(under).decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], _CONTEXT.encode())


def _is_secret(text: str) -> bool:
    try:
        return len(bytes.fromhex(text)) == 32
    except ValueError:
        return False


def _has(openers: list[Opener], kind: str) -> bool:
    return any(opener.get("kind") == kind for opener in openers)
