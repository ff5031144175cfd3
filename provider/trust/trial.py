"""Whether an authority that a user brings does what it is for, found out before anybody depends on it."""

import ssl
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

from cryptography.exceptions import UnsupportedAlgorithm

from provider.trust import pki
from shared.errors import Invalid
from shared.tls import client_context, server_context

_TURNS = 5
"""More than any handshake takes."""


def try_authority(certificate_pem: str, key_pem: str, hosts: Iterable[str]) -> None:
    """Signs for `hosts` and has both sides of a TLS connection look at it, as nodes will: name constraints, weak keys,
    missing usages and the like show here, and not when everybody shows a certificate that nobody accepts. Blocking,
    some milliseconds. Raises `Invalid`, or `OSError` where no file can be written."""
    named, own = tuple(dict.fromkeys(hosts)), pki.new_key()
    with TemporaryDirectory() as name:
        directory = Path(name)
        ca, key, certificate = directory / "ca.pem", directory / "key.pem", directory / "certificate.pem"
        try:
            signed = pki.sign(pki.new_request(own, "trial"), "trial", named, certificate_pem, key_pem, days=1)
            for file, text in ((ca, certificate_pem), (key, own), (certificate, signed)):
                file.write_text(text, encoding="ascii")
            for host in named:
                _connect(server_context(certificate, key, ca), client_context(ca, certificate, key), host)
        except ssl.SSLError as error:
            why = getattr(error, "verify_message", None) or error.reason or str(error)
            raise Invalid(f"authority: what it signs is not accepted: {why}") from None
        except (ValueError, UnsupportedAlgorithm) as error:
            raise Invalid(f"authority: it cannot sign: {error}") from None


def _connect(server: ssl.SSLContext, client: ssl.SSLContext, host: str) -> None:
    """A handshake in memory. Raises `ssl.SSLError` where one side does not accept the other."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = (
        client.wrap_bio(to_client, to_server, server_hostname=host),
        server.wrap_bio(to_server, to_client, server_side=True),
    )
    for _ in range(_TURNS):
        for side in sides:
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
