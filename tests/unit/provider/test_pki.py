"""The cluster's authority: what it signs is trusted by whoever trusts it, and it signs what it was meant to alone."""

import ssl
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from provider.trust import pki
from shared.errors import Invalid
from shared.tls import client_context, fingerprint, pinned

CA, CA_KEY = pki.new_ca("Bellwether test")
KEY = pki.new_key()


def signed(hosts: tuple[str, ...] = ("127.0.0.1", "localhost"), *, name: str = "p2") -> x509.Certificate:
    return x509.load_pem_x509_certificate(pki.sign(pki.new_request(KEY, name), name, hosts, CA, CA_KEY).encode())


def request(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, *extensions: x509.ExtensionType) -> str:
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "root")])
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=True)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def test_a_node_is_trusted_by_whoever_trusts_the_authority(tmp_path: Path) -> None:
    for name, text in (("ca.pem", CA), ("node.key", KEY)):
        (tmp_path / name).write_text(text)
    (tmp_path / "node.pem").write_text(pki.sign(pki.new_request(KEY, "p2"), "p2", ("127.0.0.1",), CA, CA_KEY))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "node.pem", tmp_path / "node.key")
    assert _handshake(server, client_context(tmp_path / "ca.pem"), "127.0.0.1") is None
    assert "mismatch" in str(_handshake(server, client_context(tmp_path / "ca.pem"), "127.0.0.2"))
    other, _ = pki.new_ca("Bellwether test")
    (tmp_path / "other.pem").write_text(other)
    assert "verify failed" in str(_handshake(server, client_context(tmp_path / "other.pem"), "127.0.0.1"))


def _handshake(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> ssl.SSLError | None:
    """What the client says of the server."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        client.wrap_bio(to_client, to_server, server_hostname=name),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(5):
        for side in sides:
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLError as error:
                return error
    return None


def test_a_certificate_is_for_the_names_and_addresses_that_the_signer_says() -> None:
    certificate = signed(("10.0.0.2", "db.example", "db.example", "::1"), name="p2")
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["db.example"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.2", "::1"]
    assert certificate.subject.rfc4514_string() == "CN=p2"
    assert pki.days_left(certificate.public_bytes(serialization.Encoding.PEM).decode()) == pytest.approx(90, abs=1)


def test_nobody_becomes_an_authority_by_asking() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    wants = request(
        key,
        x509.SubjectAlternativeName([x509.DNSName("x")]),
        x509.BasicConstraints(ca=True, path_length=None),
        x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.CODE_SIGNING]),
    )
    certificate = x509.load_pem_x509_certificate(pki.sign(wants, "p2", ("p2.example",), CA, CA_KEY).encode())
    assert certificate.subject.rfc4514_string() == "CN=p2", "whatever name the request bore"
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["p2.example"], "wherever the request said that it was"
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert not certificate.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert x509.oid.ExtendedKeyUsageOID.CODE_SIGNING not in usages


@pytest.mark.parametrize("host", ["p\u00fc", "\ud800", "a\u2028b"])
def test_a_host_that_no_certificate_can_hold_is_refused(host: str) -> None:
    with pytest.raises(Invalid, match="ASCII"):
        signed((host,))


def _altered(text: str) -> str:
    lines = text.splitlines()
    lines[-2] = "AAAA" + lines[-2][4:]
    return "\n".join(lines) + "\n"


BAD = {
    "nothing": "",
    "no request": "no request",
    "a certificate": CA,
    "half": pki.new_request(KEY, "p2")[:200],
    "RSA": request(rsa.generate_private_key(65537, 2048), x509.SubjectAlternativeName([x509.DNSName("x")])),
    "another's signature": _altered(pki.new_request(KEY, "p2")),
    "letters that are none": "-----BEGIN CERTIFICATE REQUEST-----\né\n-----END CERTIFICATE REQUEST-----\n",
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_request_is_refused(what: str) -> None:
    with pytest.raises(Invalid, match="csr"):
        pki.sign(BAD[what], "p2", ("127.0.0.1",), CA, CA_KEY)


def test_a_fingerprint_is_the_authoritys_own() -> None:
    other, _ = pki.new_ca("Bellwether test")
    assert fingerprint(CA) == fingerprint(CA + "\n") != fingerprint(other)
    with pytest.raises(ValueError):
        fingerprint("no certificate")


def test_the_pinned_authority_is_found_among_several_and_alone() -> None:
    """While the authority is replaced there are two. (How many bytes a certificate has differs from one to the next: of
    some lengths, Python's own way to read PEM takes two together for neither.)"""
    for number in range(12):
        first, _ = pki.new_ca("Bellwether " + "x" * number)
        second, _ = pki.new_ca("Bellwether new")
        both = first.strip() + "\n" + second
        assert fingerprint(both) == fingerprint(first)
        assert pinned(both, fingerprint(first)) == first
        assert pinned(both, fingerprint(second)) == second
        assert pinned(first, fingerprint(second)) is None
    with pytest.raises(ValueError):
        pinned("no certificate", fingerprint(CA))


def test_keys_are_made_in_many_threads_and_are_all_different() -> None:
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(pki.new_key())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 8
