"""A test bed: hosts on one network, the faults that can be done to them, and what is kept when a test fails."""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from tests.testbed import plain, rootfs
from tests.testbed.delays import Delays
from tests.testbed.host import Host
from tests.testbed.links import Losses, Traffic
from tests.testbed.space import Space

NETWORK = "10.77"
DISK_MB = 2048
PROVIDER_UNITS = ("rabbitmq-server.service", "bellwether-provider.service", "keepalived.service", "epmd.socket")
"""What a host that is no provider does not start."""


class Bed:
    """Starts empty; hosts are made when they are first asked for, and stay off until `boot`. One thread at a time.

    A context manager: what it began ends with it, and at the latest with this process, however that dies.
    """

    def __init__(self) -> None:
        """Raises `OSError`, `CommandFailed`, `BuildFailed`."""
        self.space = Space()
        self.hosts: dict[str, Host] = {}
        self._layers: dict[str, list[Path]] = {}
        self._losses = Losses()
        self._silent: set[str] = set()
        self._delays = Delays(self.space)
        try:
            self._common = rootfs.own_layer(self.space.state / "common")
            self.space.run("ip link add bed0 type bridge && ip link set bed0 up")
            self._keys()
        except BaseException:
            self.space.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends all of it. Returns when no process, mount or directory is left. Again does no harm."""
        self.space.close()
        self._delays.close()
        for host in self.hosts.values():
            host.forget()

    # ── hosts ──

    def provider(self, name: str) -> Host:
        """The provider's host `p1`, `p2` …"""
        return self._host(name, f"{NETWORK}.0.{10 + int(name.removeprefix('p'))}")

    def database(self, name: str) -> Host:
        """The database host `db1`, `db2` …"""
        return self._host(name, f"{NETWORK}.1.{10 + int(name.removeprefix('db'))}", "database")

    def client(self, name: str = "client") -> Host:
        """Where clients and operators sit. Booted when it is first asked for."""
        host = self._host(name, f"{NETWORK}.2.{10 + len([h for h in self.hosts if h.startswith('client')])}")
        host.boot()
        return host

    def plain(self, name: str) -> Host:
        """A Debian host on which nothing of ours is installed: `h1`, `h2` …"""
        if "plain" not in self._layers:
            self._layers["plain"] = [self._common, plain.layer()]
        return self._host(name, f"{NETWORK}.3.{10 + int(name.removeprefix('h'))}", "plain")

    def _host(self, name: str, address: str, role: str = "provider") -> Host:
        if name not in self.hosts:
            if role not in self._layers:
                self._layers[role] = [self._common, *rootfs.layers(role)]
            host = self.hosts[name] = Host(self, name, address, self._layers[role], DISK_MB)
            self._give_keys(host)
            if name.startswith("client"):
                host.mask(*PROVIDER_UNITS)
        return self.hosts[name]

    def restore(self) -> None:
        """Takes back what was done to hosts and links: power on, links whole, disks free, full speed."""
        self.heal()
        for host in self.hosts.values():
            host.restore()

    def boot(self, *hosts: Host) -> None:
        """Switches several on at once; returns when all have started what starts at boot."""
        for host in hosts:
            host.boot(wait=False)
        for host in hosts:
            host.wait_booted()

    # ── links ──

    def cut(self, a: Host, b: Host, traffic: Traffic = Traffic.ALL, *, one_way: bool = False) -> None:
        """Nothing of that kind passes between them; with `one_way`, nothing that `a` sends reaches `b`."""
        self._losses.add(a.name, b.name, traffic, one_way=one_way)
        self._apply()

    def isolate(self, host: Host, traffic: Traffic = Traffic.ALL, *, but: Sequence[Host] = ()) -> None:
        """Cut it off from all other hosts, except those in `but`."""
        for other in list(self.hosts.values()):
            if other is not host and other not in but:
                self._losses.add(host.name, other.name, traffic, one_way=False)
        self._apply()

    def drop(self, a: Host, b: Host, percent: int, traffic: Traffic = Traffic.ALL, *, one_way: bool = False) -> None:
        """So many percent of the packets between them are lost, at random."""
        self._losses.add(a.name, b.name, traffic, one_way=one_way, percent=percent)
        self._apply()

    def delay(self, a: Host, b: Host, ms: float) -> None:
        """What they send each other arrives so many milliseconds later, each way. Until `heal`, or `a` is off."""
        self._delays.set(a.name, _mac(b), ms)

    def heal(self) -> None:
        """All links are whole and fast again. Hosts that are off or frozen stay silent."""
        self._losses.heal(self._silent)
        self._apply()
        self._delays.heal()

    def reachable(self, host: Host, *, yes: bool) -> None:
        """A host that is off, or frozen, is silent: its kernel, which is ours, must not answer for it."""
        if yes:
            self._silent.discard(host.name)
            self._losses.unsilence(host.name)
        else:
            self._silent.add(host.name)
            self._losses.silence(host.name)
        self._apply()

    def _apply(self) -> None:
        self.space.run("nft -f -", data=self._losses.text())

    def join_network(self, host: Host) -> None:
        """Plug it in: a network namespace of its own, its address, its port on the bridge. Hardware addresses stay."""
        name, mac = host.name, _mac(host)
        self.space.run(f"""
            ip netns add {name}
            ip link add {name} type veth peer name host0 address {mac} netns {name}
            ip link set {name} master bed0 up
            ip -n {name} link set lo up
            ip -n {name} addr add {host.address}/16 dev host0
            ip -n {name} link set host0 up
        """)

    def leave_network(self, host: Host) -> None:
        """Pull the cable. The namespace goes with what its kernel had still to send."""
        self._delays.unplugged(host.name)
        self.space.run(f"ip link del {host.name}; ip netns del {host.name}")

    # ── keys ──

    def _keys(self) -> None:
        """One key for all operators, one for all hosts: what is tried is sshd, not the distribution of keys."""
        self.space.run(
            f"cd {self.space.state}; for k in operator host; do ssh-keygen -q -t ed25519 -N '' -C $k -f $k; done"
        )

    def _give_keys(self, host: Host) -> None:
        state = self.space.state
        self.space.run(f"""
            cd {host.root}
            mkdir -p root/.ssh
            chmod 700 root/.ssh
            cp {state}/operator.pub root/.ssh/authorized_keys
            install -m 600 {state}/operator root/.ssh/bed
            (printf '* '; cat {state}/host.pub) >root/.ssh/bed.hosts
            install -m 600 {state}/host etc/ssh/ssh_host_ed25519_key
            cp {state}/host.pub etc/ssh/ssh_host_ed25519_key.pub
        """)

    # ── what is kept ──

    def keep(self, label: str) -> Path:
        """The journals and consoles of all hosts, in a directory that stays: its path."""
        directory = Path(tempfile.mkdtemp(prefix=f"bed-{label[:60]}-"))
        for host in self.hosts.values():
            host.keep(directory)
        return directory

    def copy(self, source: Path, target: Path) -> None:
        """A file that lies in the bed (path as seen there), to the machine."""
        shutil.copyfile(Path(f"/proc/{self.space.pid}/root{source}"), target)


def _mac(host: Host) -> str:
    """Its hardware address, by its first network address' place in the bed."""
    return "02:77:00:00:" + ":".join(f"{int(part):02x}" for part in host.place.split("."))
