"""One bad day: a plan is carried out under load, all is healed, everybody testifies."""

import time
from dataclasses import dataclass
from uuid import uuid4

from localcluster.process import ProcessFailed

from shared.errors import Invalid
from tests.faults.agreed import Violation
from tests.faults.begun import cost
from tests.faults.checker import check, check_again
from tests.faults.evidence import beginning, made, obedience, saved, witnesses
from tests.faults.healing import heal, heal_copies
from tests.faults.history import History, Recorder, Saved
from tests.faults.nemesis import Nemesis
from tests.faults.plan import Plan
from tests.faults.plant import Plant
from tests.faults.workload import PAUSE_S, Clients
from tests.support.api import client

HEARD_S = 60.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """`healed_s`: from the end of the last fault until every node was well and had what any had; `whole_s`: when that
    was, in monotonic seconds."""

    plan: Plan
    history: History
    violations: list[Violation]
    notes: list[str]
    healed_s: float
    whole_s: float


class Phases:
    """How long each part of a day took."""

    def __init__(self) -> None:
        self._since_s = time.monotonic()
        self._parts: list[str] = []

    def end(self, name: str) -> None:
        now_s = time.monotonic()
        self._parts.append(f"{name} {now_s - self._since_s:.1f} s")
        self._since_s = now_s

    @property
    def text(self) -> str:
        return ", ".join(self._parts)


def live(
    plant: Plant,
    plan: Plan,
    *,
    doors: dict[str, str] | None = None,
    pause_s: float = PAUSE_S,
    restarted: bool = False,
) -> Outcome:
    """One day. `doors`: who is asked besides the nodes, as a proxy. `pause_s`: see `Clients`. `restarted`: at its end
    all nodes are started anew and asked once more: until then they have testified from memory."""
    before = client(plant, plant.first.name).read("/cluster")
    plant.since, plant.begun = before["revision"], None
    recorder = Recorder()
    urls = {name: provider.url for name, provider in plant.providers.items()} | (doors or {})
    clients = Clients(plant, urls, plan.seed, recorder, uuid4().hex[:6], pause_s=pause_s, after=before["revision"])
    nemesis = Nemesis(plant, plan, recorder)
    found: list[Violation] = []
    healed_s = whole_s = 0.0
    phases = Phases()
    with clients.running():
        nemesis.run()
        phases.end("faults")
        began_s = time.monotonic()
        try:
            nemesis.trouble += [f"healing: {what} after {took:.1f} s" for what, took in heal(plant).items() if took > 2]
            whole_s = time.monotonic()
            if any(set(fault.target.split()) & plant.brokers.all.keys() for fault in recorder.faults):
                heal_copies(plant)
            phases.end("healing")
            clients.hear_from(urls.keys() & plant.providers.keys(), HEARD_S)
        except ProcessFailed as error:
            found.append(Violation("healing", str(error)))
        healed_s = time.monotonic() - began_s
        phases.end("hearing each node")
    phases.end("clients' end")
    try:
        sworn = witnesses(plant, _since(plant), clients.prefix)
    except (ProcessFailed, AssertionError, OSError) as error:
        found.append(Violation("healing", str(error)))
        sworn = ()
    wished = {one.setting or "" for one in recorder.attempts if one.action == "wish" and one.done}
    history = History(
        seed=plan.seed,
        after=before["revision"],
        epoch=before["epoch"],
        primary=before["primary"],
        attempts=recorder.attempts,
        witnesses=sworn,
        obeyed=obedience(plant),
        faults=recorder.faults,
        databases=made(plant, wished),
        earlier=dict(plant.earlier),
        backups=_saved(plant, clients.prefix, found),
        followed=recorder.followed,
        begun=beginning(plant, clients.prefix),
    )
    phases.end("evidence")
    if sworn:
        found += check(history)
        plant.earlier |= {name: held for name, held in sworn[0].settings.items() if clients.stays(name)}
    if sworn and restarted:
        found += _from_disks(plant, history, clients.prefix)
        phases.end("all started anew")
    found += [Violation("answers", text) for text in clients.broken]
    found += [Violation("deeds", text) for text in nemesis.broken]
    return Outcome(plan, history, found, [*nemesis.trouble, *cost(history), phases.text], healed_s, whole_s)


def _since(plant: Plant) -> int:
    """From which revision on the nodes testify: no log goes back to before it was begun."""
    return plant.since if plant.begun is None else plant.begun.first[1] - 1


def _saved(plant: Plant, prefix: str, found: list[Violation]) -> tuple[Saved, ...]:
    try:
        return saved(plant, prefix)
    except Invalid as error:
        found.append(Violation("deeds", f"a backup was made and does not open: {error.detail}"))
        return ()


def _from_disks(plant: Plant, history: History, prefix: str) -> list[Violation]:
    """All providers end and are started; what they testify then is what is on their disks and in the log."""
    try:
        for name in plant.providers:
            plant.stop(name)
        for name in plant.providers:
            plant.bring_back(name)
        heal(plant)
        return check_again(history, witnesses(plant, _since(plant), prefix))
    except (ProcessFailed, AssertionError, OSError) as error:
        return [Violation("healing", f"after all were started anew: {error}")]
