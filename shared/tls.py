"""TLS contexts. Standard library only: agents are small."""

import hashlib
import ssl
from pathlib import Path


def client_context(ca_file: Path | str) -> ssl.SSLContext:
    """Trusts the authorities in `ca_file` (PEM) alone and checks host names. Raises `OSError` if it cannot be read."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cafile=str(ca_file))
    return context


def unverified_context() -> ssl.SSLContext:
    """Verifies nothing. Only to fetch the CA certificate, which is then compared with a pinned fingerprint."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def fingerprint(pem: str) -> str:
    """SHA-256 over the DER form of the first certificate in `pem`, hex. Raises `ValueError`."""
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()
