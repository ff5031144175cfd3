"""Where a request comes from."""

from collections.abc import Sequence
from ipaddress import ip_address

from starlette.types import Scope

from provider.api.http.limits import Networks, plain

PEER = "bellwether.peer"
"""Where in the scope the verified client certificate of the connection stands, DER bytes; None where there is none."""
SOURCE = "bellwether.source"
"""Where in the scope the client's address stands, once it has been asked for."""
HOPS_MAX = 50
"""Entries of X-Forwarded-For that are looked at, from the right."""


def client_address(scope: Scope) -> str:
    """The address of the client: that of the connection, unless a trusted proxy (`api.trusted_proxies`) says for whom
    it asks. Empty where the transport has none."""
    known: str | None = scope.get(SOURCE)
    if known is None:
        client = scope.get("client")
        connected = plain(client[0]) if client else ""
        known = scope[SOURCE] = behind(connected, scope["headers"], scope["app"].state.context.guard.proxies)
    return known


def behind(connected: str, headers: Sequence[tuple[bytes, bytes]], proxies: Networks) -> str:
    """Who is behind a connection from `connected`: the right-most address in X-Forwarded-For that is no trusted proxy.

    Each proxy adds on the right whom it speaks with; what stands further left came from the client, and proves nothing.
    So the first entry from the right that is no address ends the search, at the proxy that wrote it.
    """
    if not proxies or connected not in proxies:
        return connected
    found = connected
    said = b",".join(value for name, value in headers if name == b"x-forwarded-for").decode("latin-1")
    for entry in said.split(",")[: -HOPS_MAX - 1 : -1]:
        address = _address(entry.strip())
        if address is None:
            break
        found = address
        if address not in proxies:
            break
    return found


def _address(text: str) -> str | None:
    """The address in one entry: some proxies add a port, and brackets to IPv6."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        return str(ip_address(plain(text)))
    except ValueError:
        return None
