"""Free TCP ports on 127.0.0.1, chosen once and kept, so that a restart comes back where it was.

`BELLWETHER_PORTS=20000-21999` in the environment says which ports may be taken. Who starts several clusters at the same
time gives each a range of its own: a port that was chosen is free for everybody until its server listens.
"""

import json
import os
import random
import socket
from collections.abc import Iterable
from pathlib import Path

from shared.files import write_atomically

LOWEST = 20_000
RANGE = "BELLWETHER_PORTS"


class NoPorts(OSError):
    """There are no ports to be had. The text says where they were looked for."""


def free_ports(count: int, *, taken: Iterable[int] = ()) -> list[int]:
    """`count` different ports that nothing is bound to on 127.0.0.1, none of them in `taken`.

    Random, so that clusters that start at the same time seldom meet. Raises `NoPorts`.
    """
    candidates = port_range()
    avoid = set(taken)
    ports: list[int] = []
    for port in random.sample(candidates, len(candidates)):
        if len(ports) == count:
            break
        if port not in avoid and is_free(port):
            ports.append(port)
    if len(ports) < count:
        raise NoPorts(f"only {len(ports)} of {count} TCP ports are free in {candidates.start}-{candidates.stop - 1}")
    return ports


def port_range() -> range:
    """Where ports are taken from.

    Without `BELLWETHER_PORTS` it is below the range from which the kernel takes the ports of outgoing connections:
    otherwise one of those could sit on ours while the cluster is down. Raises `NoPorts`.
    """
    given = os.environ.get(RANGE)
    if given is not None:
        first, _, last = given.partition("-")
        if not (first.isdecimal() and last.isdecimal() and 0 < int(first) <= int(last) < 65536):
            raise NoPorts(f"{RANGE} is {given!r}, but it is meant to be like 20000-21999")
        return range(int(first), int(last) + 1)
    # Ports above this one are the kernel's own, see ip_local_port_range in ip(7).
    ephemeral = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    return range(LOWEST, ephemeral) if ephemeral > LOWEST + 1000 else range(1024, 65536)


def is_free(port: int) -> bool:
    """Whether a server could listen on 127.0.0.1:`port` now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: closing connections do not count
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen(1)
        except OSError:
            return False
        return True


def kept_ports(file: Path, names: Iterable[str]) -> dict[str, int]:
    """A port for each of `names`: the one that `file` holds, else a free one, which `file` holds from then on."""
    known: dict[str, int] = json.loads(file.read_text()) if file.exists() else {}
    missing = [name for name in names if name not in known]
    if missing:
        known |= dict(zip(missing, free_ports(len(missing), taken=known.values()), strict=True))
        write_atomically(file, json.dumps(known, indent=2) + "\n")
    return known
