"""An authority that a user brings works, whichever way it was made, or is refused before anybody depends on it."""

import ipaddress
from collections.abc import Callable

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from provider.trust.authorities import checked_authority
from shared.errors import Invalid
from shared.tls import fingerprint
from tests.support.authorities import P256, PARENT_KEY, Brought, authority, chain, pem, usage

HOSTS = ("10.0.0.1", "localhost", "p1.example.org")
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
    id_, certificate = checked_authority(brought.certificate, brought.key, HOSTS)
    assert certificate.isascii()
    assert certificate.count("BEGIN CERTIFICATE") == 1, "who signed it is not to be trusted for it"
    assert fingerprint(certificate).startswith(id_)
    assert certificate.strip() in brought.certificate


@pytest.mark.parametrize("what", BAD)
def test_an_authority_that_cannot_serve_is_refused(what: str) -> None:
    make, why = BAD[what]
    brought = make()
    with pytest.raises(Invalid, match=why):
        checked_authority(brought.certificate, brought.key, HOSTS)
