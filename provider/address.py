"""Where this host is, as others see it. A host that is given by its IP address may have another after a reboot."""

import re
import socket
from collections.abc import Callable, Iterable
from ipaddress import ip_address
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit

from provider.core.state import State
from provider.settings import Files, ProviderSettings, host_of, load_settings, to_toml
from shared.errors import Invalid, Unavailable
from shared.files import write_atomically
from shared.logs import log
from shared.wording import listed


def source_address(url: str) -> str:
    """The address from which this host reaches the host of `url`. Nothing is sent. Raises `Unavailable`."""
    parts = urlsplit(url)
    try:
        for family, kind, protocol, _, where in socket.getaddrinfo(
            parts.hostname, parts.port or 443, type=socket.SOCK_DGRAM
        ):
            with socket.socket(family, kind, protocol) as probe:
                probe.connect(where)
                return str(probe.getsockname()[0])
    except OSError as error:
        raise Unavailable(f"{parts.hostname} cannot be reached from here: {error.strerror or error}") from None
    raise Unavailable(f"{parts.hostname} has no address")


def is_here(address: str) -> bool:
    """Whether this host has that IP address."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError:  # it has not, or knows nothing of such addresses
        return False
    return True


def gone(host: str) -> bool:
    """Whether `host` is an IP address, and not this host's (any longer). Names are for whoever resolves them."""
    return _is_number(host) and not is_here(host)


def towards(state: State, node: str) -> str | None:
    """This host's address, as it reaches the other members, the primary first; of a node that is alone, the only one
    that it has. None where there is none that could be meant."""
    for url in _others(state, node):
        try:
            found = source_address(url)
        except Unavailable:
            continue
        if not ip_address(found.partition("%")[0]).is_loopback:
            return found
    own = [address for address in own_addresses() if not ip_address(address).is_loopback]
    return own[0] if len(own) == 1 else None


def own_addresses() -> list[str]:
    """This host's IPv4 addresses, as the kernel lists them."""
    try:
        lines = Path("/proc/self/net/fib_trie").read_text(encoding="ascii").splitlines()
    except OSError:
        return []
    return sorted({line.split()[-1] for line, after in pairwise(lines) if "/32 host LOCAL" in after})


def not_known(state: State, node: str, url: str) -> str | None:
    """What is to be said of a node, by itself, whose host has another address than the cluster knows; None: it has not.
    `url`: where it is now."""
    known = state.get("node", node)
    if known is None:
        return None
    broker = known.spec.get("broker")
    before = known.spec["url"] if known.spec["url"] != url else None
    if before is None and broker is not None and gone(broker["address"]):
        before = broker["address"]
    if before is None:
        return None
    said = (
        f"this host has another address: the cluster looks for {node} at {before} until the primary has taken that up"
    )
    whose = [
        other.id
        for other in state.of("node")
        if other.id != node
        and any(
            is_here(one)
            for one in _numbers(host_of(other.spec["url"]), (other.spec.get("broker") or {}).get("address"))
        )
    ]
    if not whose:
        return said
    return (
        f"{said}. What it has now is known as the address of {listed(whose)}: if hosts have swapped theirs, give them "
        "back those that `bellwether nodes list` has, and restart them (docs/MEMBERS.md, Another address)"
    )


def _numbers(*hosts: str | None) -> list[str]:
    """Those of them that are IP addresses of one host alone."""
    return [one for one in hosts if one is not None and _is_number(one) and not ip_address(one).is_loopback]


def _is_number(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _others(state: State, node: str) -> Iterable[str]:
    nodes = sorted(state.of("node"), key=lambda one: (one.id != state.primary, one.id))
    return [str(one.spec["url"]) for one in nodes if one.id != node]


def followed(
    settings: ProviderSettings, files: Files, state: State, find: Callable[[State, str], str | None] = towards
) -> ProviderSettings:
    """The configuration for where this host is now, as `find` says. Where it has another address than provider.toml
    says, the file is brought up to date: commands on this host read it too. Raises `OSError` where it cannot be
    written."""
    listen = settings.api.listen.rpartition(":")[0]
    old = {host for host in (host_of(settings.url), listen) if gone(host)}
    if not old:
        return settings
    new = find(state, settings.name)
    if new is None:
        log(address=", ".join(old)).warning("this host has not got its address, and no way to another member")
        return settings
    found = settings
    for address in old:
        found = moved(found, address, new)
    text = files.config.read_text(encoding="utf-8")
    for address in old:
        text = re.sub(rf"(?<![0-9A-Fa-f:.]){re.escape(address)}(?![0-9A-Fa-f.]|:[0-9A-Fa-f:]*\])", new, text)
    write_atomically(files.config, text if _says(text, found, files) else to_toml(found))
    log(before=", ".join(old), now=new).warning("this host has another address; provider.toml follows")
    return found


def _says(text: str, settings: ProviderSettings, files: Files) -> bool:
    """Whether a configuration file of this text means these settings."""
    trial = files.config.with_name(".provider.toml.trial")
    try:
        write_atomically(trial, text)
        return load_settings(trial) == settings
    except Invalid:
        return False
    finally:
        trial.unlink(missing_ok=True)


def moved(settings: ProviderSettings, old: str, new: str) -> ProviderSettings:
    """The configuration with one address in the place of another, wherever it stands for this host."""
    broker, api = settings.broker, settings.api
    host, _, port = api.listen.rpartition(":")
    return settings.model_copy(
        update={
            "url": _at(settings.url, old, new),
            "broker": broker.model_copy(
                update={
                    "endpoints": tuple(_at(endpoint, old, new) for endpoint in broker.endpoints),
                    "management": _at(broker.management, old, new) if broker.management is not None else None,
                }
            ),
            "api": api.model_copy(update={"listen": f"{new}:{port}"}) if host == old else api,
        }
    )


def _at(url: str, old: str, new: str) -> str:
    parts = urlsplit(url)
    if parts.hostname != old:
        return url
    host = f"[{new}]" if ":" in new else new
    return f"{parts.scheme}://{host}" + (f":{parts.port}" if parts.port is not None else "")
