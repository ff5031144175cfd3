"""Certificates renew, the authority is replaced, a node goes: nobody who belongs is refused meanwhile, and nobody who
does not belong any more gets in."""

import shutil
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from localcluster.cluster import Cluster
from localcluster.process import wait_until
from pika.exceptions import AMQPError

from provider.trust import pki
from shared.tls import client_context
from tests.cluster.conftest import StartCluster
from tests.support.amqp import channel
from tests.support.api import Client, as_node, client
from tests.support.authorities import chain
from tests.support.nodes import command, primary_of, standbys_of, suspended, wait_equal
from tests.support.writers import check_promises, running


@pytest.fixture(scope="module")
def own(start_cluster: StartCluster) -> Cluster:
    return start_cluster(providers=3, databases=1)


def shown(port: int, ca: Path) -> pki.Certificate:
    """The certificate that is shown to who connects now. Raises `ssl.SSLError` for one that `ca` does not vouch for."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
        client_context(ca).wrap_socket(plain, server_hostname="127.0.0.1") as tls,
    ):
        der = tls.getpeercert(binary_form=True)
    assert der is not None
    return pki.read_der(der)


def wait_shown(cluster: Cluster, holds: Callable[[pki.Certificate], bool], what: str) -> None:
    """Until each node shows a certificate of which that holds."""
    for name, port in [(name, cluster.ports[name]) for name in cluster.providers]:
        ca = cluster.providers[name].ca
        wait_until(lambda p=port, c=ca: holds(shown(p, c)), timeout_s=20, what=f"{name}: {what}")  # type: ignore[misc]


def reload_broker(cluster: Cluster) -> None:
    """It reads its files again every two minutes by itself."""
    cluster.broker.ctl("eval", "ssl:clear_pem_cache().")


def days_left(node: Client) -> dict[str, float]:
    return {n["name"]: n["certificate"]["days_left"] for n in node.read("/cluster")["nodes"]}


def test_certificates_renew_by_themselves_and_without_a_restart(own: Cluster) -> None:
    admin = client(own, primary_of(own))
    before = {name: shown(own.ports[name], own.layout.ca).sha256 for name in own.providers}
    pids = {name: provider.process.pid for name, provider in own.providers.items() if provider.process}
    with running(own, roaming=2) as load:
        admin.write("PUT", "/settings/certificates.days", {"value": 10})
        wait_shown(own, lambda certificate: certificate.days < 11, "its certificate is still the old one")
        load.wait_for_more()
    assert load.failures == []
    assert all(shown(own.ports[name], own.layout.ca).sha256 != before[name] for name in own.providers)
    assert all(9 < days <= 10 for days in days_left(admin).values())
    said = command(own, "p1", "provider", "status")
    assert "certificates, days left: p1 10, p2 10, p3 10" in said.out
    assert "bellwether_certificate_days 9." in admin.holding(None).get("/metrics").body.decode()
    assert pids == {name: provider.process.pid for name, provider in own.providers.items() if provider.process}


def test_every_certificate_is_also_for_the_hosts_that_are_set(own: Cluster) -> None:
    """A load balancer's name, an address that moves with the primary: shown without a restart, and taken away again."""
    admin = client(own, standbys_of(own)[0])
    hosts = {"api.example.org", "10.77.0.9"}
    before = shown(own.ports["p1"], own.layout.ca).hosts
    admin.write("PUT", "/settings/cluster.certificate_hosts", {"value": sorted(hosts)})
    wait_shown(own, lambda certificate: certificate.hosts == before | hosts, "it is not for the hosts that were set")
    wrong = admin.put("/settings/cluster.certificate_hosts", {"value": ["https://api.example.org"]})
    assert (wrong.status, wrong.code) == (422, "invalid")
    admin.write("DELETE", "/settings/cluster.certificate_hosts")
    wait_shown(own, lambda certificate: certificate.hosts == before, "it is still for the hosts of before")


