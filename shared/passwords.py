"""Passwords that programs give themselves, and the form in which RabbitMQ keeps them."""

import base64
import hashlib
import secrets


def new_password() -> str:
    """256 random bits, hex: nothing to guess."""
    return secrets.token_hex(32)


def broker_password_hash(password: str, salt: bytes | None = None) -> str:
    """As RabbitMQ stores it (`rabbit_password_hashing_sha256`): base64 of a salt of 4 bytes, then SHA-256 over both."""
    salt = salt or secrets.token_bytes(4)
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()
