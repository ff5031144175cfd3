"""How mysql_native_password keeps a password, so that it can be compared and set without being sent."""

import hashlib


def native_hash(password: str) -> str:
    """`*` and forty hexadecimal digits: SHA-1 of the SHA-1, as MariaDB's PASSWORD() gives it. Empty for no password."""
    if not password:
        return ""
    once = hashlib.sha1(password.encode(), usedforsecurity=False).digest()  # the server's format, not our choice
    return "*" + hashlib.sha1(once, usedforsecurity=False).hexdigest().upper()
