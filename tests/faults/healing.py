"""Puts right what a nemesis has left, as operators would, and waits until all are well."""

import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from localcluster.process import ProcessFailed, wait_until

from tests.faults.plant import MEMBERS_MIN, Plant

HEAL_S = 150.0
COPIES_S = 60.0
BROKER_S = 40.0
"""A broker that has not started by then has lost more than its log's tail."""
FAILS = (ProcessFailed, OSError, AssertionError, subprocess.SubprocessError)
"""What a deed may end with on a bad day: a command that is refused, a node that does not answer."""

Until = Callable[[str, Callable[[], object], float], None]
"""Waits until something is so, at most so many seconds; the text says what. Raises `ProcessFailed`."""


def heal(plant: Plant, timeout_s: float = HEAL_S) -> dict[str, float]:
    """Everything that a nemesis may have left is put right, and every node is well. What took how many seconds. Raises
    `ProcessFailed`."""
    began_s = time.monotonic()
    took_s: dict[str, float] = {}

    def until(what: str, condition: Callable[[], object], longest_s: float = HEAL_S) -> None:
        now_s = time.monotonic()
        wait_until(condition, timeout_s=max(1.0, min(longest_s, began_s + timeout_s - now_s)), what=what)
        took_s[what] = time.monotonic() - now_s

    if plant.links is not None:
        plant.links.mend_all()
    for name in plant.providers:
        plant.empty_disk(name)
        plant.provider(name).set_clock(0.0)
    for name in plant.members:
        plant.bring_back(name)
    _heal_brokers(plant, until)
    plant.end_alarms()
    for name in plant.providers:
        until(f"{name} is well", partial(_is_well, plant, name))
    while len(plant.providers) + len(plant.joining) < MEMBERS_MIN:
        plant.newcomer()
    for name in list(plant.joining):
        until(f"{name} joins", partial(_joined, plant, name))
    for name in plant.agents:
        until(f"{name} is well", plant.agent(name).well)
    if plant.reviewing:
        until("what servers have is what is wished", partial(_reviewed, plant))
    newest = max(_revisions(plant), default=0)
    until(
        "every node has what any had",
        lambda: [at >= newest for at in _revisions(plant)].count(True) == len(plant.providers),
    )
    return took_s


def heal_copies(plant: Plant) -> None:
    """Each of several brokers has a copy of the log that runs, as `provider broker apply` sees to it on real hosts.
    Asked when all are well: RabbitMQ's command takes seconds to start. Raises `ProcessFailed`."""
    if plant.brokers.several:
        lacking = "a broker has no copy of the log that runs"
        wait_until(lambda: not plant.brokers.without_copy(), timeout_s=COPIES_S, what=lacking)


def _heal_brokers(plant: Plant, until: Until) -> None:
    """Those that do not start are founded anew."""
    brokers = plant.brokers

    def lacking() -> list[str]:
        return [name for name, broker in brokers.all.items() if not broker.ready()]

    try:
        until("each broker is there", lambda: not lacking(), BROKER_S)
    except ProcessFailed:
        names = lacking()
        brokers.found_anew(names)
        until(f"{', '.join(names)}, which had to be founded anew, is there", lambda: not lacking(), HEAL_S)


def _is_well(plant: Plant, name: str) -> bool:
    process = plant.members[name].process
    if process is not None and not process.alive:
        raise ProcessFailed(f"{name} has ended by itself")
    try:
        return bool(plant.quick(name).get("/health/ready").json.get("state") == "active")
    except OSError:
        return False


def _reviewed(plant: Plant) -> bool:
    """As an operator does it after a new log was begun: what is held is made, what is there is taken over."""
    leader = plant.leader()
    if leader is None:
        return False
    try:
        items = plant.quick(leader).read("/adoption?limit=1000")["items"]
        left = {item["state"] for item in items if item["state"] == "held" or item["adoptable"]}
        decision = ("release", "--all") if "held" in left else ("take", "--all") if left else ("done",)
        plant.providers[leader].command("adopt", *decision)
    except FAILS:
        return False
    plant.reviewing = bool(left)
    return not left


def _joined(plant: Plant, name: str) -> bool:
    try:
        plant.join(name)
    except FAILS:
        return False
    return True


def _revisions(plant: Plant) -> list[int]:
    """Of the nodes that answer."""
    found = []
    for name in plant.providers:
        with suppress(OSError):
            found.append(int(plant.quick(name).get("/health/live").headers["bellwether-revision"]))
    return found
