"""The cluster's own certificate authority. EC P-256 throughout: small, fast, understood everywhere."""

import hashlib
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import cast
from uuid import uuid4

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from shared.errors import Invalid, Refused

_PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
_PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey
CA_DAYS = 3650
NODE_DAYS = 90
"""Of a node's certificate, unless set: `certificates.days`. It renews itself long before."""
AUTHORITY_DAYS_MIN = 30
"""Left to an authority that a user brings."""
RSA_BITS_MIN = 2048
"""With less, OpenSSL's usual settings accept nothing that it signs."""
_MALFORMED = (
    ValueError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.ExtensionNotFound,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"""What the library raises for a request that somebody made up."""
_BACKDATED = timedelta(hours=1)  # clocks of newcomers may be behind ours


def new_key() -> str:
    """A private key, PEM (PKCS #8, unencrypted: it is for a file of mode 600)."""
    return (
        ec.generate_private_key(ec.SECP256R1())
        .private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        .decode()
    )


def new_ca(name: str | None = None) -> tuple[str, str]:
    """A self-signed authority: its certificate and its key, PEM. Its name tells one authority from another, no more."""
    name = name or f"Bellwether {uuid4().hex[:8]}"
    key_pem = new_key()
    key = _load(key_pem)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        _builder(subject, subject, key.public_key(), CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(ca=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return _pem(certificate), key_pem


def new_request(key_pem: str, name: str) -> str:
    """A signing request for `name`, PEM. Where its certificate is valid is for the signer to say."""
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .sign(_load(key_pem), hashes.SHA256())
    )
    return request.public_bytes(serialization.Encoding.PEM).decode()


def sign(
    request_pem: str, name: str, hosts: tuple[str, ...], ca_pem: str, ca_key_pem: str, *, days: float = NODE_DAYS
) -> str:
    """The certificate for a request, PEM, valid at `hosts` (names and addresses). Nothing but the key is taken from the
    request: whoever asks does not say who it is, or where.

    Raises `Invalid` where the request is malformed or not signed by its own key.
    """
    try:
        request = x509.load_pem_x509_csr(request_pem.encode())
        key, own = request.public_key(), request.is_signature_valid
    except _MALFORMED as error:
        raise Invalid(f"csr: not a signing request ({error})") from None
    if not own or not isinstance(key, ec.EllipticCurvePublicKey):
        raise Invalid("csr: not signed with its own EC key")
    ca = x509.load_pem_x509_certificate(ca_pem.encode())
    ca_key = _load(ca_key_pem)
    if days_left(ca_pem) <= 0:
        raise Refused("the authority that signs has expired: nobody would trust what it signs now")
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        _builder(subject, ca.subject, key, min(days, days_left(ca_pem)))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_names(hosts), critical=False)
        .add_extension(_usage(ca=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(_issuer(ca), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    return _pem(certificate)


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a certificate says."""

    name: str
    """Its subject's common name."""
    sha256: str
    """Of its DER form, hex."""
    key_sha256: str
    """Of its public key (SubjectPublicKeyInfo, DER), hex: equal in all certificates for one key."""
    not_before: datetime
    not_after: datetime
    hosts: frozenset[str] = frozenset()
    """Names and addresses that it is for, as `host_names` gives them."""

    def days_left(self, now: datetime) -> float:
        """Negative when it has expired."""
        return (self.not_after - now) / timedelta(days=1)

    @property
    def days(self) -> float:
        """Its whole life."""
        return (self.not_after - self.not_before) / timedelta(days=1)


def read_certificate(pem: str) -> Certificate:
    """The first certificate in `pem`. Raises `Invalid`."""
    try:
        return _read(x509.load_pem_x509_certificate(pem.encode()))
    except ValueError as error:
        raise Invalid(f"not a certificate: {error}") from None


@lru_cache(maxsize=64)
def read_der(der: bytes) -> Certificate:
    """As `read_certificate`, of the DER form. Remembered, since each request of a node comes with the same one."""
    try:
        return _read(x509.load_der_x509_certificate(der))
    except _MALFORMED as error:
        raise Invalid(f"not a certificate: {error}") from None


def _read(certificate: x509.Certificate) -> Certificate:
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return Certificate(
        name=str(names[0].value) if names else "",
        sha256=certificate.fingerprint(hashes.SHA256()).hex(),
        key_sha256=hashlib.sha256(certificate.public_key().public_bytes(*form)).hexdigest(),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        hosts=_hosts(certificate),
    )


def _hosts(certificate: x509.Certificate) -> frozenset[str]:
    try:
        return _texts(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return frozenset()


def host_names(hosts: Iterable[str]) -> frozenset[str]:
    """Hosts in the form in which a certificate has them. Raises `Invalid`."""
    return _texts(_names(hosts))


def _texts(names: Iterable[x509.GeneralName]) -> frozenset[str]:
    return frozenset(str(name.value) for name in names)


def is_signed_by(certificate_pem: str, ca_pem: str) -> bool:
    """Whether this authority has signed this certificate. Raises `ValueError` where one of them is none."""
    certificate, ca = (x509.load_pem_x509_certificate(pem.encode()) for pem in (certificate_pem, ca_pem))
    try:
        certificate.verify_directly_issued_by(ca)
    except (InvalidSignature, ValueError, TypeError):  # as it says: another signature, name or kind of key
        return False
    return True


def days_left(certificate_pem: str) -> float:
    """Days until the first certificate in `certificate_pem` expires; negative when it has. Raises `Invalid`."""
    return read_certificate(certificate_pem).days_left(datetime.now(UTC))


def check_authority(certificate_pem: str, key_pem: str) -> None:
    """Raises `Invalid` unless these are an authority's certificate and key, and it can sign for long enough."""
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem.encode())
        basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        public_key = certificate.public_key()
    except _MALFORMED as error:
        raise Invalid(f"authority: not the certificate of an authority ({error})") from None
    if not basic.ca:
        raise Invalid("authority: this certificate may not sign others (CA:FALSE)")
    if public_key != _load(key_pem).public_key():
        raise Invalid("authority: the key does not belong to the certificate")
    if isinstance(public_key, rsa.RSAPublicKey) and public_key.key_size < RSA_BITS_MIN:
        raise Invalid(f"authority: an RSA key of {public_key.key_size} bits is too weak: {RSA_BITS_MIN} or more")
    if certificate.not_valid_before_utc > datetime.now(UTC):
        raise Invalid("authority: it is not valid yet")
    if days_left(certificate_pem) < AUTHORITY_DAYS_MIN:
        raise Invalid(f"authority: it expires within {AUTHORITY_DAYS_MIN} days; bring one that lasts")


def _builder(subject: x509.Name, issuer: x509.Name, key: _PublicKey, days: float) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + timedelta(days=days))
    )


def _names(hosts: Iterable[str]) -> x509.SubjectAlternativeName:
    names: list[x509.GeneralName] = []
    for host in dict.fromkeys(hosts):
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            names.append(_dns_name(host))
    return x509.SubjectAlternativeName(names)


def _dns_name(host: str) -> x509.DNSName:
    try:
        return x509.DNSName(host)
    except ValueError:
        raise Invalid(f"{host[:80]!r} is no host name that a certificate can hold: write it in ASCII") from None


def _issuer(ca: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """How the authority names its own key: there is more than one way to make such a name, and the two are compared."""
    try:
        own = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(cast(_PublicKey, ca.public_key()))
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def _load(key_pem: str) -> _PrivateKey:
    """Ours are EC keys; an authority that a user brings may have RSA. Raises `Invalid`."""
    try:
        key = serialization.load_pem_private_key(key_pem.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):  # TypeError: it is encrypted
        raise Invalid("key: expected an unencrypted private key, PEM") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise Invalid("key: expected an EC or RSA key")
    return key


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()
