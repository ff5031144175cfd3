"""A fleet of agents and a broker for each of three providers: how soon it follows a new primary, who misses a wish,
what a beat costs.

The agents are a swarm in this process: they, the brokers and the providers share the machine's processors.
"""

import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil
from localcluster.process import ProcessFailed

from provider.fleet.beats import interval_s
from shared import messages as m
from shared.bus import Credentials, Outcome
from shared.rabbitmq import RabbitLink
from tests.support.api import client
from tests.support.clustered import BrokersCluster
from tests.support.following import Followed, Wishes, patient, promote, started
from tests.support.swarm import Swarm

Row = tuple[str, str, str]
BEATS = 40
IDLE_S = 10.0
QUIET_S = 5.0


def measure(agents: int, say: Callable[[str], None]) -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="bellwether-swarm-") as directory:
        cluster = BrokersCluster(Path(directory) / "c", tell=say)
        try:
            cluster.up()
            patient(cluster)
            say(f"{agents} agents …")
            began_s = time.monotonic()
            with started(cluster, Path(directory), agents) as swarm:
                rows = [(f"{agents} agents enrolled and connected", f"{time.monotonic() - began_s:.0f} s", "")]
                rows += beat(cluster, swarm, say)
                return rows + following(cluster, swarm, say)
        except ProcessFailed as error:
            error.add_note(cluster.failure_report())
            raise
        finally:
            cluster.kill_all()


def following(cluster: BrokersCluster, swarm: Swarm, say: Callable[[str], None]) -> list[Row]:
    """Promotions on a quiet fleet, and one while wishes of all agents change."""
    rows: list[Row] = []
    for standby, writing in (("p2", False), ("p3", False), ("p1", True)):
        wishes = Wishes(list(swarm.agents))
        say(f"promotion of {standby}{', wishes going on' if writing else ''} …")
        if writing:
            with wishes.going_on([client(cluster, name) for name in cluster.providers]):
                followed = promote(cluster, swarm, standby)
            swarm.until(wishes.held_by, "agents were told of all their wishes")
        else:
            followed = promote(cluster, swarm, standby)
        shown = _shown(followed, writing=writing)
        for what, figure, _ in shown:  # at once: enrolling so many again takes minutes
            say(f"  {what.strip()}: {figure}")
        rows += shown
        if writing:
            asked = sum(len(names) for names in wishes.asked.values())
            rows.append(("  wishes answered as done · of which an agent was not told", f"{asked} · 0", "0"))
            rows.append(("  writes that failed", f"{len(wishes.failed)}", "0"))
        time.sleep(QUIET_S)
    return rows


def _shown(followed: Followed, *, writing: bool) -> list[Row]:
    advised = f"{followed.summary['advised']} of {followed.summary['total']} in {followed.advise_s:.2f} s"
    return [
        (f"promotion{' while wishes change' if writing else ''}: agents advised", advised, "≤ 3 s"),
        ("  the command", f"{followed.command_s:.2f} s", ""),
        ("  all agents at the new primary's broker", f"{followed.moved_s:.1f} s", ""),
    ]


def beat(cluster: BrokersCluster, swarm: Swarm, say: Callable[[str], None]) -> list[Row]:
    """What the brokers pay for one beat, beside what an idle fleet costs them."""
    time.sleep(QUIET_S)
    say("beats …")
    idle = _used(cluster, lambda: time.sleep(IDLE_S))
    password = (cluster.first.files.directory / "broker.password").read_text().strip()
    name = f"node.{cluster.first.name}"
    credentials = Credentials(name, password, str(cluster.layout.ca))
    link = RabbitLink(name="beats", endpoints=[cluster.broker.endpoint], credentials=credentials)
    link.start()
    data = m.encode(m.Beat(interval_s=2.0, spread_s=2.0), sender=cluster.first.name, epoch=1)

    def beats() -> None:
        for _ in range(BEATS):
            done = threading.Event()
            link.publish(m.AGENTS_DOWN, m.TO_ALL, data, on_done=partial(_set, done), deadline_s=30.0)
            done.wait(30.0)
            time.sleep(IDLE_S / BEATS)

    began_s = time.monotonic()
    busy = _used(cluster, beats)
    took_s = time.monotonic() - began_s
    link.close()
    each_s, every_s = (busy - idle * took_s / IDLE_S) / BEATS, interval_s(len(swarm.agents))
    return [
        ("an idle fleet, processor time of all brokers", f"{idle / IDLE_S:.0%} of a core", ""),
        ("one beat, processor time of all brokers", f"{each_s * 1000:.0f} ms", ""),
        (f"  as often as it comes, each {every_s:.0f} s", f"{each_s / every_s:.1%} of a core", ""),
    ]


def _set(done: threading.Event, _outcome: Outcome) -> None:
    done.set()


def _used(cluster: BrokersCluster, during: Callable[[], None]) -> float:
    """Processor seconds that all brokers use meanwhile."""
    processes = [psutil.Process(broker.pid) for broker in cluster.brokers.values()]

    def now() -> float:
        return sum(sum(process.cpu_times()[:2]) for process in processes)

    before = now()
    during()
    return now() - before
