"""Why a broker does not let this host in: its certificate, or its cookie? RabbitMQ's own tools tell them not apart."""

import socket
import ssl
from pathlib import Path

from provider.core.documents import BrokerNode
from shared.errors import Refused

DISTRIBUTION_PORT = 25672
_CONNECT_S = 3.0


class NotLetIn(Refused):
    """A broker is there and does not let this host in; it may have another cookie than this host was told."""


def why_refused(peer: BrokerNode, directory: Path) -> NotLetIn:
    """In one plain sentence. `directory` holds this broker's copies of ca.pem, node.pem and node.key."""
    return NotLetIn(_why(peer, directory))


def _why(peer: BrokerNode, directory: Path) -> str:
    try:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        tls.load_verify_locations(directory / "ca.pem")
        tls.load_cert_chain(directory / "node.pem", directory / "node.key")
        tls.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        tls.minimum_version = tls.maximum_version = (
            ssl.TLSVersion.TLSv1_2
        )  # in which a refusal comes during the handshake
    except (OSError, ssl.SSLError):
        return f"{peer.node} does not let this host in, and this host's broker has no certificate of the cluster yet"
    try:
        with (
            socket.create_connection((peer.address, DISTRIBUTION_PORT), timeout=_CONNECT_S) as plain,
            tls.wrap_socket(plain, server_hostname=peer.host),
        ):
            return (
                f"{peer.node} does not accept the cluster's Erlang cookie: it has another one; "
                "`systemctl start bellwether-broker` on its host gives it the cluster's"
            )
    except ssl.SSLCertVerificationError as error:
        return f"the certificate of {peer.node} is not good for {peer.host} ({error.verify_message})"
    except ssl.SSLError as error:
        return f"{peer.node} does not speak TLS with this host's certificate ({error.reason})"
    except OSError as error:
        return f"{peer.node} cannot be reached at {peer.address}, port {DISTRIBUTION_PORT} ({error})"
