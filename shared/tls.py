"""TLS contexts. Standard library only: agents are small."""

import hashlib
import re
import ssl
from pathlib import Path

_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]*-----END CERTIFICATE-----")


def client_context(ca_file: Path | str, certificate: Path | None = None, key: Path | None = None) -> ssl.SSLContext:
    """Trusts the authorities in `ca_file` (PEM) alone and checks host names. With `certificate` and `key` (PEM files)
    the client says who it is. Raises `OSError` if one of them cannot be read."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cafile=str(ca_file))
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # an authority may itself have been signed by another
    if certificate is not None:
        context.load_cert_chain(certificate, key)
    return context


def server_context(certificate: Path | str, key: Path | str, ca_file: Path | str) -> ssl.SSLContext:
    """Shows `certificate` and asks clients for theirs; a client may have none. One that no authority in `ca_file`
    signed, or that has expired, fails the handshake. TLS 1.2 or newer; no compression, no renegotiation.

    A certificate that is loaded into it later, and authorities that are added, count for the connections made from then
    on. An authority cannot be taken out of it: that needs a new context. Raises `OSError` where a file cannot be read.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A resumed session would bring a certificate that was verified long ago, under authorities dropped since.
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_NO_TICKET
    context.num_tickets = 0
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(cafile=str(ca_file))
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


def unverified_context() -> ssl.SSLContext:
    """Verifies nothing. Only to fetch the CA certificate, which is then compared with a pinned fingerprint."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def fingerprint(pem: str) -> str:
    """SHA-256 over the DER form of the first certificate in `pem`, hex. Raises `ValueError`."""
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(first_certificate(pem).strip())).hexdigest()


def first_certificate(pem: str) -> str:
    """The first certificate in `pem`, without what stands around it. Raises `ValueError` where there is none."""
    first = _CERTIFICATE.search(pem)
    if first is None:
        raise ValueError("no certificate")
    return first.group() + "\n"


def certificates_in(pem: str) -> list[str]:
    """Each certificate in `pem`, without what stands around it."""
    return [one + "\n" for one in _CERTIFICATE.findall(pem)]


def pinned(pem: str, expected: str) -> str | None:
    """The one certificate in `pem` whose fingerprint is the expected one, PEM, and nothing that stands around it: it
    alone is proven. None where it is not there. Raises `ValueError` where there is no certificate at all."""
    found = certificates_in(pem)
    if not found:
        raise ValueError("no certificate")
    return next((one for one in found if fingerprint(one) == expected), None)


def trust_of(pem: str) -> str:
    """A short name for a set of trusted authorities: the first 16 hex digits of SHA-256 over its text."""
    return hashlib.sha256(pem.encode()).hexdigest()[:16]
