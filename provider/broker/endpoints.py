"""The brokers, as whoever connects to them sees them."""

import socket
import ssl
from urllib.parse import urlsplit

from provider.core.state import State
from provider.settings import is_loopback

CONNECT_S = 3.0


def endpoints(state: State) -> list[str]:
    """Every broker that agents and nodes are told of, `amqps://host:port`."""
    return sorted({endpoint for node in state.of("node") for endpoint in node.spec["endpoints"]})


def elsewhere(state: State, node: str, endpoint: str | None) -> str | None:
    """What is to be said of a member connected at `endpoint`, where its host has a broker of its own; None where
    that is it, or there is none, or no connection."""
    document = state.get("node", node)
    if endpoint is None or document is None or not document.spec.get("broker"):
        return None
    if endpoint in document.spec["endpoints"] or is_loopback(endpoint):
        return None
    return f"its own host's broker does not serve it, it uses {endpoint}: with one broker more the log may stop"


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
