"""Certificate authorities as users bring them: made in ways that are not ours."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import NameOID

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
    """PEM."""

    certificate: str
    key: str


def named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def pem(key: Any) -> str:
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return str(key.private_bytes(*form).decode())


def authority(
    key: Any = P256,
    *more: x509.ExtensionType,
    name: str = "own",
    basic: x509.BasicConstraints = BASIC,
    days: float = 400,
    begins: float = -1,
    parent: tuple[str, Any] | None = None,
) -> Brought:
    issuer, signer = parent or (name, key)
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(named(name))
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


def chain(key: Any = P256, *, days: float = 400) -> Brought:
    """One that another has signed, with that other behind it, as authorities are handed out in companies."""
    parent = authority(PARENT_KEY, name="parent", basic=x509.BasicConstraints(ca=True, path_length=None))
    own = authority(key, days=days, parent=("parent", PARENT_KEY))
    return Brought(f"Subject: Müller\n{own.certificate}\nissuer=own\n{parent.certificate}", own.key)