def test_the_authority_is_replaced_and_nobody_is_refused(own: Cluster, tmp_path: Path) -> None:
    admin = client(own, primary_of(own))
    before = admin.read("/cluster")["revision"]
    old = admin.read("/authorities")["items"][0]["id"]
    only_old = tmp_path / "old.pem"
    shutil.copyfile(own.layout.ca, only_old)
    with running(own, roaming=2) as load:
        rotated = command(own, standbys_of(own)[0], "provider", "ca", "rotate")
        assert rotated.code == 0, rotated
        shutil.copyfile(own.first.ca, own.layout.ca)
        admin.wait_for("/authorities", lambda found: _unused(found, old))
        load.wait_for_more()
        refused = command(own, "p1", "provider", "ca", "drop", old)
        assert "could not be trusted" in refused.err, "the broker still shows the old one"
        reload_broker(own)
        dropped = command(own, "p1", "provider", "ca", "drop", old)
        assert dropped.code == 0, dropped
        admin.wait_for("/authorities", lambda found: [one["id"] for one in found["items"]] != [old])
        wait_until(
            lambda: all(p.ca.read_text().count("BEGIN") == 1 for p in own.providers.values()),
            timeout_s=30,
            what="a node still trusts the old authority",
        )
        shutil.copyfile(own.first.ca, own.layout.ca)
        load.wait_for_more()
    assert load.failures == []
    check_promises(own, load, after=before)
    wait_equal(own)
    admin.wait_for("/agents/db1", lambda agent: agent["status"]["advised"] and agent["status"]["state"] == "online")
    agent_ca = own.agents["db1"].files.directory / "ca.pem"
    wait_until(
        lambda: agent_ca.read_text() == own.first.ca.read_text(),
        timeout_s=30,
        what="the agent trusts others",
    )
    own.kill("db1")
    own.start("db1")
    for port in (*(own.ports[name] for name in own.providers), own.ports["broker"]):
        with pytest.raises(ssl.SSLError):
            shown(port, only_old)


def test_a_node_that_has_lost_its_renewed_certificate_gets_another(own: Cluster) -> None:
    """It ended between the moment when it was given one and the moment when that was on its disk, and comes back when
    the authority of the one before is trusted no more."""
    leader, lost = primary_of(own), standbys_of(own)[0]
    admin, bundle = client(own, leader), own.providers[leader].ca
    pem = own.providers[lost].files.directory / "node.pem"
    old, before = admin.read("/authorities")["items"][0]["id"], pem.read_text()
    assert command(own, "p1", "provider", "ca", "rotate").code == 0
    shutil.copyfile(own.first.ca, own.layout.ca)
    admin.wait_for("/authorities", lambda found: _unused(found, old))
    own.kill(lost)
    pem.write_text(before)
    reload_broker(own)
    dropped = command(own, leader, "provider", "ca", "drop", old)
    assert dropped.code == 0, dropped
    own.providers[lost].launch()
    wait_until(
        lambda: _is_shown(own.ports[lost], bundle),
        timeout_s=30,
        what=f"{lost} shows one of the old authority",
    )
    shutil.copyfile(bundle, own.layout.ca)
    wait_equal(own)


def test_a_node_that_was_away_while_the_authority_was_replaced_is_helped_with_one_file(own: Cluster) -> None:
    leader, away = primary_of(own), standbys_of(own)[0]
    admin, bundle = client(own, leader), own.providers[leader].ca
    old = admin.read("/authorities")["items"][0]["id"]
    own.kill(away)
    assert command(own, leader, "provider", "ca", "rotate").code == 0
    found = admin.read("/authorities")["items"]
    new = next(one["id"] for one in found if one["id"] != old)
    admin.wait_for("/authorities", lambda found: {away} == {n for one in found["items"] for n in _missing(one)})
    shutil.copyfile(bundle, own.layout.ca)
    assert command(own, leader, "provider", "ca", "sign", new, "--force").code == 0
    admin.wait_for("/authorities", lambda found: any(one["status"]["used_by"] == [away] for one in found["items"]))
    reload_broker(own)
    assert "still in use" in command(own, leader, "provider", "ca", "drop", old, "--force").err
    own.providers[away].ca.write_text("# für p3\n" + bundle.read_text())
    own.providers[away].launch()
    admin.wait_for("/authorities", lambda found: _unused(found, old))
    wait_equal(own)
    assert command(own, leader, "provider", "ca", "drop", old).code == 0
    wait_until(
        lambda: (
            {provider.ca.read_text() for provider in own.providers.values()} == {bundle.read_text()}
            and bundle.read_text().count("BEGIN") == 1
        ),
        timeout_s=30,
        what="a node still trusts the old authority",
    )
    shutil.copyfile(bundle, own.layout.ca)


def _missing(authority: object) -> list[str]:
    assert isinstance(authority, dict)
    return [str(name) for name in authority["status"]["not_trusted_by"]]


def _is_shown(port: int, ca: Path) -> bool:
    try:
        return bool(shown(port, ca))
    except OSError:
        return False


