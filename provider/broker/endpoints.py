"""The brokers, as whoever connects to them sees them."""

import socket
import ssl
from collections.abc import Iterable
from urllib.parse import urlsplit

from provider.core.state import State
from provider.settings import is_loopback

CONNECT_S = 3.0


def endpoints(state: State) -> list[str]:
    """Every broker that agents and nodes are told of, `amqps://host:port`."""
    return sorted({endpoint for node in state.of("node") for endpoint in node.spec["endpoints"]})


def elsewhere(state: State, node: str, connected: Iterable[str]) -> str | None:
    """What is to be said of a member with connections to the brokers at `connected`, where its host has a broker of its
    own; None where all lead to that one, or there is none."""
    document = state.get("node", node)
    if document is None or not document.spec.get("broker"):
        return None
    for endpoint in connected:
        if endpoint not in document.spec["endpoints"] and not is_loopback(endpoint):
            return (
                f"its own host's broker does not serve it, it uses {endpoint}: "
                "should that one be lost now, the log may stop, and a promotion be refused"
            )
    return None


def untrusted(brokers: list[str], authorities_pem: str) -> list[str]:
    """Those of `brokers` that somebody who trusts these authorities alone would not talk to, with the reason. Blocking,
    up to `CONNECT_S` for each."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls.load_verify_locations(cadata=authorities_pem)
    tls.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    found = []
    for broker in brokers:
        url = urlsplit(broker)
        try:
            with (
                socket.create_connection((url.hostname or "", url.port or 5671), timeout=CONNECT_S) as plain,
                tls.wrap_socket(plain, server_hostname=url.hostname),
            ):
                continue
        except ssl.SSLCertVerificationError as error:
            found.append(f"{broker} ({error.verify_message})")
        except OSError as error:
            found.append(f"{broker} ({error})")
    return found
