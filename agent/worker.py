"""The thread that looks after one database server: looks, makes it match the wishes, tells what is new.

Wishes come in by `wish`, what was seen goes out by the callback; nothing else crosses.
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from agent.accounts import load_managed, save_managed
from agent.mariadb import Look, MariaDB, Refused, ServerDown
from agent.plan import Work, plan, stored_host
from agent.results import result_of
from agent.settings import InstanceSettings
from agent.view import down, essence, up
from shared.logs import log
from shared.messages import DesiredInstance, ObservedInstance, Result

Tell = Callable[[ObservedInstance, int], None]


@dataclass(slots=True)
class _Failure:
    """A wish that failed, when, and why. Forgotten when the wish changes."""

    version: int
    at: float
    message: str


@dataclass(slots=True)
class _Due:
    """When, by the monotonic clock, something is to be done next. 0: at once."""

    look: float = 0.0
    sizes: float = 0.0


@dataclass(frozen=True, slots=True)
class _Wishes:
    number: int = 0
    """Counts what came in: the same revision again is to be answered again."""
    revision: int = 0
    desired: DesiredInstance | None = None


class Worker:
    """Looks after one instance. `tell` is called on its thread with what was seen and the revision that it answers."""

    def __init__(self, settings: InstanceSettings, server: MariaDB, managed_file: Path, tell: Tell) -> None:
        self._settings = settings
        self._server = server
        self._managed_file = managed_file
        self._managed = load_managed(managed_file)
        self._tell = tell
        self._wishes = _Wishes()
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=f"instance {settings.id}", daemon=True)
        # Below: of the worker's thread only.
        self._look: Look | None = None
        self._failures: dict[tuple[str, str], _Failure] = {}
        self._results: tuple[tuple[Result, ...], tuple[Result, ...]] = ((), ())
        self._sizes: Mapping[str, int] = {}
        self._due = _Due()
        self._answered = 0
        self._told: object = None
        """The essence of what was last told."""

    def start(self) -> None:
        self._thread.start()

    def wish(self, revision: int, desired: DesiredInstance | None) -> None:
        """What is wished from now on; None: nothing. Only the newest counts. Called from one thread."""
        desired = desired or DesiredInstance(id=self._settings.id)
        self._wishes = _Wishes(self._wishes.number + 1, revision, desired)
        self._wake.set()

    def close(self, timeout_s: float) -> None:
        """End the thread; a statement that runs is given `timeout_s`. Any thread."""
        self._stopping = True
        self._wake.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._stopping:
            self._wake.clear()  # before the wishes are read: one that comes in between wakes us again
            try:
                self._once(self._wishes)
            except Exception:  # noqa: BLE001 - a thread that ends would be a server that nobody looks after
                log(instance=self._settings.id).exception("unexpected error; looking again")
                self._server.close()
                self._due = _Due()
            self._wake.wait(self._settings.probe_s)
        self._server.close()

    def _once(self, wishes: _Wishes) -> None:
        now = time.monotonic()
        fresh = wishes.number != self._answered
        try:
            vitals = self._server.vitals()
            before = self._look.vitals if self._look else None
            changed = before is None or (before.role, before.read_only) != (vitals.role, vitals.read_only)
            if not (fresh or changed or now >= self._due.look):
                return
            look = self._look = self._fulfil(self._server.look(), wishes.desired)
            self._due.look = now + self._settings.look_s
            if measured := now >= self._due.sizes:
                self._measure()
                self._due.sizes = now + self._settings.sizes_s
        except (ServerDown, Refused) as error:
            self._look = None
            self._failures.clear()  # once it is back everything is tried at once
            self._due = _Due()
            essential: object = str(error)
            observed = down(self._settings, str(error))
            measured = False
        else:
            essential = (*essence(look), self._results)
            observed = up(self._settings, look, self._sizes, *self._results)
        if fresh or measured or essential != self._told:
            self._report(observed, essential, wishes)

    def _report(self, observed: ObservedInstance, essential: object, wishes: _Wishes) -> None:
        if observed.state == "down" and essential != self._told:
            log(instance=self._settings.id).warning("server is down: {}", observed.message)
        elif observed.state == "up" and not isinstance(self._told, tuple):
            log(instance=self._settings.id, version=observed.version, role=observed.role).info("server is up")
        self._answered = wishes.number
        self._told = essential
        self._tell(observed, wishes.revision)

    def _measure(self) -> None:
        try:
            self._sizes = self._server.sizes()
        except Refused as error:  # it took too long, say; the old sizes stay
            log(instance=self._settings.id).debug("sizes not measured: {}", error)

    def _fulfil(self, look: Look, desired: DesiredInstance | None) -> Look:
        """Make the server match. Returns what it holds then; results and failures are kept."""
        if desired is None:
            return look
        works = plan(desired, look.held, self._managed)
        tried = [work for work in works if work.steps and not work.hold and self._may_try(work)]
        for work in tried:
            self._try(work)
        if tried:
            look = self._server.look()
            works = plan(desired, look.held, self._managed)
            for work in works:
                if work.steps and work.name in {one.name for one in tried if one.kind == work.kind}:
                    self._note_unfulfilled(work)
        self._settle(desired, works)
        return look

    def _may_try(self, work: Work) -> bool:
        failure = self._failures.get((work.kind, work.name))
        if failure is None or failure.version != work.version:
            return True
        return time.monotonic() >= failure.at + self._settings.retry_s

    def _try(self, work: Work) -> None:
        self._failures.pop((work.kind, work.name), None)
        names = ", ".join(type(step).__name__ for step in work.steps)
        fields = {"instance": self._settings.id, work.kind: work.name, "version": work.version}
        try:
            self._server.apply(work.steps)
        except (Refused, ServerDown) as error:  # whether it is down is seen by the look that follows
            self._failures[(work.kind, work.name)] = _Failure(work.version, time.monotonic(), str(error))
            log(**fields).warning("failed: {}: {}", names, error)
        else:
            log(**fields).info("done: {}", names)

    def _note_unfulfilled(self, work: Work) -> None:
        # Without this a wish that the server keeps in other words than ours would be carried out again at each look.
        message = "the server took it, yet shows something else; compare what was wished with what is there"
        failure = _Failure(work.version, time.monotonic(), message)
        if self._failures.setdefault((work.kind, work.name), failure) is failure:
            log(**{"instance": self._settings.id, work.kind: work.name}).warning("not as wished: {}", message)

    def _settle(self, desired: DesiredInstance, works: tuple[Work, ...]) -> None:
        wanted = {(work.kind, work.name) for work in works if not work.hold}
        self._failures = {key: failure for key, failure in self._failures.items() if key in wanted}
        results: dict[str, list[Result]] = {"database": [], "account": []}
        for work in works:
            failure = self._failures.get((work.kind, work.name)) if work.steps else None
            results[work.kind].append(result_of(work, failure.message if failure else None))
        self._results = (tuple(results["database"]), tuple(results["account"]))
        done = {result.name for result in results["account"] if result.phase == "ready"}
        hosts = {account.name: account.host for account in desired.accounts if not account.drop}
        # One that failed keeps its former host: it is still ours to move.
        kept = {name: self._managed[name] for name in hosts if name in self._managed}
        self._remember(kept | {name: stored_host(host) for name, host in hosts.items() if name in done})

    def _remember(self, managed: Mapping[str, str]) -> None:
        if managed != self._managed:
            self._managed = dict(managed)
            save_managed(self._managed_file, self._managed)
