"""Which requests are refused for their head alone (400): those that two readers could understand differently.

Whatever stands before us (HAProxy, another node) and we ourselves must see the same request, or one of us checks what
the other does not do. So nothing is normalised, nothing doubtful is guessed at, and a target is taken as it is written.
The parser has refused most of what is malformed already (folded lines, NUL, spaces before a colon, two lengths).
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

SINGLE = frozenset(
    (
        b"authorization",
        b"bellwether-min-revision",
        b"bellwether-wait",
        b"connection",
        b"content-length",
        b"content-type",
        b"cookie",
        b"host",
        b"idempotency-key",
        b"if-match",
        b"if-none-match",
        b"last-event-id",
        b"transfer-encoding",
        b"upgrade",
    )
)
"""Headers that may stand once. So may every other one of ours."""
_OURS = b"bellwether-"
_HOST = re.compile(rb"[A-Za-z0-9._~\-\[\]:%]{0,300}")
_TARGET = re.compile(rb"/[\x21-\x22\x24-\x7e]*")
"""A path and perhaps a query, visible ASCII, without a fragment."""


def wrong(version: str, target: bytes, headers: Sequence[tuple[bytes, bytes]], *, upgrade: bool) -> str | None:
    """What is wrong with the head of a request, in words for the client; None where nothing is. Names are lower case.
    `upgrade`: it asks for another protocol on this connection, as CONNECT does."""
    if version not in ("1.1", "1.0"):
        return "this server speaks HTTP/1.1"
    if upgrade:
        return "this server changes to no other protocol: leave out Upgrade, and CONNECT is not served"
    if not _TARGET.fullmatch(target):
        return "the target of a request must be a path: no scheme and host, no fragment, and all but ASCII %-encoded"
    seen: set[bytes] = set()
    for name, value in headers:
        kind = _kind(name)
        if kind is None:
            continue
        if kind != "single":
            return f"the header {_shown(name)} is written with hyphens"
        if name in seen:
            return f"the header {_shown(name)} stands there twice"
        seen.add(name)
        if name == b"host" and not _HOST.fullmatch(value):
            return "Host: that is no name of a host"
        if name == b"transfer-encoding" and value.strip().lower() != b"chunked":
            return "Transfer-Encoding: only chunked is understood"
    return _together(version, seen)


def _together(version: str, seen: set[bytes]) -> str | None:
    if version == "1.1" and b"host" not in seen:
        return "the header Host is missing"
    if b"transfer-encoding" in seen and (version == "1.0" or b"content-length" in seen):
        return "Transfer-Encoding does not go with Content-Length, nor with HTTP/1.0"
    return None


@lru_cache(maxsize=512)  # clients send the same few all the time
def _kind(name: bytes) -> Literal["single", "disguised"] | None:
    """`single`: it may stand once. `disguised`: with hyphens it would be one of those."""
    if name in SINGLE or name.startswith(_OURS):
        return "single"
    return "disguised" if b"_" in name and _kind(name.replace(b"_", b"-")) == "single" else None


def _shown(name: bytes) -> str:
    return repr(name.decode("latin-1")[:40])
