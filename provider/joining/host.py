"""What `provider join` finds on a host: a RabbitMQ that is to be one of the cluster's, systemd and our unit."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import TypeVar

from provider.address import source_address
from provider.broker.host.commands import BrokerAway, CookieRefused
from provider.broker.host.facts import Facts, nameless, objections, series
from provider.broker.host.foreign import taking_over
from provider.broker.host.local import LocalBroker
from provider.broker.host.wanted import is_cookie
from provider.client import Problem, Unreachable, local
from provider.core.commands import BROKER_COOKIE, clock_skew_s, removed_while_joining
from provider.core.documents import BrokerNode
from provider.core.state import State
from provider.founding import Place
from provider.joining.join import Host
from provider.joining.patience import patiently
from provider.joining.steps import Steps, Tell
from provider.settings import DEFAULT_CONFIG, Files, ProviderSettings, host_of
from provider.trust.vault import Vault
from shared.errors import BellwetherError, Invalid, Refused, Unauthenticated, Unavailable

T = TypeVar("T")
SYSTEMCTL = "/usr/bin/systemctl"
UNIT = "bellwether-provider.service"
RESTING = ("inactive", "failed")
"""What systemd says of a unit that does not run, nor is about to."""
START_S = 120.0
"""A large state takes its time to load."""
FOLLOW_S = 120.0
LOOK_S = 0.2
BROKER_UP_S = 60.0
"""A broker that was just started, or whose host is busy, may not answer at once."""
JOIN_S = 120.0
"""And one that is joining itself at this moment is stopped for a while."""
_SOMEWHERE = "https://192.0.2.1"
"""An address for documentation (RFC 5737), to which nothing is sent: from which of ours would it be?"""
BROKER_PORT, MANAGEMENT_PORT = 5671, 15671
"""Where `broker-setup` has RabbitMQ listen."""


class CommandFailed(BellwetherError):
    """A program of this host failed. The detail is its last line."""


@dataclass(frozen=True, slots=True)
class Found(Host):
    endpoints: Sequence[str] = field(default=())
    """Of this host's broker."""
    management: str | None = None


def find(place: Place, steps: Steps, *, own_broker: bool | None) -> Found:
    """`own_broker`: whether this host's RabbitMQ is to be one of the cluster's; None: where `broker-setup` has prepared
    one for the installed provider. Raises `Refused` where it is wanted and cannot be had."""
    installed = place.config.absolute() == DEFAULT_CONFIG
    broker = LocalBroker(say=steps.note)
    if own_broker is None:
        own_broker = installed and os.geteuid() == 0 and broker.prepared
    service = SystemdUnit() if installed and SystemdUnit.usable() else None
    if not own_broker:
        return Found(None, service)
    if os.geteuid() != 0 or not broker.installed:
        raise Refused("--own-broker needs root, and RabbitMQ on this host")
    if not broker.prepared:
        raise Refused("the RabbitMQ on this host is not set up for Bellwether yet: run broker-setup first")
    endpoint = f"amqps://{_in_url(host_of(place.url))}:{BROKER_PORT}"
    return Found(OwnRabbit(broker, place.url, steps.note), service, (endpoint,), f"https://127.0.0.1:{MANAGEMENT_PORT}")


def found_broker(
    place: Place, *, wanted: bool | None, note: Tell, broker: LocalBroker | None = None
) -> tuple[BrokerNode, str] | None:
    """What this host's RabbitMQ is, and its Erlang cookie, for the first node of a cluster. `wanted` as for `find`;
    `note` is told what is waited for. Raises a `BellwetherError` where it is wanted and cannot be had."""
    broker = broker or LocalBroker()
    if wanted is None:
        wanted = place.config.absolute() == DEFAULT_CONFIG and os.geteuid() == 0 and broker.prepared
    if not wanted:
        return None
    if os.geteuid() != 0 or not broker.installed:
        raise Refused("--own-broker needs root, and RabbitMQ on this host")
    facts, cookie = _facts(broker, note), broker.cookie()
    if facts.foreign:
        raise taking_over(facts)
    problems = nameless(facts.node)
    if not is_cookie(cookie):
        problems.append(
            "the Erlang cookie of this host's RabbitMQ is not made of 16 to 255 letters, digits, or + / = _ -: stop "
            f"rabbitmq-server, delete {broker.place.cookie}, start it again, and it makes one that is"
        )
    if problems:
        raise Refused("; ".join(problems))
    found = facts.as_node(_ipv4(own_address(place.url, _SOMEWHERE)))
    patiently(broker.replicate_metadata, _away, note, BROKER_UP_S)
    return found, cookie


