"""A rehearsal under way: the writers, the two promotions, and the tidying up."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from provider.cli.promote import Interrupted, Promoting, step_text, undisturbed
from provider.client import Client, Problem, Unreachable, path
from provider.core.commands import REHEARSAL_SETTINGS
from provider.rehearsal import WRITERS_EVERY_S, WRITES_BETWEEN, Leg, Outcome, Told, Write, told_by, unfit, who
from shared.errors import BellwetherError, Refused

GIVE_UP_S = 20.0
"""A write that nobody acknowledges for this long has failed."""
ANSWERS_S = 30.0
"""For all writers to be answered `WRITES_BETWEEN` times."""
FOLLOW_S = 5.0
LOOK_S = 0.1
TOKEN_S = 900
MakeClient = Callable[[str, str | None], Client]
"""A client for one node's URL: with a token, or as this node itself."""


class Ended(BellwetherError):
    """The rehearsal cannot go on; the text says why."""


@dataclass
class Writers:
    """One thread for each node. Any thread may look."""

    since: int = 0
    """The revision from which a node knows their token: one that lags waits for it, instead of refusing them."""
    writes: list[Write] = field(default_factory=list)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _stopping: threading.Event = field(default_factory=threading.Event)
    _acknowledged: dict[str, int] = field(default_factory=dict)

    def write(self, key: str, clients: Sequence[Client]) -> None:
        """Until it is stopped: number after number, asking the next node where one fails."""
        self._acknowledged[key] = number = 0
        while not self._stopping.is_set():
            number += 1
            done = self._one(key, number, clients)
            with self._changed:
                if done is not None:
                    self.writes.append(done)
                    self._acknowledged[key] += done.revision is not None
                self._changed.notify_all()
            self._stopping.wait(WRITERS_EVERY_S)

    def _one(self, key: str, number: int, clients: Sequence[Client]) -> Write | None:
        """None where it was stopped before it knew."""
        began_s, error, attempts = time.monotonic(), "", 0
        again = {"Idempotency-Key": uuid4().hex, "Bellwether-Min-Revision": str(self.since)}
        while time.monotonic() - began_s < GIVE_UP_S:
            try:
                answer = clients[attempts % len(clients)].request(
                    "PUT", path("settings", key), {"value": number}, headers=again
                )
                return Write(key, number, answer["revision"], began_s, time.monotonic(), attempts + 1)
            except (Problem, Unreachable) as problem:
                attempts, error = attempts + 1, problem.detail
                if isinstance(problem, Problem) and not problem.answer_retryable:
                    break
            if self._stopping.wait(WRITERS_EVERY_S):
                return None
        return Write(key, number, None, began_s, time.monotonic(), attempts, error)

    def wait_for_more(self) -> bool:
        """Whether each writer was answered often enough from now on."""
        with self._changed:
            wanted = {key: done + WRITES_BETWEEN for key, done in self._acknowledged.items()}
            return self._changed.wait_for(
                lambda: all(self._acknowledged[key] >= done for key, done in wanted.items()), ANSWERS_S
            )

    def stop(self) -> None:
        self._stopping.set()


