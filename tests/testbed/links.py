"""Which packets between hosts are lost: a model of cuts and losses, and the nft rules that make it so. Pure.

All hosts hang on one bridge, each by a port of its own name. The rules stand in the bridge's forward hook: what they
drop was sent and never arrives, as with a cable that is cut. Nobody is told.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import Self

CHAIN = "links"


class Traffic(Enum):
    """Kinds of traffic that can be cut apart from each other, by the ports of the server's side."""

    ALL = ""
    API = "8443"
    AMQP = "5671"
    CLUSTERING = "4369, 6000-6500, 25672"
    """Between brokers: port mapper, stream replication, Erlang distribution."""
    SSH = "22"


@dataclass(frozen=True, slots=True, order=True)
class Loss:
    """Of the packets from `source` to `target` (port names; None: anybody) so many percent are lost."""

    source: str | None
    target: str | None
    ports: str = ""
    percent: int = 100

    def rules(self) -> list[str]:
        """nft rules."""
        where = f'iifname "{self.source}" ' if self.source else ""
        where += f'oifname "{self.target}" ' if self.target else ""
        lost = "drop" if self.percent >= 100 else f"numgen random mod 100 < {self.percent} drop"
        if not self.ports:  # not ARP: with that, a link cut one way would soon be cut both ways
            kind = "" if None in (self.source, self.target) else "ether type { ip, ip6 } "
            return [f"{where}{kind}{lost}"]
        return [f"{where}tcp {side} {{ {self.ports} }} {lost}" for side in ("sport", "dport")]


@dataclass(slots=True)
class Losses:
    """All losses of a bed. `text` is what nft has to be given."""

    now: set[Loss] = field(default_factory=set)

    def add(self, a: str | None, b: str | None, traffic: Traffic, *, one_way: bool, percent: int = 100) -> Self:
        self.now.add(Loss(a, b, traffic.value, percent))
        if not one_way:
            self.now.add(Loss(b, a, traffic.value, percent))
        return self

    def silence(self, name: str) -> Self:
        """Nothing from `name`, nothing to it."""
        return self.add(name, None, Traffic.ALL, one_way=False)

    def unsilence(self, name: str) -> Self:
        self.now -= {Loss(name, None), Loss(None, name)}
        return self

    def heal(self, keep: set[str]) -> Self:
        """Forgets all losses but the silence of hosts in `keep`."""
        self.now = {
            loss
            for loss in self.now
            if {loss.source, loss.target} - {None} <= keep and None in (loss.source, loss.target)
        }
        return self

    def text(self) -> str:
        lines = [f"add table bridge bed\nadd chain bridge bed {CHAIN} {{ type filter hook forward priority 0; }}"]
        lines.append(f"flush chain bridge bed {CHAIN}")
        order = sorted(self.now, key=lambda loss: (loss.source or "", loss.target or "", loss.ports, -loss.percent))
        lines += [f"add rule bridge bed {CHAIN} {rule}" for loss in order for rule in loss.rules()]
        return "\n".join(lines) + "\n"
