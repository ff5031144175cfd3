"""Certificates whose time is over: a node's is no member's any more, a server's is believed by nobody. A node whose own
ran out while it was off has it renewed when it starts, with its token and for its own key, and for nothing else."""

import shutil
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID
from localcluster.cluster import Cluster
from localcluster.process import wait_until

from provider.client import Client as Remote
from provider.trust import pki
from shared.bus import Credentials
from shared.errors import BellwetherError
from shared.files import write_atomically
from shared.rabbitmq import RabbitLink
from shared.tls import client_context
from tests.support.api import Client, as_node, client
from tests.support.clusters import running
from tests.support.nodes import primary_of, standbys_of, wait_equal
from tests.support.tls_server import serving

EXPIRED_DAYS = -1 / 86_400
"""A second ago: certificates begin an hour before they are made."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running(tmp_path_factory.mktemp("expiring"), providers=2, databases=0) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def authority(cluster: Cluster) -> tuple[str, str]:
    """Certificate and key of the authority that signs, brought to the cluster: its key is nowhere to be read."""
    leader, brought = primary_of(cluster), pki.new_ca("brought")
    cluster.layout.ca.write_text(cluster.first.ca.read_text() + brought[0])
    admin = client(cluster, leader)
    made = admin.write("POST", "/authorities", {"certificate": brought[0], "key": brought[1]}).json
    admin.wait_for(
        "/cluster",
        lambda it: {node["certificate"]["authority"] for node in it["nodes"]} == {made["id"]},
    )
    return brought


def signed(authority: tuple[str, str], key: str, name: str, *, days: float) -> str:
    return pki.sign(pki.new_request(key, name), name, ("127.0.0.1", "localhost"), *authority, days=days)


# ── a node's ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_node_whose_certificate_has_expired(cluster: Cluster, authority: tuple[str, str], tmp_path: Path) -> None:
    """Signed by the cluster's authority, for the node's own key. With it nobody is let in, not even as a stranger."""
    leader, name = primary_of(cluster), standbys_of(cluster)[0]
    files = cluster.providers[name].files.directory
    for file in ("node.key", "node.token"):
        shutil.copy(files / file, tmp_path / file)
    key = (files / "node.key").read_text()
    (tmp_path / "node.pem").write_text(signed(authority, key, name, days=EXPIRED_DAYS))
    assert as_node(cluster, leader, files).get("/snapshot").status == 200, "the control"
    with pytest.raises(OSError):
        as_node(cluster, leader, tmp_path).get("/snapshot")
    (tmp_path / "node.pem").write_text(signed(authority, key, name, days=1))
    assert as_node(cluster, leader, tmp_path).get("/snapshot").status == 403, "a good one that is not on record"


def test_a_node_that_was_off_renews_it_at_start_and_goes_on(cluster: Cluster, authority: tuple[str, str]) -> None:
    leader, name = primary_of(cluster), standbys_of(cluster)[0]
    member = cluster.providers[name]
    files = member.files.directory
    assert member.process is not None
    member.process.stop()
    before, expired = (files / "node.pem").read_text(), ""
    expired = signed(authority, (files / "node.key").read_text(), name, days=EXPIRED_DAYS)
    write_atomically(files / "node.pem", expired, mode=0o644)
    written = client(cluster, leader).write("PUT", "/settings/user.while-off", {"value": 1}).headers
    member.launch()
    member.wait_ready()
    renewed = (files / "node.pem").read_text()
    assert renewed not in (before, expired)
    assert pki.read_certificate(renewed).key_sha256 == pki.read_certificate(before).key_sha256
    here = client(cluster, name)
    here.read("/cluster", Bellwether_Min_Revision=written["bellwether-revision"])
    assert here.read("/settings/user.while-off")["spec"]["value"] == 1
    here.write("PUT", "/settings/user.forwarded", {"value": 1})  # with its certificate, to the primary
    assert as_node(cluster, leader, files).get("/snapshot").status == 200
    wait_equal(cluster)


def request_for(key_pem: str, name: str, *hosts: str) -> str:
    """A signing request that says where the certificate should be good."""
    key = serialization.load_pem_private_key(key_pem.encode(), None)
    names = x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts])
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject).add_extension(names, critical=False)
    signed_request = builder.sign(key, hashes.SHA256())  # type: ignore[arg-type]
    return signed_request.public_bytes(serialization.Encoding.PEM).decode()


def test_what_a_stolen_token_gets(cluster: Cluster) -> None:
    """Without the node's key nothing; with it a certificate for that node, at its own address."""
    leader, name = primary_of(cluster), standbys_of(cluster)[0]
    files = cluster.providers[name].files.directory
    key, path = (files / "node.key").read_text(), f"/nodes/{name}/certificate"
    thief: Client = client(cluster, leader).holding((files / "node.token").read_text().strip())
    for csr in (pki.new_request(pki.new_key(), name), request_for(pki.new_key(), name, "127.0.0.1"), "", "x" * 5000):
        refused = thief.post(path, {"csr": csr})
        assert (400 <= refused.status < 500, b"BEGIN" in refused.body) == (True, False), refused
    mine = pki.new_request(key, name)
    tampered = mine.replace(mine.splitlines()[2], mine.splitlines()[2].swapcase())
    assert thief.post(path, {"csr": tampered}).status in (409, 422)
    for other in (leader, "nobody", f"{name}%2f..%2f{leader}"):
        assert thief.post(f"/nodes/{other}/certificate", {"csr": mine}).status in (403, 404)
    given = thief.post(path, {"csr": request_for(key, leader, "evil.example", "*", "localhost.evil.example")})
    assert given.status == 200, "the control: it is its own key"
    found = x509.load_pem_x509_certificate(given.json["certificate"].encode())
    assert [one.value for one in found.subject] == [name]
    shown = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert not [one for one in shown.get_values_for_type(x509.DNSName) if one != "localhost"]
    assert {str(one) for one in shown.get_values_for_type(x509.IPAddress)} == {"127.0.0.1"}
    assert not found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


