"""How long writes stop when the primary's host loses its power: three hosts of the test bed on this machine's cores.

`tests/benchmarks/run --failover`, as root. Nothing is asserted.
"""

import os
import sys
import time
from dataclasses import dataclass
from statistics import median

from tests.testbed.bed import Bed
from tests.testbed.cluster import Cluster
from tests.testbed.host import Host
from tests.testbed.writers import writing

Row = tuple[str, str, str]
PROMOTE = "failover --operation promote"
RECOVERED_S = 90.0


@dataclass(frozen=True, slots=True)
class Round:
    """Seconds. One host lost its power twice: first the brokers are waited for, then they are not."""

    recovery: float
    """From the loss until the log can be read to its end again."""
    promotion: float
    """With the log there: from the start of the command (ssh included) to the first accepted write."""
    command: float
    """With the log there: what the command took, ssh included."""
    at_once: float
    """With the command started the moment the power went: from there to the first accepted write."""


def measure(times: int) -> list[Row]:
    """So many rounds on a cluster of its own: median and worst."""
    with Bed() as bed:
        _say("three hosts …")
        cluster = Cluster(bed)
        cluster.make(3)
        return rows_of([once(cluster, number) for number in range(1, times + 1)])


def once(cluster: Cluster, number: int) -> Round:
    recovery, promotion, command = recovered_first(cluster)
    at_once = straight_away(cluster)
    found = Round(recovery, promotion, command, at_once)
    _say(f"{number}: {found}")
    return found


def recovered_first(cluster: Cluster) -> tuple[float, float, float]:
    """The power goes, the brokers recover, and then somebody promotes a standby."""
    old, new = _roles(cluster)
    lost_s = time.monotonic()
    old.power_off()
    recovery = _log_is_back(new, lost_s)
    with writing(cluster, [new.name]) as load:
        began_s = time.monotonic()
        said = new.ssh(PROMOTE, check=True)
        command = time.monotonic() - began_s
        load.wait_for_more(1)
        first = load.first_after(began_s)
    _say(said.out)
    cluster.healthy()
    return recovery, first - began_s, command


def straight_away(cluster: Cluster) -> float:
    """The power goes, and somebody promotes a standby at that moment."""
    old, new = _roles(cluster)
    with writing(cluster, [new.name]) as load:
        load.wait_for_more(5)
        began_s = time.monotonic()
        old.power_off()
        lost_s = time.monotonic()
        said = new.ssh(PROMOTE, check=True)
        load.wait_for_more(1)
        first = load.first_after(lost_s)
    _say(said.out)
    cluster.healthy()
    return first - began_s


def _log_is_back(host: Host, since_s: float) -> float:
    """`preflight` reads the log to its end, and waits for that up to 10 s."""
    while time.monotonic() - since_s < RECOVERED_S:
        if host.run("failover --operation preflight", check=False).code == 0:
            return time.monotonic() - since_s
    raise TimeoutError(f"the log is not back within {RECOVERED_S:g} s")


def _roles(cluster: Cluster) -> tuple[Host, Host]:
    cluster.healthy()
    cluster.equal()
    return cluster.primary(), cluster.standbys()[0]


def rows_of(rounds: list[Round]) -> list[Row]:
    load = os.getloadavg()[0]
    return [
        ("the primary's host loses its power: repetitions; load of the machine", f"{len(rounds)}; {load:.1f}", ""),
        _row("the brokers' recovery", [r.recovery for r in rounds], "≤ 6 s"),
        _row("command to first accepted write, the log being back", [r.promotion for r in rounds], "≤ 2 s"),
        _row("  the command, ssh included", [r.command for r in rounds], ""),
        _row("loss to first accepted write, promoted at once", [r.at_once for r in rounds], ""),
    ]


def _row(name: str, values: list[float], asked: str) -> Row:
    return name, f"median {median(values):.1f} s, worst {max(values):.1f} s", asked


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
