"""Where this host is, as others see it."""

import socket
from urllib.parse import urlsplit

from shared.errors import Unavailable


def source_address(url: str) -> str:
    """The address from which this host reaches the host of `url`. Nothing is sent. Raises `Unavailable`."""
    parts = urlsplit(url)
    try:
        for family, kind, protocol, _, where in socket.getaddrinfo(
            parts.hostname, parts.port or 443, type=socket.SOCK_DGRAM
        ):
            with socket.socket(family, kind, protocol) as probe:
                probe.connect(where)
                return str(probe.getsockname()[0])
    except OSError as error:
        raise Unavailable(f"{parts.hostname} cannot be reached from here: {error.strerror or error}") from None
    raise Unavailable(f"{parts.hostname} has no address")
