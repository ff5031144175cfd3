"""A fleet of agents on three hosts: how soon it follows a new primary, who misses a wish, what a beat costs.

The hosts are those of the test bed, the agents a swarm on its client host: all of them share this machine's processors.
"""

import os
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from shared import messages as m
from shared.bus import Credentials, Outcome
from shared.rabbitmq import RabbitLink
from tests.support.following import Followed, Wishes, endpoint_of, promote, started
from tests.support.swarm import Swarm
from tests.testbed.bed import Bed
from tests.testbed.cluster import Cluster
from tests.testbed.host import Host

Row = tuple[str, str, str]
BEATS = 40
IDLE_S = 10.0


def measure(agents: int, say: Callable[[str], None]) -> list[Row]:
    with Bed() as bed, tempfile.TemporaryDirectory(prefix="bellwether-swarm-") as directory:
        say("three hosts …")
        cluster = Cluster(bed)
        cluster.make(providers=3, databases=0)
        say(f"{agents} agents …")
        began_s = time.monotonic()
        with started(cluster, Path(directory), agents) as swarm:
            rows = [(f"{agents} agents enrolled and connected", f"{time.monotonic() - began_s:.0f} s", "")]
            rows += beat(cluster, swarm, say)
            rows += following(cluster, swarm, say)
            return rows


def following(cluster: Cluster, swarm: Swarm, say: Callable[[str], None]) -> list[Row]:
    """Promotions on a quiet fleet, and one while wishes of all agents change."""
    rows: list[Row] = []
    for writing in (False, False, True):
        standby, wishes = cluster.standbys()[0], Wishes(list(swarm.agents))
        say(f"promotion of {standby.name}{', wishes going on' if writing else ''} …")
        if writing:
            with wishes.going_on([cluster.api(host) for host in cluster.nodes.values()]):
                followed = promote(cluster, swarm, standby)
            swarm.until(wishes.held_by, "agents were told of all their wishes")
        else:
            followed = promote(cluster, swarm, standby)
        rows += _shown(followed, writing=writing)
        if writing:
            asked = sum(len(names) for names in wishes.asked.values())
            rows.append(("  wishes answered as done, of which an agent was not told", f"{asked}, 0", "0"))
            rows.append(("  writes that failed", f"{len(wishes.failed)}", "0"))
        settle(cluster, swarm)
    return rows


def _shown(followed: Followed, *, writing: bool) -> list[Row]:
    advised = f"{followed.summary['advised']} of {followed.summary['total']} in {followed.advise_s:.2f} s"
    return [
        (f"promotion{' while wishes change' if writing else ''}: agents advised", advised, "≤ 3 s"),
        ("  the command", f"{followed.command_s:.2f} s", ""),
        ("  all agents at the new primary's broker", f"{followed.moved_s:.1f} s", ""),
    ]


def settle(cluster: Cluster, swarm: Swarm) -> None:
    """Waits until all of the fleet is at rest."""
    cluster.healthy()
    endpoint = endpoint_of(cluster.primary())
    swarm.until(lambda agent: agent.session.endpoint == endpoint, "agents sit at the primary's broker")


def beat(cluster: Cluster, swarm: Swarm, say: Callable[[str], None]) -> list[Row]:
    """What the brokers pay for one beat, beside what an idle fleet costs them."""
    settle(cluster, swarm)
    say("beats …")
    idle = _used(cluster, lambda: time.sleep(IDLE_S))
    primary = cluster.primary()
    password = primary.read("/etc/bellwether/broker.password").strip()
    credentials = Credentials(f"node.{primary.name}", password, str(cluster.ca))
    with cluster.bed.space.network_of("client"):
        link = RabbitLink(name="beats", endpoints=[endpoint_of(primary)], credentials=credentials)
        link.start()
    epoch = cluster.api(primary).read("/cluster")["epoch"]

    def beats() -> None:
        for _ in range(BEATS):
            done = threading.Event()
            data = m.encode(m.Beat(interval_s=2.0), sender=primary.name, epoch=epoch)
            link.publish(m.AGENTS_DOWN, m.TO_ALL, data, on_done=partial(_set, done), deadline_s=30.0)
            assert done.wait(30.0)
            time.sleep(IDLE_S / BEATS)

    began_s = time.monotonic()
    busy = _used(cluster, beats)
    took_s = time.monotonic() - began_s
    link.close()
    each_ms = (busy - idle * took_s / IDLE_S) / BEATS * 1000
    agents = len(swarm.agents)
    return [
        ("an idle fleet, processor time of all brokers", f"{idle / IDLE_S:.1%} of a core", ""),
        ("a beat, processor time of all brokers", f"{each_ms:.0f} ms", ""),
        (
            f"  one each {max(2.0, agents / 1000):.0f} s",
            f"{each_ms / 1000 / max(2.0, agents / 1000):.1%} of a core",
            "",
        ),
    ]


def _set(done: threading.Event, _outcome: Outcome) -> None:
    done.set()


def _used(cluster: Cluster, during: Callable[[], None]) -> float:
    """Processor seconds that all brokers use meanwhile."""

    def now() -> float:
        return sum(_seconds_of_broker(host) for host in cluster.living)

    before = now()
    during()
    return now() - before


def _seconds_of_broker(host: Host) -> float:
    stat = host.run("cat /proc/$(systemctl show --property MainPID --value rabbitmq-server)/stat").out
    user, system = stat.rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
