"""The brokers of a plant: one for all, or one on each provider's host. Several are one RabbitMQ cluster, tuned as
`broker-setup cluster` does it."""

import json
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

from localcluster.broker import VHOST, BrokerPorts
from localcluster.ports import kept_ports
from localcluster.process import Process, ProcessFailed, start

from shared.files import write_atomically
from tests.support.clustered import ClusteredBroker

_TUNED = """[
 {kernel, [{net_ticktime, 8}, {net_setuptime, 1.5}]},
 {aten, [{poll_interval, 1000}]},
 {rabbit, [{stream_tick_interval, 1000}]}
].
"""
_COPIES = """
Wanted = rabbit_nodes:all(),
Of = fun(Queue) ->
    Info = rabbit_stream_queue:info(Queue, [name, online]),
    {resource, _, queue, Name} = proplists:get_value(name, Info),
    {Name, Wanted -- proplists:get_value(online, Info)}
end,
Streams = [Queue || Queue <- rabbit_amqqueue:list(<<"%s">>), rabbit_stream_queue =:= amqqueue:get_type(Queue)],
io:format("~ts~n", [rabbit_json:encode(maps:from_list([Of(Queue) || Queue <- Streams]))]).
"""


class PlantBroker(ClusteredBroker):
    """Its log is on no disk of its host: it is to be read after a bad day."""

    @property
    def log(self) -> Path:
        return self.directory.parent / f"{self.directory.name}.log"

    def _write_files(self) -> None:
        super()._write_files()
        if len(self.peers) > 1:
            write_atomically(self.directory / "advanced.config", _TUNED)

    def _configuration(self) -> str:
        several = "cluster_partition_handling = pause_minority\n" if len(self.peers) > 1 else ""
        return super()._configuration() + several


class Brokers:
    """By member: `broker`, which is there first, and `broker-p2`, …"""

    def __init__(self, first: PlantBroker, hosts: Collection[str], ports_file: Path) -> None:
        """`hosts`: the providers that have a broker of their own on their host; none: `first` is for all."""
        self._first = first
        self.all: dict[str, PlantBroker] = {"broker": first}
        self._of_host: dict[str, str] = {}
        for host in hosts:
            name = f"broker-{host}" if self._of_host else "broker"
            self._of_host[host] = name
            if name not in self.all:
                self.all[name] = self._another(name, kept_ports(ports_file, [name, f"{name}-mgmt", f"{name}-dist"]))
        for broker in self.all.values():
            broker.peers = [other.node for other in self.all.values()]
        self._mapper: Process | None = None

    def _another(self, name: str, ports: Mapping[str, int]) -> PlantBroker:
        first = self._first
        own = BrokerPorts(ports[name], ports[f"{name}-dist"], first.ports.epmd, management=ports[f"{name}-mgmt"])
        return PlantBroker.beside(first, first.directory.with_name(name), own, name)

    @property
    def several(self) -> bool:
        return len(self.all) > 1

    @property
    def ports(self) -> tuple[int, ...]:
        """Where members reach them."""
        return tuple(
            port
            for broker in self.all.values()
            for port in (broker.ports.amqps, broker.ports.management)
            if port is not None
        )

    def on(self, host: str) -> list[str]:
        """The broker on that provider's host, if it has one of its own."""
        return [name for provider, name in self._of_host.items() if provider == host]

    def told(self, command: tuple[str, ...], host: str) -> tuple[str, ...]:
        """`provider init` or `join` that is told of all brokers, that of the host itself first. As it was, where there
        is one: `init` is told of it, and `join` by the others."""
        if not self.several:
            return command
        own = self.on(host) or ["broker"]
        order = [*own, *(name for name in self.all if name not in own)]
        options = [word for name in order for word in ("--broker-endpoint", self.all[name].endpoint)]
        if command[0] == "init":  # that of the first host is there already
            return (*command, *options[2:])
        return (*command, *options, "--broker-management", self.all[own[0]].management)

    def start(self) -> None:
        """The first one begins the cluster, the others join it. Raises `ProcessFailed`."""
        log = self._first.directory.with_name("epmd.log")
        self._mapper = start(["epmd", "-port", str(self._first.ports.epmd), "-address", "127.0.0.1"], log=log)
        self.begin()

    def begin(self) -> None:
        """As `start`, where they are to hold nothing. Raises `ProcessFailed`."""
        self._first.start()
        others = [broker for broker in self.all.values() if broker is not self._first]
        for broker in others:
            broker.launch()
        for broker in others:
            broker.wait_ready()

    @property
    def running(self) -> bool:
        """Whether any of them is."""
        return any(broker.process is not None and broker.process.alive for broker in self.all.values())

    def lose_everything(self) -> None:
        """What they held is gone for good. None of them may run."""
        for broker in self.all.values():
            shutil.rmtree(broker.data)

    def end(self) -> None:
        for broker in self.all.values():
            if broker.process is not None:
                broker.kill()
        if self._mapper is not None:
            self._mapper.kill()

    def found_anew(self, names: Collection[str]) -> None:
        """These cannot start from what they have, and begin with nothing: they are disposable. Those that run forget
        them first, so that they can join again. Raises `ProcessFailed`."""
        running = [broker for name, broker in self.all.items() if name not in names]
        for name in names:
            self.all[name].kill()
            shutil.rmtree(self.all[name].data)
            if running:
                running[0].ctl("forget_cluster_node", self.all[name].node)
        for name in names:
            self.all[name].launch()

    def without_copy(self) -> dict[str, list[str]]:
        """Stream → Erlang nodes whose copy of it does not run. Raises `ProcessFailed` where no broker answers."""
        error: ProcessFailed | None = None
        for broker in self.all.values():
            try:
                told: dict[str, list[str]] = json.loads(broker.ctl("eval", _COPIES % VHOST).splitlines()[0])
            except ProcessFailed as failed:
                error = failed
            else:
                return {stream: nodes for stream, nodes in told.items() if nodes}
        raise error or ProcessFailed("there is no broker")