def _facts(broker: LocalBroker, note: Tell) -> Facts:
    """Of a broker that may only just be starting. Raises `Refused` where it lets nobody in."""
    try:
        return patiently(broker.facts, _away, note, BROKER_UP_S)
    except CookieRefused:
        raise Refused(
            "the RabbitMQ on this host does not let rabbitmqctl in: it began with other settings than there are by "
            "now. Start it anew, then the same command again: systemctl restart rabbitmq-server"
        ) from None


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


@dataclass(frozen=True, slots=True)
class OwnRabbit:
    """Implements `join.OwnBroker` for Debian's RabbitMQ."""

    local: LocalBroker
    url: str
    """Of this node."""
    note: Tell
    """Is told what is waited for."""

    def look(self, url: str) -> BrokerNode:
        facts = _facts(self.local, self.note)
        problems = objections(facts, ()) if not facts.others else []
        if series(facts.version) >= (4, 0) and not facts.tls:  # older ones are refused by the cluster, for their age
            problems.append(
                "the RabbitMQ on this host was set up for itself alone: it does not talk to other brokers with TLS. "
                "Have it do that, then the same command again: "
                "systemctl stop rabbitmq-server; broker-setup cluster; systemctl start rabbitmq-server"
            )
        if problems:
            raise Refused("; ".join(problems))
        return facts.as_node(_ipv4(own_address(self.url, url)))

    def join(self, state: State, name: str, vault: Vault) -> str:
        own, others = _brokers(state, name)
        cookie = _cookie(state, vault)
        give_certificate()
        met = patiently(
            lambda: self.local.join(others, cookie, own.address, skew_s=clock_skew_s(state)), _away, self.note, JOIN_S
        )
        joining = f"; joining too: {_names(met.joining)}" if met.joining else ""
        return f"{own.node} is one broker with {_names(met.brokers)}{joining}"

    def replicate(self, generation: str) -> str:
        stream = f"bellwether.log.{generation}"
        patiently(lambda: self.local.ensure_replica(stream), _away, self.note, BROKER_UP_S)
        return f"this host's broker has a copy of {stream}"


def _away(error: BellwetherError) -> bool:
    """All that is asked of brokers here may be asked again."""
    return isinstance(error, BrokerAway)


def _names(brokers: Sequence[BrokerNode]) -> str:
    return ", ".join(broker.node for broker in brokers)


def give_certificate() -> None:
    """Has this host's RabbitMQ use the node's certificate, at once. Raises `CommandFailed`, `Invalid`."""
    _run(_program("broker-setup"), "certificate", "--now")


def own_address(own_url: str, url: str) -> str:
    """The address at which others reach this host: the one in its URL, or the one from which it reaches `url`."""
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(host_of(own_url), None, type=socket.SOCK_STREAM)}
        # Debian says 127.0.1.1 of a host's own name, and others cannot call a link-local address.
        found = {one for one in found if not (ip_address(one).is_loopback or ip_address(one).is_link_local)}
    except OSError:
        raise Refused(f"{host_of(own_url)}, the host in --url, is not known on this host itself") from None
    found = {one for one in found if ip_address(one).version == 4} or found  # brokers talk over IPv4 only
    if len(found) == 1:
        return found.pop()
    try:
        towards = source_address(url)
    except Unavailable:
        if found:  # a host without a default route
            return min(found)
        if url != _SOMEWHERE:
            raise
        raise Refused(
            f"{host_of(own_url)} means this host itself only, and it has no default route: give its address in --url"
        ) from None
    return towards if towards in found or not found else min(found)


