"""RabbitMQ brokers on this machine that are one cluster. One can be cut off from the others while it stays alive."""

from collections.abc import Sequence
from pathlib import Path

from localcluster.broker import Broker, BrokerPorts, BrokerUser
from localcluster.ports import free_ports
from localcluster.process import Process, start

from shared.files import write_atomically

COOKIE = "ONECOOKIEFORALL"


class ClusteredBroker(Broker):
    """One of several. Their port mapper is a process of its own, which outlives each of them."""

    peers: Sequence[str] = ()

    def launch(self) -> Process:
        self.directory.mkdir(exist_ok=True)
        cookie = self.directory / ".erlang.cookie"
        if not cookie.exists():
            write_atomically(cookie, COOKIE, mode=0o400)
        return super().launch()

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