def _unused(found: object, authority: str) -> bool:
    assert isinstance(found, dict)
    return any(one["id"] == authority and not one["status"]["used_by"] for one in found["items"])


def test_a_stolen_token_gets_no_certificate(own: Cluster) -> None:
    """A node's token alone has its certificate renewed, since that may have expired; but for the node's own key."""
    leader, standby = primary_of(own), standbys_of(own)[0]
    files = own.providers[standby].files.directory
    thief = client(own, leader).holding((files / "node.token").read_text().strip())
    path = f"/nodes/{standby}/certificate"
    stolen = thief.post(path, {"csr": pki.new_request(pki.new_key(), standby)})
    assert (stolen.status, stolen.code) == (409, "refused")
    mine = pki.new_request((files / "node.key").read_text(), standby)
    assert thief.post(f"/nodes/{leader}/certificate", {"csr": mine}).code == "forbidden"
    renewed = thief.post(path, {"csr": mine})
    assert renewed.status == 200, renewed
    as_node(own, leader, files).read("/tokens")  # the certificate before the last is still good


def test_an_authority_of_the_users_own_that_ends_soon(own: Cluster, tmp_path: Path) -> None:
    """An RSA key, signed by another authority, and it ends before a third of what certificates are to live is over."""
    admin, brought = client(own, primary_of(own)), chain(rsa.generate_private_key(65537, 2048), days=31)
    (tmp_path / "ca.pem").write_text(brought.certificate)
    (tmp_path / "ca.key").write_text(brought.key)
    old = admin.read("/authorities")["items"][0]["id"]
    admin.write("PUT", "/settings/certificates.days", {"value": 365})
    files = ["--ca-certificate", str(tmp_path / "ca.pem"), "--ca-key", str(tmp_path / "ca.key")]
    rotated = command(own, "p1", "provider", "ca", "rotate", *files)
    assert rotated.code == 0, rotated
    shutil.copyfile(own.first.ca, own.layout.ca)
    admin.wait_for("/authorities", lambda found: _unused(found, old))
    reload_broker(own)
    assert command(own, "p1", "provider", "ca", "drop", old).code == 0
    wait_shown(own, lambda certificate: 30 < certificate.days < 32, "it is not signed by the new authority")
    shutil.copyfile(own.first.ca, own.layout.ca)
    renewed = {n["name"]: n["certificate"] for n in admin.read("/cluster")["nodes"]}
    with running(own, roaming=1) as load:
        load.wait_for_more()
    assert load.failures == []
    assert {n["name"]: n["certificate"] for n in admin.read("/cluster")["nodes"]} == renewed, "renewed without a gain"
    assert command(own, "p1", "provider", "ca", "rotate").code == 0
    admin.wait_for("/authorities", lambda found: sum(not one["status"]["used_by"] for one in found["items"]) == 1)
    shutil.copyfile(own.first.ca, own.layout.ca)
    reload_broker(own)


def test_a_node_that_was_removed_is_out(own: Cluster) -> None:
    """With everything that it had: certificate, token, broker user, data keys."""
    gone, stays = standbys_of(own)
    admin = client(own, primary_of(own))
    files = own.providers[gone].files.directory
    password = (files / "broker.password").read_text().strip()
    with channel(own, f"node.{gone}", password):
        pass  # it is let in
    as_before = as_node(own, stays, files)
    as_before.read("/tokens")
    with suspended(own, gone):  # so that it cannot read of it in the log
        revision = admin.write("DELETE", f"/nodes/{gone}").headers["bellwether-revision"]
        client(own, stays).read("/cluster", Bellwether_Min_Revision=revision)
        assert as_before.get("/tokens").status == 401
        wait_until(lambda: not _let_in(own, f"node.{gone}", password), timeout_s=30, what="the broker still lets it in")
    zombie = client(own, gone)
    wait_until(
        lambda: zombie.get("/health/ready").status == 503, timeout_s=30, what="it does not notice that it is out"
    )
    assert b"was removed" in zombie.get("/health/ready").body

    account = f"/instances/db1/accounts/after_{gone}"
    admin.write("PUT", account, {"password": "sealed with the next key"})
    admin.wait_for(account, lambda found: found["status"]["phase"] == "ready")
    own.kill(gone)


def _let_in(cluster: Cluster, user: str, password: str) -> bool:
    try:
        with channel(cluster, user, password):
            return True
    except AMQPError:
        return False
