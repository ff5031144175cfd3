"""Whom a broker joins, where others may be joining at the same moment. Pure.

A host is a member as soon as the state says so, and its broker is one of the others' only some time later: until then
it has a cookie of its own, or is stopped, or is alone with the right cookie. Two that join at once must neither wait
for each other nor join each other. So it is the brokers that are in a cluster already who say who is in it; whoever is
in none of theirs is left out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from provider.broker.host.commands import BrokerAway
from provider.broker.host.questions import About
from provider.core.documents import BrokerNode
from shared.errors import BellwetherError, Invalid

Answer = About | BellwetherError
"""What a broker said of itself, or why it did not."""


@dataclass(frozen=True, slots=True)
class Company:
    """Of those who are members by the state."""

    brokers: tuple[BrokerNode, ...]
    """That are in the cluster, and run: at least one."""
    joining: tuple[BrokerNode, ...]
    """That are in no cluster yet."""
    known: frozenset[str]
    """All that the former count as theirs: perhaps also one that was emptied meanwhile."""

    def with_those(self, addresses: Mapping[str, str], peers: Sequence[BrokerNode]) -> list[BrokerNode]:
        """`peers`, and those who joined before this host and are in no state that it has seen: `addresses` are theirs,
        by name. Raises `Invalid`."""
        heard = {node: address for node, address in addresses.items() if node not in {peer.node for peer in peers}}
        try:
            more = [BrokerNode(node=node, version="0.0", address=address) for node, address in sorted(heard.items())]
        except ValidationError as error:
            raise Invalid(f"a broker of the cluster has an unfit name or address: {error.errors()[0]['msg']}") from None
        return [*peers, *more]


def company(peers: Sequence[BrokerNode], answers: Mapping[str, Answer]) -> Company:
    """Raises what a broker answered that is in the cluster, or may be since nobody is there to say that it is not;
    `BrokerAway`."""
    founded = {node: told for node, told in answers.items() if isinstance(told, About) and told.founded}
    known = frozenset(node for told in founded.values() for node in told.cluster)
    brokers: list[BrokerNode] = []
    joining: list[BrokerNode] = []
    for peer in peers:
        told = answers[peer.node]
        if peer.node in founded:
            brokers.append(peer)
        elif founded and peer.node not in known:
            joining.append(peer)
        elif isinstance(told, BellwetherError):
            raise told
        elif not told.running:
            raise BrokerAway(f"{peer.node} is stopped: a broker joins only while all the others run")
        else:
            joining.append(peer)
    if not brokers:
        names = ", ".join(peer.node for peer in joining)
        raise BrokerAway(f"no broker of the cluster holds anything yet ({names}): does the primary run?")
    return Company(tuple(brokers), tuple(joining), known)
