"""Carries a plan out on a plant."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial

from localcluster.process import ProcessFailed, wait_until

from tests.faults.anew import begin_anew
from tests.faults.healing import FAILS
from tests.faults.history import Fault, Recorder
from tests.faults.links import Cut, Links
from tests.faults.plan import Plan, Step
from tests.faults.plant import MEMBERS_MAX, MEMBERS_MIN, Plant
from tests.faults.recovery import WITHOUT_ONE_S

SHIFTS_S = {
    "clock": (-3600.0, -5.0, 5.0, 3600.0),
    "clock far off": (-40 * 3600.0, 25 * 3600.0, 40 * 3600.0, 75 * 3600.0),
}
"""The far ones are further than idempotency keys live."""

Undo = Callable[[], object]


class NotDone(ProcessFailed):
    """A fault that could not be. The text says why."""


# ── deeds: what is done to these members, and how it is undone ───────────────────────────────────────────────────────


def _kill(plant: Plant, names: list[str], _step: Step) -> Undo:
    for name in names:
        plant.kill(name)
    return partial(_bring_back, plant, names)


def _bring_back(plant: Plant, names: list[str]) -> None:
    for name in names:
        plant.bring_back(name)


def _stop(plant: Plant, names: list[str], _step: Step) -> Undo:
    for name in names:
        plant.suspend(name)
    return partial(_bring_back, plant, names)


def _restart(plant: Plant, names: list[str], _step: Step) -> None:
    for name in names:
        plant.stop(name)
    _bring_back(plant, names)


def _power(plant: Plant, names: list[str], _step: Step) -> Undo:
    plant.cut_power(*names)
    return partial(_bring_back, plant, names)


def _clock(plant: Plant, names: list[str], step: Step) -> Undo:
    (name,) = names
    shifts_s = SHIFTS_S[step.kind]
    plant.provider(name).set_clock(shifts_s[step.chance % len(shifts_s)])
    return partial(plant.provider(name).set_clock, 0.0)


def _fill(plant: Plant, names: list[str], _step: Step) -> Undo:
    (name,) = names
    plant.fill_disk(name)
    return partial(plant.empty_disk, name)


def _cut(plant: Plant, names: list[str], step: Step) -> Undo:
    if plant.links is None:
        raise NotDone("links cannot be cut here")
    cuts = [cut for name in names for cut in plant.cuts(step.kind, name, step.chance)]
    for cut in cuts:
        plant.links.cut(cut)
    return partial(_mend, plant.links, cuts)


def _mend(links: Links, cuts: list[Cut]) -> None:
    for cut in cuts:
        links.mend(cut)


def _alarm(plant: Plant, names: list[str], _step: Step) -> Undo:
    plant.alarmed.update(names)
    for name in names:
        plant.brokers.all[name].ctl("set_disk_free_limit", "100000GB")
    return plant.end_alarms


def _promote(plant: Plant, names: list[str], step: Step) -> None:
    """By the command; more often as the command does it: on a machine that is busy it starts for seconds."""
    (name,) = names
    if step.chance % 4 == 0:
        plant.providers[name].command("--operation", "promote", program="failover")
        return
    refused = plant.ask_to_lead(name)
    if refused is not None:
        raise NotDone(refused)


def _two_at_once(plant: Plant, names: list[str], _step: Step) -> None:
    """Without the command, which takes its time to start: so both ask in the same milliseconds."""
    with ThreadPoolExecutor() as pool:
        refused = list(pool.map(plant.ask_to_lead, names))
    if None not in refused:
        raise NotDone("; ".join(map(str, refused)))


def _asleep(plant: Plant, names: list[str], step: Step) -> Undo:
    """A primary hangs, another one is made primary, it wakes. With some luck an agent has asked it something."""
    (name,) = names
    plant.suspend(name)
    wakes = partial(_bring_back, plant, names)
    others = [other for other in plant.providers if other != name and plant.runs(other)]
    if others and plant.ask_to_lead(others[0]) is None and step.chance % 2:
        for agent in plant.agents:
            plant.kill(agent)
            plant.bring_back(agent)
    return wakes


def _join(plant: Plant, _names: list[str], _step: Step) -> None:
    if len(plant.providers) + len(plant.joining) >= MEMBERS_MAX:
        raise NotDone("there are members enough")
    plant.join(plant.newcomer())


def _backup(plant: Plant, names: list[str], step: Step) -> None:
    (name,) = names
    plant.back_up(name, f"{step.chance}")


def _remove(plant: Plant, names: list[str], _step: Step) -> None:
    (name,) = names
    if len(plant.providers) <= MEMBERS_MIN:
        raise NotDone(f"{len(plant.providers)} members are few enough")
    plant.remove(name)


def _begin_anew(plant: Plant, _names: list[str], step: Step) -> None:
    begin_anew(plant, *_one(plant, step.role), step)


# ── whom they hit ────────────────────────────────────────────────────────────────────────────────────────────────────


def _one(plant: Plant, role: str) -> list[str]:
    name = plant.who(role)
    if name is None:
        raise NotDone(f"nobody is {role}")
    return [name]


def _two(plant: Plant, _role: str) -> list[str]:
    return sorted({name for role in ("standby", "other") if (name := plant.who(role)) is not None})


def _host(plant: Plant, role: str) -> list[str]:
    return [member for name in _one(plant, role) for member in plant.host(name)]


def _brokers(plant: Plant, role: str) -> list[str]:
    """That on the primary's host, or on a standby's; all but one (`most`), or all. Of one: that."""
    if role == "-" or not plant.brokers.several:
        return [*plant.brokers.all]
    if role == "most":
        return [*plant.brokers.all][1:]
    return plant.brokers.on(*_one(plant, role)) or ["broker"]


def _store(_plant: Plant, _role: str) -> list[str]:
    return ["store"]


def _agents(plant: Plant, _role: str) -> list[str]:
    return list(plant.agents)


def _hosts(plant: Plant, _role: str) -> list[str]:
    return [member for name in plant.providers for member in plant.host(name)]


def _all_hosts(plant: Plant, _role: str) -> list[str]:
    return [*plant.servers_cut, *plant.providers]


def _all_but_agents(plant: Plant, _role: str) -> list[str]:
    return [*plant.brokers.all, *plant.providers]


def _everybody(plant: Plant, _role: str) -> list[str]:
    return [*plant.brokers.all, *plant.providers, *plant.agents]


@dataclass(frozen=True, slots=True)
class _Deed:
    whom: Callable[[Plant, str], list[str]]
    do: Callable[[Plant, list[str], Step], Undo | None]
    alone: bool = True
    """Nothing else is done to them meanwhile."""


DEEDS = {
    "kill": _Deed(_one, _kill),
    "stop": _Deed(_one, _stop),
    "restart": _Deed(_one, _restart),
    "promote": _Deed(_one, _promote, alone=False),
    "two at once": _Deed(_two, _two_at_once, alone=False),
    "asleep": _Deed(_one, _asleep),
    "all killed": _Deed(_everybody, _kill),
    "broker killed": _Deed(_brokers, _kill),
    "broker stopped": _Deed(_brokers, _stop),
    "broker alarm": _Deed(_brokers, _alarm),
    "join": _Deed(lambda _plant, _role: [], _join),
    "remove": _Deed(_one, _remove),
    "clock": _Deed(_one, _clock, alone=False),
    "clock far off": _Deed(_one, _clock, alone=False),
    "store killed": _Deed(_store, _kill),
    "store stopped": _Deed(_store, _stop),
    "store power cut": _Deed(_store, _power),
    "agent killed": _Deed(_agents, _kill),
    "agent stopped": _Deed(_agents, _stop),
    "cut off": _Deed(_one, _cut, alone=False),
    "apart": _Deed(_one, _cut, alone=False),
    "deaf": _Deed(_one, _cut, alone=False),
    "mute": _Deed(_one, _cut, alone=False),
    "lossy": _Deed(_one, _cut, alone=False),
    "slow": _Deed(_one, _cut, alone=False),
    "agents cut off": _Deed(_agents, _cut, alone=False),
    "disk full": _Deed(_one, _fill, alone=False),
    "power cut": _Deed(_host, _power),
    "all power cut": _Deed(_hosts, _power),
    "broker power cut": _Deed(_brokers, _power),
    "blackout": _Deed(_all_hosts, _power),
    "backup": _Deed(_one, _backup, alone=False),
    "begin anew": _Deed(_all_but_agents, _begin_anew),
}


class Nemesis:
    """One plan on one plant. Each step has a thread of its own; `run` returns when all have been done and undone."""

    def __init__(self, plant: Plant, plan: Plan, recorder: Recorder) -> None:
        self._plant, self._plan, self._recorder = plant, plan, recorder
        self._ended = threading.Event()
        self.trouble: list[str] = []
        """What could not be undone."""
        self.broken: list[str] = []
        """What was promised of a deed, and did not hold."""

    def run(self) -> None:
        began_s = time.monotonic()
        with ThreadPoolExecutor(max_workers=len(self._plan.steps) or 1) as pool:
            for done in [pool.submit(self._do, step, began_s) for step in self._plan.steps]:
                done.result()

    def _do(self, step: Step, began_s: float) -> None:
        deed = DEEDS[step.kind]
        self._ended.wait(max(0.0, began_s + step.at_s - time.monotonic()))
        at_s, names, why_not, role = time.monotonic(), list[str](), None, "-"
        try:
            names = deed.whom(self._plant, step.role)
            role = self._hit(step, names)
            with ExitStack() as stack:
                for name in names if deed.alone else ():
                    stack.enter_context(self._plant.held(name))
                undo = deed.do(self._plant, names, step)
                at_s = at_s if undo is None else time.monotonic()
                self._ended.wait(step.for_s)
                if role == "one" and step.kind != "broker alarm":
                    self._await_write(at_s)
                if undo is not None:
                    self._undo(step, undo)
        except FAILS as error:
            why_not = f"{type(error).__name__}: {error}"
        except ValueError as error:
            self.broken.append(f"{step.kind}: {error}")
        self._recorder.fault(Fault(step.kind, " ".join(names), at_s, time.monotonic(), why_not, role))

    def _await_write(self, since_s: float) -> None:
        """A broker stays away until it is seen that writes go on without it: see `recovery.without_one`."""
        with suppress(ProcessFailed):
            went_on = partial(self._recorder.wrote_since, since_s)
            wait_until(went_on, timeout_s=WITHOUT_ONE_S + 1, what="no write goes on")

    def _hit(self, step: Step, names: list[str]) -> str:
        """What it hits: `newest` may be either. Of brokers it counts how many."""
        if DEEDS[step.kind].whom is _brokers and self._plant.brokers.several:
            return "one" if len(names) == 1 else "all" if len(names) == len(self._plant.brokers.all) else "most"
        if step.role == "-" or DEEDS[step.kind].whom is _brokers:
            return "-"
        if step.role == "newest":
            return "primary" if self._plant.leader() in names else "standby"
        return "primary" if step.role == "primary" else "standby"

    def _undo(self, step: Step, undo: Undo) -> None:
        try:
            undo()
        except FAILS as error:  # `healing` will see to it
            self.trouble.append(f"{step.kind} could not be undone: {error}")
