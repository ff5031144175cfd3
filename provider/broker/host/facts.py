"""What is known of a broker, and what rules it out as one of ours. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from provider.broker.host.questions import About
from provider.core.documents import RESERVED_HOSTS, BrokerNode
from shared.errors import Invalid
from shared.validation import problems

VHOST = "bellwether"
DEFAULT_VHOST = "/"
_NAME = re.compile(r"rabbit@[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Facts:
    """Of a broker that runs."""

    node: str
    version: str
    plugins: tuple[str, ...]
    """That are active, sorted."""
    cluster: tuple[str, ...]
    """Every broker of its cluster, itself too, sorted."""
    running: tuple[str, ...]
    """Those of them that it sees running."""
    holds: tuple[str, ...] = ()
    """What a new broker does not hold, in words: further virtual hosts, queues."""
    more: int = 0
    """And so many things that are not named."""
    foreign: tuple[str, ...] = ()
    """A part of `holds`: what is not Bellwether's."""
    tls: bool = True
    """It talks to other brokers with TLS, and not to those that do not."""

    @property
    def others(self) -> tuple[str, ...]:
        return tuple(node for node in self.cluster if node != self.node)

    def as_node(self, address: str) -> BrokerNode:
        """For the state; `address` is where the other brokers reach it. Raises `Invalid`."""
        if not _NAME.fullmatch(self.node):
            raise Invalid(
                f"the RabbitMQ on this host is called {self.node}, and has to be rabbit@HOST, with a name of small "
                "letters, digits and hyphens. Does this host's name have capitals or dots? Name it anew (hostnamectl "
                "set-hostname), take USE_LONGNAME and NODENAME out of /etc/rabbitmq/rabbitmq-env.conf, and then: "
                "systemctl restart rabbitmq-server; broker-setup"
            )
        try:
            return BrokerNode(node=self.node, version=self.version, address=address, plugins=self.plugins)
        except ValidationError as error:
            raise Invalid(f"the broker on this host: {problems(error)}") from None


def facts(told: About) -> Facts:
    """Of a broker that runs, from what it says of itself."""
    return Facts(
        node=told.node,
        version=told.version,
        plugins=told.plugins,
        cluster=told.cluster,
        running=told.seen,
        holds=held(told.vhosts, told.some),
        more=told.queues - len(told.some),
        # A few queues are named, in order: those in `/` come before ours.
        foreign=held(told.vhosts, [(vhost, name) for vhost, name in told.some if vhost != VHOST]),
        tls=told.tls,
    )


def series(version: str) -> tuple[int, ...]:
    """Major and minor: brokers that differ in them form no cluster. `4.0.5` is (4, 0)."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])


def held(vhosts: Sequence[str], queues: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """In words, what a broker that is to join must not hold: joining deletes it. `queues`: virtual host and name."""
    found = [f"virtual host {name!r}" for name in sorted(vhosts) if name not in (VHOST, DEFAULT_VHOST)]
    return (*found, *(f"queue {name!r} in virtual host {vhost!r}" for vhost, name in sorted(queues)))


def nameless(node: str) -> list[str]:
    """Why no broker can be called that; empty: it can."""
    host = node.partition("@")[2]
    if host not in RESERVED_HOSTS:
        return []
    return [
        f"this host is called {host}, which means something else on every other host: give it a name of its own "
        "(`hostnamectl set-hostname`), and restart rabbitmq-server"
    ]


def objections(own: Facts, peers: Sequence[BrokerNode]) -> list[str]:
    """Why this broker cannot be one of those, as far as can be told without asking them: plain sentences. Empty: it
    can."""
    found = nameless(own.node)
    names = {peer.node for peer in peers}
    if own.node in names:
        found.append(f"another member's broker is called {own.node} as well: give this host another name")
    if series(own.version) < (4, 0) and peers:
        found.append(f"RabbitMQ {own.version} is too old for several brokers: 4.0 or newer is needed")
    for peer in peers:
        if series(peer.version) != series(own.version):
            found.append(f"this host has RabbitMQ {own.version}, {peer.node} has {peer.version}: install the same")
        if peer.plugins and (differs := set(peer.plugins) ^ set(own.plugins)):
            found.append(
                f"the plug-ins of this host's RabbitMQ and of {peer.node} differ in {', '.join(sorted(differs))}"
            )
    strangers = set(own.others) - names
    if strangers:
        found.append(
            f"{own.node} belongs to a cluster with {', '.join(sorted(strangers))} already: take it out of that first"
        )
    if own.holds and not set(own.others) & names:
        more = len(own.holds[_SHOWN:]) + own.more
        shown = ", ".join(own.holds[:_SHOWN]) + (f" and {more} more" if more else "")
        found.append(f"{own.node} holds {shown}, which joining would delete: use an empty RabbitMQ")
    return found
