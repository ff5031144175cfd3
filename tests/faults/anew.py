"""All brokers have lost what they held, members are gone for good, and an operator goes on with those that are left:
`failover --operation promote --force`. Promised: docs/RECOVERY.md."""

import json
import time
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

from localcluster.process import ProcessFailed, wait_until
from localcluster.provider import run_program

from tests.faults.begun import Begun
from tests.faults.healing import FAILS
from tests.faults.links import Cut
from tests.faults.plan import Step
from tests.faults.plant import Plant
from tests.support.api import client
from tests.support.nodes import kept_events

FORCE = ("--operation", "promote", "--force", "--yes", "--json", "--wait", "3")
COMMAND_S = 240.0
ANSWERS_S = 30.0
BEHIND_S = 2.0
"""So long at most those who will be left are deaf before the others are gone: they hold less than was acknowledged."""


def begin_anew(plant: Plant, survivor: str, step: Step) -> None:
    """What `plant.begun` tells of afterwards. Raises `ProcessFailed` where nothing was begun: what is dead then can be
    brought back; `ValueError` where the command did not keep what it promises."""
    if plant.begun is not None:
        raise ProcessFailed("once a day is enough")
    _testimony(plant, survivor)
    others = [name for name in plant.providers if name != survivor]
    kept = [others.pop(step.chance // 2 % len(others))] if step.chance % 2 and len(others) > 1 else []
    deaf = [Cut(name, plant.brokers.ports, asked=False) for name in (survivor, *kept)] if step.chance % 3 else []
    began_s = _disaster(plant, deaf, others, step)
    try:
        node = _whom_to_ask(plant, [survivor, *kept])
        events = _testimony(plant, node)
        said = _force(plant, node, others, deaf)
    except FAILS as error:
        _mend(plant, deaf)
        if not plant.brokers.running:
            plant.brokers.begin()
        raise ProcessFailed(f"nothing was begun: {error}") from error
    plant.reviewing = True
    plant.begun = Begun(node, tuple(others), began_s, time.monotonic(), said, events)


def _testimony(plant: Plant, name: str) -> tuple[dict[str, Any], ...]:
    """All that a node accepted on this day."""
    events = kept_events(client(plant, name), plant.since)
    if events is None:
        raise ProcessFailed(f"{name} does not know all of this day")
    return tuple(events)


def _mend(plant: Plant, cuts: list[Cut]) -> None:
    for cut in cuts if plant.links is not None else ():
        plant.links.mend(cut)


def _disaster(plant: Plant, deaf: list[Cut], lost: list[str], step: Step) -> float:
    """Brokers with all that they held, and these members; some hear nothing any more for a while before. When it began,
    in monotonic seconds."""
    if deaf and plant.links is not None:
        for cut in deaf:
            plant.links.cut(cut)
        time.sleep(BEHIND_S * (step.chance % 101) / 100)
    began_s = time.monotonic()
    for name in [*plant.brokers.all, *lost] if step.chance % 5 else [*lost, *plant.brokers.all]:
        plant.kill(name)
    plant.brokers.lose_everything()
    return began_s


def _whom_to_ask(plant: Plant, left: list[str]) -> str:
    """Who holds most, and of several such the primary; when all of them have noticed that the brokers are gone, and so
    have read all that had come before."""
    found: dict[str, tuple[int, bool]] = {}

    def all_noticed() -> bool:
        for name in left:
            try:
                answer = plant.quick(name).get("/health/ready")
            except OSError:
                return False
            if answer.json.get("state") == "active":
                return False
            said = answer.headers
            found[name] = (int(said["bellwether-revision"]), said["bellwether-role"] == "primary")
        return True

    wait_until(all_noticed, timeout_s=ANSWERS_S, what=f"{left} do not notice that the brokers are gone")
    return max(left, key=lambda name: found[name])


def _force(plant: Plant, node: str, lost: list[str], deaf: list[Cut]) -> dict[str, Any]:
    """The brokers are started, empty, when the new log has begun: before, the node would go on with the old one. Nor
    does anybody hear again before: what was on its way would still arrive, and the node hold more than it has told."""
    config = str(plant.providers[node].files.config)
    command = partial(run_program, "failover", *FORCE, "--config", config, timeout_s=COMMAND_S)
    before = client(plant, node).read("/cluster")["generation"]
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(command)
        over = partial(_over, plant, node, before, running)
        wait_until(over, timeout_s=COMMAND_S + ANSWERS_S, what="the command does not end")
        if running.done():
            raise ProcessFailed(running.result())  # where it was refused, it raises that itself
        _mend(plant, deaf)
        plant.give_up(lost)
        plant.brokers.begin()
        try:
            said: dict[str, Any] = json.loads(running.result())
        except ProcessFailed as error:
            raise ValueError(f"a log was begun, and the command failed: {error}") from None
    if "anew" not in said:
        raise ValueError(f"a log was begun, and the command does not tell: {said}")
    return said


def _over(plant: Plant, node: str, before: str, running: "Future[str]") -> bool:
    """Whether the new log has begun, or the command has ended."""
    try:
        return running.done() or plant.quick(node).read("/cluster")["generation"] != before
    except FAILS:
        return False