def _ipv4(address: str) -> str:
    """A broker's address. Raises `Refused` where it is an IPv6 one."""
    if ip_address(address).version != 4:
        raise Refused(
            f"the other brokers would reach this host at {address}, and brokers talk to each other over IPv4 only: "
            "give this host an IPv4 address, and --url that address or a name that means it; or have the node do "
            "without this host's RabbitMQ: --no-own-broker"
        )
    return address


def _brokers(state: State, name: str) -> tuple[BrokerNode, list[BrokerNode]]:
    """This node's own, and the others'."""
    known = {
        node.id: BrokerNode.model_validate(node.spec["broker"]) for node in state.of("node") if "broker" in node.spec
    }
    return known.pop(name), list(known.values())


def _cookie(state: State, vault: Vault) -> str:
    known = state.get("credential", BROKER_COOKIE)
    if known is None:
        raise Unavailable(
            "the cluster does not know its brokers' Erlang cookie yet: is bellwether-broker.path enabled there?"
        )
    return vault.unseal(known.spec["passwords"][0], BROKER_COOKIE)


@dataclass(frozen=True, slots=True)
class SystemdUnit:
    """Implements `join.Service` for the installed unit."""

    systemctl: str = SYSTEMCTL
    config: Path = DEFAULT_CONFIG

    @staticmethod
    def usable() -> bool:
        """Whether systemd runs this host, has our unit, and we may command it."""
        if os.geteuid() != 0 or not Path("/run/systemd/system").is_dir():
            return False
        try:
            _run(SYSTEMCTL, "cat", UNIT)
        except (CommandFailed, FileNotFoundError):
            return False
        return True

    def must_rest(self) -> None:
        shown = _run(self.systemctl, "show", "--property=ActiveState", "--value", UNIT)
        if shown.strip() not in RESTING:
            raise Refused(
                f"the provider that was here before still runs, as {UNIT}; its files are gone. End it, then the same "
                f"command again: systemctl stop {UNIT}"
            )

    def start(self) -> str:
        _run(self.systemctl, "enable", "--quiet", UNIT)
        _run(self.systemctl, "start", UNIT)  # Type=notify: it listens when this returns
        return f"{UNIT} is enabled and runs"

    def wait_standby(self, settings: ProviderSettings) -> str:
        """Raises `Unavailable` where it has not caught up in time, `Refused` where it was removed."""
        removed = removed_while_joining(settings.name, "docs/MEMBERS.md says how this host becomes another one")
        deadline_s = time.monotonic() + FOLLOW_S
        reason = "it does not answer"
        with closing(local(settings, Files(self.config))) as client:
            while time.monotonic() < deadline_s:
                try:
                    cluster = client.get("/cluster")
                except (Problem, Unreachable) as error:
                    if isinstance(error, Problem) and error.answer_code == Unauthenticated.code:
                        raise removed from None  # it does not know itself any more
                    reason = error.detail
                else:
                    here = next((node for node in cluster["nodes"] if node["name"] == settings.name), None)
                    if here is None or here["state"] == "removed":
                        raise removed
                    if here["state"] == "active":
                        return f"{here['role']}, {here['state']}, at revision {here['revision']}"
                    reason = f"{here['state']} ({here['reason']})"
                time.sleep(LOOK_S)
        raise Unavailable(
            f"{settings.name} is no standby yet: {reason}. See `journalctl -u {UNIT}`; the same command again goes on"
        )


def _program(name: str) -> str:
    """One of ours: beside Python, or where the system looks. Raises `Invalid` where it is not installed."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise Invalid(f"{name} is not installed on this host: see docs/INSTALL.md")
    return found


def _run(*command: str) -> str:
    """What it prints. Raises `CommandFailed`."""
    try:
        done = subprocess.run(  # noqa: S603 - programs of ours and of the system, no shell
            command, capture_output=True, text=True, check=False, timeout=START_S
        )
    except subprocess.TimeoutExpired:
        raise CommandFailed(f"`{' '.join(command)}` has not ended within {START_S:.0f} s") from None
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise CommandFailed(f"`{' '.join(command)}`: {said[-1] if said else f'exit code {done.returncode}'}")
    return done.stdout
