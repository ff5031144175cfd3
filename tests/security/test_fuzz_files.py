"""Invariant: what is read from files, tokens, requests for certificates and snapshots is taken, or refused with the one
error that is for people; never anything else."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from agent import brokerfile
from agent import settings as agent_settings
from agent.settings import AgentFiles
from provider.log.port import Position
from provider.settings import ApiSettings, BrokerSettings, ProviderSettings, load_settings, to_toml
from provider.snapshot import read_snapshot, write_snapshot
from provider.trust import pki
from shared.errors import BellwetherError, Invalid
from shared.tokens import hash_secret, matches, new_token, parse_token
from tests.support.fuzzing import damaged, effort, nearly, spoilt, text_of
from tests.support.history import accept_entry, accept_values, commit_of, genesis, put

CA = trustme.CA(key_type=trustme.KeyType.ECDSA).cert_pem.bytes().decode()


def refused_or(data: Any, read: Callable[[Any], object]) -> object:
    """What `read` makes of it; None where it refuses, in a sentence that can be printed."""
    try:
        return read(data)
    except Invalid as error:
        assert 0 < len(error.detail.encode()) < 20_000, "not for people"
        return None


def text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


# ── an agent's files ─────────────────────────────────────────────────────────────────────────────────────────────────

BROKER_JSON = {
    "epoch": 4, "primary": "p2", "endpoints": ["amqps://[::1]:5671"], "providers": ["https://10.0.0.1:8443"],
    "vhost": "bellwether", "ca": CA,
}  # fmt: skip


@effort(300)
@given(nearly([BROKER_JSON, BROKER_JSON | {"ca": "ca.pem"}, BROKER_JSON | {"endpoints": ["amqps://u:p@x:99999"]}]))
def test_broker_json(data: bytes) -> None:
    files = AgentFiles(Path("/nowhere/agent.toml"))
    refused_or(text(data), lambda given: brokerfile.parse(given, files))


def test_broker_json_of_any_bytes(tmp_path: Path) -> None:
    files = AgentFiles(tmp_path / "agent.toml")
    for content in (b"\xff\xfe", b"\xed\xa0\x80", b" " * 2_000_000, b"", b"\x00" * 10):
        files.broker.write_bytes(content)
        assert refused_or(files, brokerfile.read) is None


AGENT_TOML = """
id = "db1"
pulse_s = 2.0
[[instances]]
id = "db1"
engine = "mariadb"
socket = "/run/mysqld/mysqld.sock"
probe_s = 1.5
[[instances]]
id = "db2"
host = "127.0.0.1"
port = 3306
"""
TOML_NOISE = st.sampled_from([
    "\x00", "=", "[[", '"', "'''", "1979-05-27T07:32:00Z", "nan", "-inf", "0x" + "f" * 5_000,
    "9" * 5_000, "1e999", "a." * 500, "[" * 5_000, "{a=" * 2_000, "\\u0000", "\ud800", "é", "\r",
    "\n\n[instances]\n",
])  # fmt: skip


@st.composite
def spoilt_toml(draw: st.DrawFn, original: str) -> str:
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(original)))
        cut = draw(st.integers(0, 6))
        original = original[:at] + draw(TOML_NOISE) + original[at + cut :]
    return original


@effort(300)
@given(spoilt_toml(AGENT_TOML))
def test_agent_toml(given_text: str) -> None:
    refused_or(given_text, lambda it: agent_settings.parse_settings(it, Path("/etc/bellwether/agent.toml")))


# ── a provider's ─────────────────────────────────────────────────────────────────────────────────────────────────────

PROVIDER_TOML = to_toml(
    ProviderSettings(
        name="p1", url="https://127.0.0.1:1", data_dir=Path("/x"), store_url="sqlite:////x",
        broker=BrokerSettings(endpoints=("amqps://127.0.0.1:2",), management="https://127.0.0.1:3", username="u"),
        api=ApiSettings(listen="127.0.0.1:1"),
    )
)  # fmt: skip


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "provider.toml"


@effort(200)
@given(given_text=spoilt_toml(PROVIDER_TOML))
def test_provider_toml(file: Path, given_text: str) -> None:
    file.write_bytes(given_text.encode("utf-8", "surrogatepass"))
    refused_or(file, load_settings)


# ── tokens ───────────────────────────────────────────────────────────────────────────────────────────────────────────

TOKENS = [new_token("admin").text(), new_token("node", "f" * 64).text(), "bw.viewer.a.b"]


@effort(300)
@given(st.sampled_from(TOKENS).flatmap(lambda token: spoilt(token.encode())) | st.binary(max_size=100))
def test_tokens(data: bytes) -> None:
    for it in (data.decode("latin-1"), text(data)):
        token = refused_or(it, parse_token)
        if token is not None:
            assert parse_token(token.text()) == token  # type: ignore[attr-defined]
            assert not matches(token, hash_secret("another"))  # type: ignore[arg-type]


def test_a_token_that_is_none_is_not_repeated() -> None:
    for wrong in ("bw.admin.secret", "bw.root.a.secret", "bw..a.secret", "x.admin.a.secret", "bw.admin.a.b.secret.d"):
        with pytest.raises(Invalid) as refused:
            parse_token(wrong)
        assert "secret" not in refused.value.detail.replace("<secret>", "")


# ── certificates ─────────────────────────────────────────────────────────────────────────────────────────────────────

CA_PEM, CA_KEY = pki.new_ca("fuzz")
EC = ec.generate_private_key(ec.SECP256R1())
HOSTS = x509.SubjectAlternativeName([x509.DNSName("p9.example")])
NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "p9")])


SHA256 = hashes.SHA256()


def request_of(
    key: Any, *extensions: tuple[x509.ExtensionType, bool], digest: Any = SHA256, name: x509.Name = NAME
) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(key, digest).public_bytes(serialization.Encoding.DER)


REQUESTS = {
    "good": request_of(EC, (HOSTS, False)),
    "no names": request_of(EC),
    "RSA": request_of(rsa.generate_private_key(65537, 2048), (HOSTS, False)),
    "Ed25519": request_of(ed25519.Ed25519PrivateKey.generate(), (HOSTS, False), digest=None),
    "an authority": request_of(EC, (HOSTS, False), (x509.BasicConstraints(ca=True, path_length=None), True)),
    "another curve": request_of(ec.generate_private_key(ec.SECP521R1()), (HOSTS, False), digest=hashes.SHA512()),
    "another name": request_of(EC, (HOSTS, False), name=x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "p1")])),
}


def pem(der: bytes, kind: str = "CERTIFICATE REQUEST") -> str:
    import base64

    return f"-----BEGIN {kind}-----\n{base64.encodebytes(der).decode()}-----END {kind}-----\n"


def sign(request_pem: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pki.sign(request_pem, "p9", ("127.0.0.1",), CA_PEM, CA_KEY).encode())


@st.composite
def spoilt_request(draw: st.DrawFn) -> str:
    der = bytearray(draw(st.sampled_from(list(REQUESTS.values()))))
    for _ in range(draw(st.integers(0, 3))):
        der[draw(st.integers(0, len(der) - 1))] = draw(st.integers(0, 255))
    whole = pem(bytes(der))
    return text(draw(spoilt(whole.encode()))) if draw(st.booleans()) else whole


@effort(300)
@given(spoilt_request())
def test_requests_for_certificates(request_pem: str) -> None:
    made = refused_or(request_pem, sign)
    if made is not None:
        check_only_a_node(made)  # type: ignore[arg-type]


@pytest.mark.parametrize("what", REQUESTS)
def test_a_request_says_nothing_but_key_and_hosts(what: str) -> None:
    made = refused_or(pem(REQUESTS[what]), sign)
    assert (made is None) == (what in ("RSA", "Ed25519"))
    if made is not None:
        check_only_a_node(made)  # type: ignore[arg-type]


def check_only_a_node(made: x509.Certificate) -> None:
    assert made.subject == NAME
    assert not made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert not made.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign


# ── snapshots ────────────────────────────────────────────────────────────────────────────────────────────────────────


def some_lines() -> list[str]:
    state = accept_values(genesis(), [1, {"a": [None]}, "x"])[-1].state
    state = accept_entry(state, commit_of(put("user.y"), key="k")).state
    return list(write_snapshot(state, Position(5, "00")))


LINES = some_lines()


@st.composite
def spoilt_lines(draw: st.DrawFn) -> list[str]:
    lines = list(LINES)
    for _ in range(draw(st.integers(1, 2))):
        at = draw(st.integers(0, len(lines) - 1))
        match draw(st.sampled_from(["damage", "damage", "inner", "spoil", "drop", "repeat", "swap"])):
            case "damage":
                lines[at] = text_of(draw(damaged(json.loads(LINES[min(at, len(LINES) - 1)]))))
            case "inner":
                what, inner = json.loads(LINES[min(max(at, 1), len(LINES) - 2)])
                lines[at] = json.dumps([what, text_of(draw(damaged(json.loads(inner))))])
            case "spoil":
                lines[at] = text(draw(spoilt(lines[at].encode("utf-8", "replace"))))
            case "drop" if len(lines) > 1:
                del lines[at]
            case "repeat":
                lines.insert(at, lines[at])
            case _:
                lines[at], lines[0] = lines[0], lines[at]
    return lines


@effort(500)
@given(spoilt_lines())
def test_snapshots(lines: list[str]) -> None:
    found = refused_or(lines, read_snapshot)
    if found is not None:
        again = read_snapshot(write_snapshot(*found))  # type: ignore[misc]
        assert again == found


def test_what_is_refused_is_ours() -> None:
    """The one error for people, which every command and route prints."""
    assert issubclass(Invalid, BellwetherError)
