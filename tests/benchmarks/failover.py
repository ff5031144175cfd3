"""How long writes stop when the primary's host loses its power: three hosts of the test bed on this machine's cores.

Its broker leads the log, as in a cluster that was just made: the worst case. Or another one does, and goes on.

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

    leading: bool
    """The lost host's broker led the log."""
    recovery: float
    """From the loss until the log can be read to its end again."""
    promotion: float
    """With the log there: from the start of the command (ssh included) to the first accepted write."""
    command: float
    """With the log there: what the command took, ssh included."""
    at_once: float
    """With the command started the moment the power went: from there to the first accepted write."""


def measure(times: int) -> list[Row]:
    """So many rounds of each kind on a cluster of its own: median and worst."""
    with Bed() as bed:
        _say("three hosts …")
        cluster = Cluster(bed)
        cluster.make(3)
        return rows_of([once(cluster, number, leading) for number in range(1, times + 1) for leading in (True, False)])


def once(cluster: Cluster, number: int, leading: bool) -> Round:
    recovery, promotion, command = recovered_first(cluster, leading)
    at_once = straight_away(cluster, leading)
    found = Round(leading, recovery, promotion, command, at_once)
    _say(f"{number}: {found}")
    return found


def recovered_first(cluster: Cluster, leading: bool) -> tuple[float, float, float]:
    """The power goes, the brokers recover, and then somebody promotes a standby."""
    old, new = _roles(cluster, leading)
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


def straight_away(cluster: Cluster, leading: bool) -> float:
    """The power goes, and somebody promotes a standby at that moment."""
    old, new = _roles(cluster, leading)
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


def _roles(cluster: Cluster, leading: bool) -> tuple[Host, Host]:
    """The primary, whose broker leads the log or does not, and the standby that is to be promoted."""
    cluster.healthy()
    old, (new, third) = cluster.primary(), cluster.standbys()
    _lead(new, old if leading else third)
    cluster.at_home()
    return old, new


def _lead(ask: Host, wanted: Host) -> None:
    """The log is led by that host's broker, as of now. RabbitMQ takes another one where that one's copy is behind."""
    (log,) = ask.run("rabbitmqctl --silent -p bellwether list_queues name | grep ^bellwether.log").out.split()
    leader = f"rabbitmqctl --silent -p bellwether list_queues name leader | grep -q '^{log}\trabbit@{wanted.name}$'"
    restart = f"restart_stream --vhost bellwether --preferred-leader-node rabbit@{wanted.name} {log}"
    command = f"cd /var/lib/rabbitmq; runuser rabbitmq -s /bin/sh -c '/usr/lib/rabbitmq/bin/rabbitmq-streams {restart}'"
    ask.wait_for(f"{leader} || {{ {command} >&2; sleep 1; {leader}; }}", timeout_s=60.0)


def rows_of(rounds: list[Round]) -> list[Row]:
    load = os.getloadavg()[0]
    rows = [("the primary's host loses its power: repetitions; load of the machine", f"{len(rounds)}; {load:.1f}", "")]
    for leading, whose in ((True, "its broker led the log"), (False, "another led it")):
        found = [one for one in rounds if one.leading is leading]
        rows += [
            _row(f"{whose}: the brokers' recovery", [r.recovery for r in found], "≤ 6 s"),
            _row("  command to first accepted write, the log being back", [r.promotion for r in found], "≤ 2 s"),
            _row("  the command, ssh included", [r.command for r in found], ""),
            _row("  loss to first accepted write, promoted at once", [r.at_once for r in found], ""),
        ]
    return rows


def _row(name: str, values: list[float], asked: str) -> Row:
    return name, f"median {median(values):.1f} s, worst {max(values):.1f} s", asked


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