@dataclass
class Rehearsal:
    """On `node`, a standby. `urls`: of all members. `said` is told what happens, a line each."""

    node: str
    local: Client
    client: MakeClient
    said: Callable[[str], None]
    wait_s: float
    run_id: str = field(default_factory=lambda: uuid4().hex[:8])
    before: str = ""
    urls: dict[str, str] = field(default_factory=dict)
    writers: Writers = field(default_factory=Writers)
    legs: list[Leg] = field(default_factory=list)
    _clients: list[Client] = field(default_factory=list)
    _left: list[str] = field(default_factory=list)

    def check(self) -> None:
        """Raises `Refused` where the cluster is not fit for it."""
        cluster = self.local.get("/cluster")
        self.before = cluster["primary"]
        self.urls = {n["name"]: n["url"] for n in cluster["nodes"]}
        reasons = unfit(cluster, self.node, {name: self._says(url) for name, url in self.urls.items()})
        if reasons:
            raise Refused(f"no rehearsal: {'; '.join(reasons)}. Nothing was changed")

    def perform(self) -> Outcome:
        """All of it. However it ends, the writers end, and what they wrote is removed; nothing interrupts that. Main
        thread, within `interruptible`."""
        trouble: str | None = None
        told: Mapping[str, Sequence[Told]] = {}
        try:
            first = int(self.local.get("/cluster")["revision"])
            with self._writing():
                self._there_and_back()
            told = self._told(first)
        except Interrupted as signalled:
            trouble = f"interrupted by {signalled}"
        except BellwetherError as error:
            trouble = error.detail
        finally:
            undisturbed()
            self._quietly("what it wrote", self._remove_all)
        primary, epoch = self._who()
        return Outcome(self.node, primary, epoch, self.writers.writes, self.legs, told, trouble, self._left)

    def close(self) -> None:
        for client in self._clients:
            client.close()

    # ── the steps ──

    def _there_and_back(self) -> None:
        for node, before in ((self.node, self.before), (self.before, self.node)):
            if not self.writers.wait_for_more():
                raise Ended(f"the writers were not answered {WRITES_BETWEEN} times each within {ANSWERS_S:g} s")
            self._promote(node, before)
        if not self.writers.wait_for_more():
            raise Ended(f"after the way back the writers were not answered within {ANSWERS_S:g} s")

    def _promote(self, node: str, before: str) -> None:
        self.said(f"{before} → {node}")
        promoting = Promoting(node, self._as_node(self.urls[node]))
        online = self.local.get("/cluster")["agents"]
        began_s = time.monotonic()
        try:
            result = promoting.run(force=False, wait_s=self.wait_s, on_step=lambda step: self.said(step_text(step)))
        except (Problem, Unreachable) as error:
            result = {"result": "failed", "detail": f"{node} did not promote itself: {error.detail}"}
        ended_s = time.monotonic()
        missing = self._missing(online["missing"]) if result.get("result") == "promoted" else []
        self.legs.append(Leg(before, node, began_s, ended_s, result, promoting.steps, online["online"], missing))
        if not self.legs[-1].done:
            raise Ended(result.get("detail", f"{node} ended its promotion without a result"))

    def _missing(self, before: Sequence[str]) -> list[str]:
        """Agents that followed before and do not now, once they have had some time."""
        until_s = time.monotonic() + FOLLOW_S
        while True:
            missing = set(self.local.get("/cluster")["agents"]["missing"]) - set(before)
            if not missing or time.monotonic() > until_s:
                return sorted(missing)
            time.sleep(LOOK_S)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        asked = {"role": "operator", "ttl_s": TOKEN_S, "name": f"rehearsal {self.run_id}"}
        made = self.local.request("POST", "/tokens", {**asked, "scope": [f"/settings/{REHEARSAL_SETTINGS}*"]})
        self.writers.since = int(self.local.get("/cluster")["revision"])
        order = list(self.urls.values())
        threads = []
        try:
            for number, name in enumerate(self.urls):
                clients = [self._with_token(url, made["token"]) for url in order[number:] + order[:number]]
                key = f"{REHEARSAL_SETTINGS}{self.run_id}.{name}"
                threads.append(threading.Thread(target=self.writers.write, args=(key, clients), daemon=True))
            for thread in threads:
                thread.start()
            yield
        finally:
            self.writers.stop()
            try:
                for thread in threads:
                    thread.join(GIVE_UP_S)
            finally:
                self._quietly("its token", lambda: self.local.request("DELETE", path("tokens", made["id"])))

    def _told(self, first: int) -> Mapping[str, Sequence[Told]]:
        """What the history of each node has, once it has all that was acknowledged. Raises `BellwetherError`."""
        newest = max((write.revision or 0 for write in self.writers.writes), default=0)
        found = {}
        for name, url in self.urls.items():
            client = self._as_node(url)
            client.request("GET", "/cluster", headers={"Bellwether-Min-Revision": str(newest), "Bellwether-Wait": "15"})
            lines = client.lines(
                "GET", f"/events?after={first}&follow=false", accept="application/x-ndjson", silence_s=GIVE_UP_S
            )
            found[name] = told_by((json.loads(line) for line in lines if line.strip()), self.run_id)
        return found

    def _remove_all(self) -> None:
        """Also what earlier runs left."""
        while True:
            items = self.local.get("/settings", prefix=REHEARSAL_SETTINGS, limit="1000")["items"]
            for item in items:
                self._delete(path("settings", item["id"]))
            if not items:
                return

    def _delete(self, what: str) -> None:
        try:
            self.local.request("DELETE", what)
        except Problem as problem:
            if problem.answer_code != "not_found":
                raise

    def _quietly(self, what: str, do: Callable[[], Any]) -> None:
        try:
            do()
        except BellwetherError as error:
            self._left.append(f"{what} could not be removed: {error.detail}")

    # ── who says what ──

    def _who(self) -> tuple[str, int]:
        """Who is primary, by the node that has seen most."""
        found = [(0, "unknown")]
        for url in self.urls.values():
            try:
                cluster = self._as_node(url).get("/cluster")
            except BellwetherError:
                continue
            found.append((cluster["epoch"], cluster["primary"]))
        epoch, primary = max(found)
        return primary, epoch

    def _says(self, url: str) -> str:
        try:
            return who(self._as_node(url).get("/cluster"))
        except BellwetherError as error:
            return f"does not answer ({error.detail})"

    def _as_node(self, url: str) -> Client:
        return self._keep(self.client(url, None))

    def _with_token(self, url: str, token: str) -> Client:
        return self._keep(self.client(url, token))

    def _keep(self, client: Client) -> Client:
        self._clients.append(client)
        return client
