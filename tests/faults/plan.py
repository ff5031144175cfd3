"""What the nemesis will do, drawn from a seed alone: data, so that the same seed is the same plan on any machine."""

import json
import random
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path

ROLES = ("primary", "standby", "other", "newest", "most")
"""Whom a step hits, decided when it begins: the primary of then, the first or the last of the standbys by name, and the
member that joined last. Of brokers: that on the host of such a one, all but one (`most`), or all; where there is one,
that."""


STEPS = (2, 5)


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault. `needs`: what must be there for it; `longest_s`: how long it lasts at most."""

    weight: int
    roles: tuple[str, ...] = ("-",)
    longest_s: float = 0.0
    needs: str | None = None
    alone: bool = False
    """Whether the system has to go on by itself while it lasts: recovery is then counted from its begin, and not from
    its end. What hits a standby is always so."""


BROKERS = ("-", "-", "most", "primary", "standby")
NODES = ("primary", "primary", "standby", "other")
KINDS = {
    "kill": Kind(4, NODES, 3.5),
    "stop": Kind(4, NODES, 3.0),
    "restart": Kind(2, NODES),
    "promote": Kind(6, ("standby", "other", "primary"), alone=True),
    "two at once": Kind(3, alone=True),
    "asleep": Kind(3, ("primary",), 3.0, alone=True),
    "all killed": Kind(1, longest_s=1.0),
    "broker killed": Kind(2, BROKERS, 1.0),
    "broker stopped": Kind(2, BROKERS, 3.0),
    "broker alarm": Kind(1, BROKERS, 2.0),
    "join": Kind(1, alone=True),
    "remove": Kind(1, ("newest",), alone=True),
    "clock": Kind(2, NODES, 3.0, alone=True),
    "clock far off": Kind(1, NODES, 3.0, alone=True),
    "store killed": Kind(3, longest_s=2.0, needs="store"),
    "store stopped": Kind(3, longest_s=3.0, needs="store"),
    "store power cut": Kind(3, longest_s=1.0, needs="store's disk"),
    "agent killed": Kind(1, longest_s=1.0, needs="agent", alone=True),
    "agent stopped": Kind(1, longest_s=3.0, needs="agent", alone=True),
    "cut off": Kind(3, NODES, 5.0, "links"),
    "apart": Kind(1, NODES, 5.0, "links"),
    "deaf": Kind(2, NODES, 5.0, "links"),
    "mute": Kind(2, NODES, 5.0, "links"),
    "lossy": Kind(2, NODES, 5.0, "links"),
    "slow": Kind(2, NODES, 5.0, "slow links"),
    "agents cut off": Kind(1, longest_s=5.0, needs="links", alone=True),
    "disk full": Kind(2, NODES, 2.0, "disks"),
    "power cut": Kind(3, NODES, 1.0, "disks"),
    "all power cut": Kind(1, longest_s=1.0, needs="disks"),
    "broker power cut": Kind(2, BROKERS, 1.0, "disks"),
    "blackout": Kind(2, longest_s=1.0, needs="disks"),
    "backup": Kind(1, NODES, alone=True),
    "begin anew": Kind(1, NODES, needs="stores of their own"),
}
"""Everything that there is to draw from."""


@dataclass(frozen=True, slots=True)
class Step:
    """From `at_s` on, counted from the begin of the run, for `for_s` seconds."""

    at_s: float
    kind: str
    role: str
    for_s: float
    chance: int
    """Whatever else is left to chance in it."""

    def __str__(self) -> str:
        whom = "" if self.role == "-" else f" {self.role}"
        return f"{self.at_s:5.2f} s  {self.kind}{whom}" + (f" for {self.for_s:.2f} s" if self.for_s else "")


@dataclass(frozen=True, slots=True)
class Plan:
    seed: int
    seconds: float
    steps: tuple[Step, ...]

    def write(self, file: Path) -> None:
        file.write_text(json.dumps(asdict(self), indent=2) + "\n")

    @staticmethod
    def read(file: Path) -> "Plan":
        """What `write` wrote: the same days whatever is drawn from that seed by then."""
        raw = json.loads(file.read_text())
        return Plan(raw["seed"], raw["seconds"], tuple(Step(**step) for step in raw["steps"]))


def draw(seed: int, *, seconds: float, kinds: Collection[str], steps: tuple[int, int] = STEPS) -> Plan:
    """The plan of this seed: at least and at most so many steps within `seconds`, of these kinds."""
    chance = random.Random(f"plan {seed}")
    names = sorted(kinds)
    weights = [KINDS[name].weight for name in names]
    drawn = []
    for _ in range(chance.randint(*steps)):
        (name,) = chance.choices(names, weights)
        kind = KINDS[name]
        drawn.append(
            Step(
                at_s=round(chance.uniform(0.3, seconds - 0.5), 2),
                kind=name,
                role=chance.choice(kind.roles),
                for_s=round(chance.uniform(0.1, kind.longest_s), 2) if kind.longest_s else 0.0,
                chance=chance.getrandbits(32),
            )
        )
    return Plan(seed, seconds, tuple(sorted(drawn, key=lambda step: step.at_s)))


def possible(there: Collection[str]) -> list[str]:
    """The kinds whose needs are met."""
    return [name for name, kind in KINDS.items() if kind.needs is None or kind.needs in there]
