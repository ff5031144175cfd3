"""Sealing what must not be readable in log, store, snapshot or event: AES-256-GCM under the cluster's data keys.

A data key is part of the state only wrapped: once for each node, for a private key that never leaves that node's
`secrets.key` (HPKE, RFC 9180: X25519, HKDF-SHA256, AES-256-GCM). So state, log and backups open for nobody who has no
node's private key. A node that is removed gets no part in the next data key, which seals everything from then on.
"""

import base64
import hashlib
import hmac
import os
from collections.abc import Iterable, Mapping

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from provider.core.documents import Document
from shared.errors import BellwetherError, Invalid

_FORM = "s1"
_NONCE_BYTES = 12  # the size that GCM is specified for (NIST SP 800-38D)
_WRAPPING = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


class Unsealable(BellwetherError):
    """This was sealed with a key that is not here, or has been altered."""

    code, status = "unsealable", 500


class Vault:
    """Opens what any of its keys has sealed; seals with the newest. Any thread: keys are only ever added.

    `keys` are data keys of 32 bytes by id, oldest first.
    """

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        self._keys = dict(keys)

    @property
    def newest(self) -> str:
        """The id of the key that seals. Raises `Unsealable` where there is none."""
        if not self._keys:
            raise Unsealable("this node has none of the cluster's data keys")
        return max(self._keys, key=_number)

    def add(self, id_: str, key: bytes) -> None:
        """From now on this key is known; it seals if it is the newest."""
        self._keys = {**self._keys, id_: key}

    def knows(self, id_: str) -> bool:
        return id_ in self._keys

    def key(self, id_: str) -> bytes:
        """A data key itself, for a backup alone. Raises `Unsealable` where it is not here."""
        if id_ not in self._keys:
            raise Unsealable(f"this node does not have the data key {id_}")
        return self._keys[id_]

    def with_key(self, id_: str, key: bytes) -> "Vault":
        """Another vault, which has this key too."""
        return Vault({**self._keys, id_: key})

    def wrapped_for(self, public_key: str) -> dict[str, str]:
        """Each of its keys, wrapped for the owner of `public_key`. Raises `Invalid`."""
        return {id_: wrap(key, public_key, id_) for id_, key in self._keys.items()}

    def seal(self, text: str, context: str) -> str:
        """`text` sealed for `context` (the document's id): it opens in no other place."""
        id_, nonce = self.newest, os.urandom(_NONCE_BYTES)
        raw = nonce + AESGCM(self._keys[id_]).encrypt(nonce, text.encode(), context.encode())
        return f"{_FORM}:{id_}:{base64.b64encode(raw).decode()}"

    def unseal(self, sealed: str, context: str) -> str:
        """What was sealed. Raises `Unsealable`."""
        form, _, rest = sealed.partition(":")
        id_, _, text = rest.partition(":")
        key = self._keys.get(id_)
        if form != _FORM or key is None:
            raise Unsealable("a secret is sealed with a key that this node does not have")
        try:
            raw = base64.b64decode(text)
            return AESGCM(key).decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], context.encode()).decode()
        except (InvalidTag, ValueError):
            raise Unsealable("a secret cannot be unsealed: was it sealed with another cluster's key?") from None

    def fingerprint(self, data: bytes) -> str:
        """A keyed hash: tells equal requests from different ones, and tells nothing of a password in them.

        Under the oldest key, so that a request which is repeated after the key was changed is known again.
        """
        return self._mac(min(self._keys, key=_number), b"fingerprints", data)

    def sign(self, data: bytes) -> str:
        """Shows that a node of this cluster wrote `data`, which begins with what it is for. Hex.

        Under the newest key alone: what a node signed that was removed since is worth nothing.
        """
        return self._mac(self.newest, b"signatures", data)

    def verify(self, data: bytes, mac: str) -> bool:
        """Whether `sign` made `mac` of `data`. Constant time."""
        return hmac.compare_digest(self.sign(data).encode(), mac.encode())

    def _mac(self, id_: str, purpose: bytes, data: bytes) -> str:
        """Each purpose has a key of its own, derived from the data key."""
        return hmac.new(hashlib.sha256(purpose + self._keys[id_]).digest(), data, hashlib.sha256).hexdigest()


def _number(id_: str) -> int:
    return int(id_.removeprefix("k"))


# ── data keys, and how each node gets them ───────────────────────────────────────────────────────────────────────────


def new_data_key() -> bytes:
    return AESGCM.generate_key(256)


def new_private_key() -> str:
    """A node's own key, in the form that its `secrets.key` holds (hex)."""
    return X25519PrivateKey.generate().private_bytes_raw().hex()


def public_key(private: str) -> str:
    """What others wrap for the owner of `private`; both hex. Raises `Invalid`."""
    return _private(private).public_key().public_bytes_raw().hex()


def wrap(key: bytes, public: str, context: str) -> str:
    """`key` for the owner of `public` alone, base64. Raises `Invalid` where `public` is no public key."""
    try:
        owner = X25519PublicKey.from_public_bytes(bytes.fromhex(public))
        return base64.b64encode(_WRAPPING.encrypt(key, owner, info=context.encode())).decode()
    except ValueError:
        raise Invalid("public_key: expected an X25519 key, 64 hex digits") from None


def unwrap(wrapped: str, private: str, context: str) -> bytes:
    """What was wrapped. Raises `Unsealable`."""
    try:
        return _WRAPPING.decrypt(base64.b64decode(wrapped), _private(private), info=context.encode())
    except (InvalidTag, ValueError):
        raise Unsealable("a data key is not wrapped for this node's secrets.key") from None


def data_keys(documents: Iterable[Document], node: str, private: str) -> dict[str, bytes]:
    """The data keys in `documents` (kind `key`) that `node` has a part in. Raises `Unsealable`."""
    return {
        document.id: unwrap(document.spec["wrapped"][node], private, document.id)
        for document in sorted(documents, key=lambda document: _number(document.id))
        if node in document.spec["wrapped"]
    }


def _private(private: str) -> X25519PrivateKey:
    try:
        return X25519PrivateKey.from_private_bytes(bytes.fromhex(private.strip()))
    except ValueError:
        raise Invalid("secrets.key: expected an X25519 private key, 64 hex digits") from None
