"""Clients on the client host that go on writing whatever happens, and remember what they were promised.

Each writes new settings, one at a time under a fresh idempotency key, and asks the next of its nodes, under the same
key, where one does not answer or says that asking again can help. What was acknowledged must be there afterwards.
"""

import itertools
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from uuid import uuid4

from localcluster.api import Answer

from tests.testbed.cluster import Cluster

RETRYABLE = {429, 503, 504}
PREFIX = "user.load."
ANSWER_S = 3.0
PAUSE_S = 0.02


@dataclass(frozen=True, slots=True)
class Failure:
    node: str
    setting: str
    said: str
    at_s: float


@dataclass
class Writers:
    """Any thread may look. Times are monotonic seconds."""

    promised: dict[str, int] = field(default_factory=dict)
    """Setting → revision that was answered."""
    promised_by: dict[str, str] = field(default_factory=dict)
    """Setting → the node that answered."""
    answered_s: list[float] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _stopping: threading.Event = field(default_factory=threading.Event)

    def wait_for_more(self, number: int = 10, *, timeout_s: float = 60.0) -> None:
        """Waits until so many more writes are acknowledged, counted from now."""
        with self._changed:
            wanted = len(self.promised) + number
            assert self._changed.wait_for(lambda: len(self.promised) >= wanted, timeout_s), (
                f"{len(self.promised)} of {wanted} writes in {timeout_s:g} s; last failures: {self.failures[-5:]}"
            )

    def number_by(self, node: str) -> int:
        """How many were acknowledged by that node."""
        with self._changed:
            return sum(answered == node for answered in self.promised_by.values())

    def first_after(self, moment_s: float) -> float:
        """When the first write after that moment was acknowledged."""
        return min((at_s for at_s in self.answered_s if at_s > moment_s), default=float("inf"))

    def write(self, cluster: Cluster, name: str, nodes: Sequence[str]) -> None:
        turns = itertools.cycle(nodes)
        node = next(turns)
        for number in itertools.count():
            setting, key = f"{PREFIX}{name}.{number}", uuid4().hex
            while not self._stopping.is_set() and not self._attempt(cluster, node, setting, key):
                node = next(turns)
            if self._stopping.wait(PAUSE_S):
                return

    def _attempt(self, cluster: Cluster, node: str, setting: str, key: str) -> bool:
        api = cluster.api(node, timeout_s=ANSWER_S)
        try:
            answer: Answer | OSError = api.put(f"/settings/{setting}", {"value": 1}, Idempotency_Key=key)
        except OSError as error:
            answer = error
        with self._changed:
            if isinstance(answer, Answer) and 200 <= answer.status < 300:
                self.promised[setting], self.promised_by[setting] = answer.json["revision"], node
                self.answered_s.append(time.monotonic())
                self._changed.notify_all()
                return True
            self.failures.append(Failure(node, setting, repr(answer)[:200], time.monotonic()))
            if isinstance(answer, Answer) and answer.status not in RETRYABLE:
                self._stopping.set()
        self._stopping.wait(PAUSE_S)
        return False

    def stop(self) -> None:
        self._stopping.set()


@contextmanager
def writing(cluster: Cluster, *through: Sequence[str]) -> Iterator[Writers]:
    """One writer for each sequence of nodes, which it turns to in that order. By default one that knows all of them."""
    writers, run = Writers(), uuid4().hex[:6]
    plans = through or (list(cluster.nodes),)
    threads = [
        threading.Thread(target=writers.write, args=(cluster, f"{run}.{number}", nodes))
        for number, nodes in enumerate(plans)
    ]
    for thread in threads:
        thread.start()
    try:
        yield writers
    finally:
        writers.stop()
        for thread in threads:
            thread.join()


def check_promises(cluster: Cluster, writers: Writers) -> None:
    """Every node has every acknowledged write, at the revision that was answered."""
    for name in cluster.nodes:
        held: dict[str, int] = {}
        after = ""
        while True:
            page = cluster.api(name).read(f"/settings?prefix={PREFIX}&limit=1000{after}")
            held |= {item["id"]: item["revision"] for item in page["items"]}
            if page["next"] is None:
                break
            after = f"&after={page['next']}"
        lost = {setting for setting, revision in writers.promised.items() if held.get(setting) != revision}
        assert not lost, f"{name}: {len(lost)} acknowledged writes are lost: {sorted(lost)[:5]}"