# ── a server's ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def server(authority: tuple[str, str], tmp_path: Path) -> Callable[[float], ssl.SSLContext]:
    """The TLS of a server at 127.0.0.1 with a certificate that lives for so many days."""

    def make(days: float) -> ssl.SSLContext:
        key = pki.new_key()
        (tmp_path / "s.pem").write_text(signed(authority, key, "p1", days=days))
        (tmp_path / "s.key").write_text(key)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / "s.pem", tmp_path / "s.key")
        return context

    return make


def test_an_api_whose_certificate_has_expired(cluster: Cluster, server: Callable[[float], ssl.SSLContext]) -> None:
    """No token is sent to it: neither by commands and nodes, nor by agents."""
    for days, sent in ((1.0, True), (EXPIRED_DAYS, False)):
        with serving(server(days)) as (port, heard):
            tls = client_context(cluster.layout.ca)
            with pytest.raises(BellwetherError) as caught:
                Remote([f"https://127.0.0.1:{port}"], token="bw.admin.x.secret", tls=tls).get("/cluster")
        assert ("secret" in heard.text) == sent, "the control: it hears the token of whoever believes it"
        assert ("certificate" in caught.value.detail.lower()) != sent, caught.value


def test_a_broker_whose_certificate_has_expired(cluster: Cluster, server: Callable[[float], ssl.SSLContext]) -> None:
    """Providers and agents connect by the same link. It says no word to it, and says why."""
    for days, sent in ((1.0, True), (EXPIRED_DAYS, False)):
        with serving(server(days)) as (port, heard):
            why: list[str] = []
            link = RabbitLink(
                name="test",
                endpoints=[f"amqps://127.0.0.1:{port}"],
                credentials=Credentials("p1", "secret", str(cluster.layout.ca)),
                on_down=why.append,
            )
            link.start()
            try:
                wait_until(lambda: why, timeout_s=30, what="the link says nothing")  # noqa: B023
            finally:
                link.close()
        assert heard.text.startswith("AMQP") == sent
        assert ("certificate" in why[0].lower()) != sent, why
