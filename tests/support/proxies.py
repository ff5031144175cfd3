"""HAProxy as it is shipped, before the providers of a cluster on this machine."""

import csv
import http.client
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from balancing.configurations import haproxy
from balancing.options import HAProxy, Node, Options
from localcluster.cluster import Cluster
from localcluster.ports import free_ports
from localcluster.process import Process, start, wait_until

from tests.support.api import Client, client


@dataclass(frozen=True, slots=True)
class Proxy:
    """`any_node` and `leader` are the addresses of its two ports."""

    cluster: Cluster
    any_node: str
    leader: str
    stats: str
    process: Process
    ends_tls: bool

    def client(self, url: str | None = None) -> Client:
        """As administrator, through the proxy."""
        first = client(self.cluster, self.cluster.first.name)
        return Client(url or self.any_node, ca=first.ca, token=first.token)

    def servers(self, backend: str = "ready") -> Mapping[str, str]:
        """How it sees each node: UP, NOLB (draining), DOWN…"""
        with urllib.request.urlopen(f"{self.stats}/;csv", timeout=5) as answer:
            rows = csv.DictReader(answer.read().decode().removeprefix("# ").splitlines())
        found: dict[str, str] = {}
        for row in rows:
            if row["pxname"] == backend and row["svname"] in self.cluster.providers:
                found[row["svname"]] = row["status"]
        return found

    def wait_for(self, node: str, status: str, backend: str = "ready", *, timeout_s: float = 30.0) -> None:
        """Until it sees that node so: a beginning of the status. Raises `ProcessFailed`."""
        wait_until(
            lambda: self.servers(backend).get(node, "").startswith(status),
            timeout_s=timeout_s,
            what=f"{node} is not {status} for the proxy",
        )

    def wait_for_leader(self, node: str, *, timeout_s: float = 30.0) -> None:
        """Until the leader's port leads to that node alone: the one before it is UP for two more looks."""
        wait_until(
            lambda: [name for name, status in self.servers("leader").items() if status.startswith("UP")] == [node],
            timeout_s=timeout_s,
            what=f"the leader's port does not lead to {node}",
        )


def before(cluster: Cluster) -> tuple[Node, ...]:
    return tuple(Node.at(name, provider.url) for name, provider in cluster.providers.items())


@contextmanager
def proxied(cluster: Cluster, directory: Path, *, ends_tls: bool) -> Iterator[Proxy]:
    """HAProxy with the shipped configuration. `ends_tls`: with a certificate, which here is the first node's."""
    ports = free_ports(3)
    places = [f"127.0.0.1:{port}" for port in ports]
    certificate = directory / "own.pem"
    files = cluster.first.files.directory
    certificate.write_text((files / "node.pem").read_text() + (files / "node.key").read_text())
    certificate.chmod(0o600)
    options = Options(
        nodes=before(cluster),
        haproxy=HAProxy(
            listen=places[0],
            leader=places[1],
            stats=places[2],
            certificate=str(certificate) if ends_tls else None,
            user="",
            socket="",
            ca=str(cluster.layout.ca),
        ),
    )
    file = directory / "haproxy.cfg"
    file.write_text(haproxy(options))
    process = start(["haproxy", "-db", "-f", file], log=directory / "haproxy.log")
    proxy = Proxy(cluster, f"https://{places[0]}", f"https://{places[1]}", f"http://{places[2]}", process, ends_tls)

    def sees_all() -> bool:
        try:
            ready, leads = proxy.servers(), proxy.servers("leader")
        except (OSError, http.client.HTTPException):
            return False
        looked = all(status == "UP" for status in ready.values()) and set(leads.values()) <= {"UP", "NOLB"}
        return looked and len(ready) == len(cluster.providers) and list(leads.values()).count("UP") == 1

    try:
        wait_until(sees_all, timeout_s=30, what="haproxy", process=process)
        yield proxy
    finally:
        process.stop(grace_s=2)
