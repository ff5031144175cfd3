"""RabbitMQ brokers on this machine that are one cluster. One can be cut off from the others while it stays alive."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from localcluster.broker import Broker, BrokerPorts, BrokerUser
from localcluster.cluster import Cluster
from localcluster.ports import free_ports
from localcluster.process import Process, start
from localcluster.steps import Tell, quiet

from shared.files import write_atomically

COOKIE = "ONECOOKIEFORALL"


class ClusteredBroker(Broker):
    """One of several. Their port mapper is not its own, and stays when it ends."""

    peers: Sequence[str] = ()
    cookie = COOKIE

    def _write_files(self) -> None:
        cookie = self.directory / ".erlang.cookie"
        if not cookie.exists():
            write_atomically(cookie, self.cookie, mode=0o400)
        super()._write_files()

    @classmethod
    def beside(cls, first: Broker, directory: Path, ports: BrokerPorts, name: str) -> Self:
        """One more for the cluster of `first`: the same users, certificate and owner."""
        return cls(
            directory,
            ports,
            certificate=first.certificate,
            key=first.key,
            ca=first.ca,
            users=first.users,
            name=f"bellwether-{name}",
            owner=first.owner,
        )

    def cut_off(self) -> None:
        """From now on it and the others take each other for dead. It goes on serving its clients until it is started
        anew."""
        self.ctl("eval", "[begin erlang:set_cookie(N, cut), erlang:disconnect_node(N) end || N <- nodes()].")

    def _await_port_mapper(self) -> None:
        """It is there, and stays."""

    def _configuration(self) -> str:
        known = [f"cluster_formation.classic_config.nodes.{n} = {peer}" for n, peer in enumerate(self.peers, start=1)]
        lines = ["cluster_formation.peer_discovery_backend = classic_config", *known]
        return super()._configuration() + "\n".join(lines) + "\n"


def start_cluster(
    root: Path, names: Sequence[str], *, certificate: Path, key: Path, ca: Path, users: Sequence[BrokerUser]
) -> tuple[list[ClusteredBroker], Process]:
    """Brokers of these names, running as one cluster; and their port mapper, to be ended after them."""
    (epmd,) = free_ports(1)
    mapper = start(["epmd", "-port", str(epmd), "-address", "127.0.0.1"], log=root / "epmd.log")
    brokers = []
    for name in names:
        amqps, distribution = free_ports(2)
        ports = BrokerPorts(amqps, distribution, epmd)
        made = ClusteredBroker(root / name, ports, certificate=certificate, key=key, ca=ca, users=users, name=name)
        made.peers = [f"{one}@127.0.0.1" for one in names]
        brokers.append(made)
    brokers[0].start()  # it finds nobody, and begins the cluster
    for made in brokers[1:]:
        made.launch()
    for made in brokers[1:]:
        made.wait_ready()
    running = brokers[0].ctl("eval", "length(rabbit_nodes:all_running()).").strip()
    assert running == str(len(names)), f"{running} of {len(names)} are one cluster"
    return brokers, mapper


class BrokersCluster(Cluster):
    """As quickstart's, with a broker for each provider, as agents are advised. The providers themselves use the first
    one: RabbitMQ 3.10 has streams in clusters, and not dependable ones."""

    def __init__(self, root: Path, *, providers: int = 3, tell: Tell = quiet) -> None:
        super().__init__(root, providers=providers, databases=0, tell=tell)
        self.brokers: dict[str, Broker] = {self.first.name: self.broker}
        self._one_by_one = threading.Lock()

    def endpoint(self, provider: str) -> str:
        return self.brokers[provider].endpoint

    def _run_standby(self, name: str) -> None:
        provider, token = self.providers[name], self.layout.tokens / name
        with self._one_by_one:
            own = self.brokers[name] = self._another(name)
            own.start()
            options = ["--broker-endpoint", own.endpoint, "--broker-management", self.broker.management]
            known = ["--name", name, "--url", provider.url, "--token-file", str(token)]
            provider.command("join", self.first.url, *known, *options)
            config = provider.files.config
            config.write_text(config.read_text().replace(own.endpoint, self.broker.endpoint))
        token.unlink()
        self._run(name)

    def _another(self, name: str) -> ClusteredBroker:
        first = self.broker
        amqps, distribution = free_ports(2)
        ports = BrokerPorts(amqps, distribution, first.ports.epmd)
        made = ClusteredBroker.beside(first, self.layout.root / f"broker-{name}", ports, name)
        made.cookie = (first.directory / ".erlang.cookie").read_text()
        made.peers = [first.node]
        return made

    def kill_all(self) -> None:
        super().kill_all()
        for broker in self.brokers.values():
            if broker.process is not None:
                broker.kill()
