"""An authority that a user brings works, whichever way it was made, or is refused before anybody depends on it."""

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from provider.trust.authorities import checked_authority
from shared.errors import Invalid
from shared.tls import fingerprint

HOSTS = ("10.0.0.1", "localhost", "p1.example.org")
P256 = ec.generate_private_key(ec.SECP256R1())
PARENT_KEY = ec.generate_private_key(ec.SECP256R1())
BASIC = x509.BasicConstraints(ca=True, path_length=0)


def usage(*, signs: bool) -> x509.KeyUsage:
    given = dict.fromkeys(
        (
            "digital_signature",
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "crl_sign",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    return x509.KeyUsage(**{**given, "digital_signature": True}, key_cert_sign=signs)


@dataclass(frozen=True)
class Brought:
    certificate: str
    key: str

    def check(self) -> tuple[str, str]:
        return checked_authority(self.certificate, self.key, HOSTS)


def named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def pem(key: Any) -> str:
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return str(key.private_bytes(*form).decode())


def authority(
    key: Any = P256,
    *more: x509.ExtensionType,
    basic: x509.BasicConstraints = BASIC,
    days: float = 400,
    begins: float = -1,
    parent: tuple[str, Any] | None = None,
) -> Brought:
    issuer, signer = parent or ("own", key)
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(named("own"))
        .issuer_name(named(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=begins))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(basic, critical=True)
    )
    for extension in more:
        builder = builder.add_extension(extension, critical=not isinstance(extension, x509.SubjectKeyIdentifier))
    certificate = builder.sign(signer, None if isinstance(signer, ed25519.Ed25519PrivateKey) else hashes.SHA256())
    return Brought(certificate.public_bytes(serialization.Encoding.PEM).decode(), pem(key))


def chain() -> Brought:
    """One that another has signed, with that other behind it, as authorities are handed out in companies."""
    parent = authority(PARENT_KEY, basic=x509.BasicConstraints(ca=True, path_length=None))
    own = authority(parent=("own", PARENT_KEY))
    return Brought(f"Subject: Müller\n{own.certificate}\nissuer=own\n{parent.certificate}", own.key)


GOOD: dict[str, Callable[[], Brought]] = {
    "EC": authority,
    "EC P-384": lambda: authority(ec.generate_private_key(ec.SECP384R1())),
    "RSA": lambda: authority(rsa.generate_private_key(65537, 2048)),
    "names its key in its own way": lambda: authority(P256, x509.SubjectKeyIdentifier(b"its own way")),
    "says that it signs": lambda: authority(P256, usage(signs=True)),
    "signed by another": lambda: authority(parent=("parent", PARENT_KEY)),
    "a chain, with text around": chain,
    "for these hosts": lambda: authority(
        P256,
        x509.NameConstraints(
            [
                x509.DNSName("example.org"),
                x509.DNSName("localhost"),
                x509.IPAddress(ipaddress.ip_network("10.0.0.0/8")),
            ],
            None,
        ),
    ),
}
BAD: dict[str, tuple[Callable[[], Brought], str]] = {
    "no authority": (lambda: authority(basic=x509.BasicConstraints(ca=False, path_length=None)), "CA:FALSE"),
    "must not sign": (lambda: authority(P256, usage(signs=False)), "not accepted"),
    "for other hosts": (lambda: authority(P256, x509.NameConstraints([x509.DNSName("elsewhere")], None)), "accepted"),
    "expired": (lambda: authority(begins=-10, days=-1), "expires"),
    "expires soon": (lambda: authority(days=20), "expires"),
    "not valid yet": (lambda: authority(begins=1), "not valid yet"),
    "a weak key": (lambda: authority(rsa.generate_private_key(65537, 1024)), "too weak"),
    "a key of another kind": (lambda: authority(ed25519.Ed25519PrivateKey.generate()), "EC or RSA"),
    "a curve that TLS does not have": (lambda: authority(ec.generate_private_key(ec.SECP192R1())), "not accepted"),
    "another's key": (lambda: Brought(authority().certificate, pem(PARENT_KEY)), "does not belong"),
    "no certificate": (lambda: Brought("", pem(P256)), "PEM"),
    "no key": (lambda: Brought(authority().certificate, "x"), "private key"),
}


@pytest.mark.parametrize("what", GOOD)
def test_an_authority_that_can_serve_is_taken(what: str) -> None:
    brought = GOOD[what]()
    id_, certificate = brought.check()
    assert certificate.isascii()
    assert certificate.count("BEGIN CERTIFICATE") == 1, "who signed it is not to be trusted for it"
    assert fingerprint(certificate).startswith(id_)
    assert certificate.strip() in brought.certificate


@pytest.mark.parametrize("what", BAD)
def test_an_authority_that_cannot_serve_is_refused(what: str) -> None:
    make, why = BAD[what]
    with pytest.raises(Invalid, match=why):
        make().check()
