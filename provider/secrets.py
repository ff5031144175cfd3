"""Sealing what must not be readable in log, store, snapshot or event. AES-256-GCM; the key is never part of the state.

Every provider holds the key in `secrets.key` (mode 600), given to it when it joined.
"""

import base64
import hashlib
import hmac
import os
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from shared.errors import BellwetherError

_FORM = "s1:"
_NONCE_BYTES = 12  # the size that GCM is specified for (NIST SP 800-38D)


class Unsealable(BellwetherError):
    """This was sealed with another key, or has been altered."""

    code, status = "unsealable", 500


class Vault:
    """Seals and unseals with one key of 32 bytes."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)
        self._mac_key = hashlib.sha256(b"fingerprints" + key).digest()
        self._sign_key = hashlib.sha256(b"signatures" + key).digest()

    @classmethod
    def from_file(cls, path: Path) -> "Vault":
        return cls(bytes.fromhex(path.read_text(encoding="ascii").strip()))

    @staticmethod
    def new_key() -> str:
        """A fresh key in the form that the file holds."""
        return AESGCM.generate_key(256).hex()

    def seal(self, text: str, context: str) -> str:
        """`text` sealed for `context` (the document's id): it opens in no other place."""
        nonce = os.urandom(_NONCE_BYTES)
        return _FORM + base64.b64encode(nonce + self._cipher.encrypt(nonce, text.encode(), context.encode())).decode()

    def unseal(self, sealed: str, context: str) -> str:
        """What was sealed. Raises `Unsealable`."""
        try:
            raw = base64.b64decode(sealed.removeprefix(_FORM))
            return self._cipher.decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], context.encode()).decode()
        except (InvalidTag, ValueError):
            raise Unsealable("a secret cannot be unsealed: was it sealed with another cluster's key?") from None

    def fingerprint(self, data: bytes) -> str:
        """A keyed hash: tells equal requests from different ones, and tells nothing of a password in them."""
        return hmac.new(self._mac_key, data, hashlib.sha256).hexdigest()

    def sign(self, data: bytes) -> str:
        """Shows that a node of this cluster wrote `data`, which begins with what it is for. Hex."""
        return hmac.new(self._sign_key, data, hashlib.sha256).hexdigest()

    def verify(self, data: bytes, mac: str) -> bool:
        """Whether `sign` made `mac` of `data`. Constant time."""
        return hmac.compare_digest(self.sign(data).encode(), mac.encode())
