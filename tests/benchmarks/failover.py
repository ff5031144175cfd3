"""How long writes stop when the primary's host loses its power: three hosts of the test bed on this machine's cores.

`python -m tests.benchmarks.failover [--times N]`, as root. Nothing is asserted; what was slower than asked is marked.
"""

import argparse
import os
import sys
import time
from dataclasses import dataclass
from statistics import median

from tests.testbed.bed import Bed
from tests.testbed.cluster import Cluster
from tests.testbed.host import Host
from tests.testbed.writers import writing

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


def main() -> None:
    options = argparse.ArgumentParser(prog="tests.benchmarks.failover", description=__doc__)
    options.add_argument("--times", type=int, default=5, help="repetitions (default 5)")
    options.add_argument("--databases", type=int, default=0, help="database hosts with agents (default 0)")
    asked = options.parse_args()
    with Bed() as bed:
        _say("three hosts …")
        cluster = Cluster(bed)
        cluster.make(3, asked.databases)
        rounds = [once(cluster, number) for number in range(1, asked.times + 1)]
    show(rounds)


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


def show(rounds: list[Round]) -> None:
    rows = [
        ("the brokers' recovery", [r.recovery for r in rounds], 6.0),
        ("command to first accepted write, the log being back", [r.promotion for r in rounds], 2.0),
        ("  the command, ssh included", [r.command for r in rounds], None),
        ("loss to first accepted write, promoted at once", [r.at_once for r in rounds], 8.0),
    ]
    load = os.getloadavg()[0]
    print(f"\nmedian and worst of {len(rounds)}; {os.cpu_count()} cores, load of the machine at the end {load:.1f}\n")
    print("| the primary's host loses its power | median | worst | asked |\n|---|---|---|---|")
    for name, values, asked in rows:
        worst = max(values)
        mark = " (missed)" if asked is not None and worst > asked else ""
        wanted = f"≤ {asked:g} s" if asked is not None else ""
        print(f"| {name} | {median(values):.1f} s | {worst:.1f} s{mark} | {wanted} |")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
