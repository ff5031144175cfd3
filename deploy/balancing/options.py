"""What is wanted, and which nodes there are."""

import json
import socket
import subprocess
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from ipaddress import ip_address
from typing import Any, TypeVar
from urllib.parse import urlsplit

COMMAND_S = 60.0
_T = TypeVar("_T")


class Wrong(Exception):
    """What an operator has to put right, in one line."""


@dataclass(frozen=True, slots=True)
class Node:
    name: str
    host: str
    port: int

    @property
    def url(self) -> str:
        return f"https://{self.place}"

    @property
    def place(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def at(cls, name: str, url: str) -> "Node":
        """Raises `Wrong`."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port or 443
        except ValueError:
            host, port = None, 0
        if (
            host is None
            or not all(c.isalnum() or c in "-_" for c in name)
            or not all(c.isalnum() or c in ".:-" for c in host)
        ):
            raise Wrong(f"node {name!r}: {url!r} is not https://host:port")
        return cls(name, host, port)

    def numbers(self) -> list[str]:
        """The addresses that its host has in numbers, as this host knows them. None where the name is not known now."""
        try:
            found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            return []
        return list(dict.fromkeys(str(info[4][0]) for info in found))

    def address(self, version: int) -> str:
        """Its IPv4 or IPv6 (`version`) address that other hosts can call. Raises `Wrong`."""
        found = self._callable(version)
        if not found:
            numbers = ", ".join(self.numbers()) or "it cannot be resolved"
            raise Wrong(f"node {self.name}: {self.host} has no IPv{version} address for other hosts ({numbers})")
        return found[0]

    def own_address(self, version: int, peer: str) -> str:
        """The same of this very host, of which Debian says 127.0.1.1: then, or where it has several, the one from which
        it reaches `peer`. Nothing is sent. Raises `Wrong`."""
        found = self._callable(version)
        if len(found) == 1:
            return found[0]
        with socket.socket(socket.AF_INET6 if version == 6 else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect((peer, self.port))
            except OSError:
                return self.address(version)
            towards = str(probe.getsockname()[0])
        return towards if towards in found or not found else found[0]

    def _callable(self, version: int) -> list[str]:
        """Always in the same order, whichever the name server says first."""
        addresses = sorted(
            ip_address(number.partition("%")[0]) for number in self.numbers() if _version(number) == version
        )
        return [str(one) for one in addresses if not (one.is_loopback or one.is_link_local)]


def _version(number: str) -> int:
    return ip_address(number.partition("%")[0]).version


@dataclass(frozen=True, slots=True, kw_only=True)
class HAProxy:
    listen: str = "*:443"
    leader: str | None = None
    """A second port, whose requests go to the primary."""
    certificate: str | None = None
    """PEM, with its key: HAProxy then ends TLS, and shares out requests. Without it, it shares out connections."""
    stats: str = "127.0.0.1:8404"
    user: str = "haproxy"
    """Whom HAProxy becomes once it listens; empty: it stays who it is."""
    socket: str = "/run/haproxy/admin.sock"
    """For administrators; empty: none."""
    file: str = "/etc/haproxy/bellwether.cfg"
    ca: str = "/etc/haproxy/bellwether-ca.pem"
    """A copy of the cluster's authorities, which HAProxy's user may read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Keepalived:
    address: str
    """With the length of the network's prefix: 10.0.0.100/24."""
    interface: str
    router: int = 51
    """One number for each such address in a network: 1 to 255."""
    user: str = "bellwether"
    """Who looks at the provider: may read `ca`."""
    file: str = "/etc/keepalived/keepalived.conf"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    nodes: tuple[Node, ...] = ()
    """Without them the provider on this host is asked."""
    own: str | None = None
    """This host's node; where the provider is asked, it says so."""
    ca: str = "/etc/bellwether/ca.pem"
    provider: str = "/usr/local/bin/provider"
    haproxy: HAProxy | None = None
    keepalived: Keepalived | None = None


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def read_options(text: str) -> Options:
    """Raises `Wrong`."""
    try:
        said = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Wrong(f"not TOML: {error}") from None
    for name, kind in (("haproxy", HAProxy), ("keepalived", Keepalived)):
        if name in said:
            said[name] = _section(kind, said[name], name)
    nodes = said.pop("nodes", {})
    if not isinstance(nodes, dict):
        raise Wrong('nodes: expected { p1 = "https://host:port", … }')
    said["nodes"] = tuple(Node.at(name, str(url)) for name, url in nodes.items())
    return _section(Options, said, "the file")


def _section(kind: type[_T], said: Mapping[str, Any], where: str) -> _T:
    known = {one.name for one in fields(kind)}  # type: ignore[arg-type] # one of the dataclasses above
    unknown = set(said) - known
    if unknown:
        raise Wrong(f"{where}: there is no {', '.join(sorted(unknown))}; known: {', '.join(sorted(known))}")
    try:
        made = kind(**said)
    except TypeError:
        raise Wrong(f"{where}: address and interface are needed") from None
    for name, value in said.items():
        if isinstance(value, str) and ("\n" in value or " " in value or '"' in value):
            raise Wrong(f"{where}: {name} may hold no spaces, quotes or line ends")
    return made


def with_nodes(options: Options) -> Options:
    """The nodes that there are, by the options or by the provider on this host. Raises `Wrong`."""
    if options.nodes:
        return options
    command = [options.provider, "status", "--json"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Wrong(f"{' '.join(command)}: {error}") from None
    if done.returncode:
        raise Wrong(f"the provider on this host does not say which nodes there are: {done.stderr.strip()}")
    cluster = json.loads(done.stdout)
    nodes = tuple(Node.at(node["name"], node["url"]) for node in cluster["nodes"])
    return Options(
        **{one.name: getattr(options, one.name) for one in fields(options)} | {"nodes": nodes, "own": cluster["node"]}
    )
