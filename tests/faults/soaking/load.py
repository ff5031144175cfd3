"""The load of a soak: writers at a steady rate through all nodes, readers of every node's event stream, promotions."""

import http.client
import json
import random
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from urllib.parse import urlsplit

from localcluster.cluster import Cluster

from provider.promotion import WAIT_S
from shared.tls import client_context
from tests.faults.soaking.promises import Promises, value_of
from tests.support.api import client
from tests.support.writers import RETRYABLE, Connection

WRITERS_EACH = 16
"""So many, since each waits for its answer: the rate is held until a write takes a quarter of a second."""
SETTINGS_EACH = 25
"""Of one writer: with three nodes 1,200 documents, written again and again."""
PADDING = "x" * 160
PAUSE_S = 0.1
ACCOUNT_EVERY_S = 5.0
LATE_S = 2.0
"""A writer that is further behind its own beat than this leaves writes out: then the rate was not reached."""
REMEMBERED = 4096
JOIN_S = 60.0


class Lags:
    """By how much later than the first node each tells of a revision. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._first: dict[int, float] = {}
        self._lags: dict[str, list[float]] = {}

    def told(self, node: str, revision: int) -> None:
        now_s = time.monotonic()
        with self._lock:
            first_s = self._first.setdefault(revision, now_s)
            if len(self._first) > 2 * REMEMBERED:
                self._first = dict(list(self._first.items())[-REMEMBERED:])
            self._lags.setdefault(node, []).append((now_s - first_s) * 1000)

    def take(self) -> dict[str, tuple[float, float]]:
        """Node → median and highest lag in ms since it was last taken."""
        with self._lock:
            lags, self._lags = self._lags, {}
        return {node: (round(median(found), 2), round(max(found), 1)) for node, found in lags.items() if found}


class Load:
    """`rate`: writes a second in all. `keyed`: the share of them that has an idempotency key."""

    def __init__(self, cluster: Cluster, *, rate: float, keyed: float, promote_every_s: float) -> None:
        self._cluster, self._rate, self._keyed = cluster, rate, keyed
        self._promote_every_s = promote_every_s
        self._stop_writing, self._stop_reading = threading.Event(), threading.Event()
        self._mark = secrets.token_hex(3)
        self.prefix = f"user.soak.{self._mark}."
        self.promises, self.lags = Promises(), Lags()
        self._lock = threading.Lock()
        self.refused: dict[str, int] = {}
        """Answers that were no success, by code; each was asked for again."""
        self.took_ms: list[float] = []
        self.promoted_ms: list[float] = []
        self.promotions_refused: list[str] = []
        self.reached: dict[str, int] = {}
        """Node → the revision that its stream has told of."""
        self._busy: list[threading.Thread] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        nodes = list(self._cluster.providers)
        after = client(self._cluster, nodes[0]).read("/cluster")["revision"]
        readers = [threading.Thread(target=self._follow, args=(node, after), daemon=True) for node in nodes]
        count = WRITERS_EACH * len(nodes)
        writers = [threading.Thread(target=self._write, args=(n, count, nodes), daemon=True) for n in range(count)]
        others = [threading.Thread(target=work, daemon=True) for work in (self._promote, self._tell_agents)]
        self._busy = [*writers, *others]
        for thread in (*readers, *self._busy):
            thread.start()
        try:
            yield
        finally:
            self.stop_writing()
            self._stop_reading.set()

    def stop_writing(self) -> None:
        """No further write is begun; returns when what was under way has come to its end."""
        self._stop_writing.set()
        for thread in self._busy:
            thread.join(JOIN_S)
            if thread.is_alive():
                self.promises.complain(f"{thread.name}: a request hangs without a deadline")

    # ── writing ──

    def _write(self, number: int, count: int, nodes: Sequence[str]) -> None:
        """One writer, with settings of its own, at its own node; at the next ones while that does not answer."""
        chance, every_s = random.Random(f"{self._mark} {number}"), count / self._rate
        order = [nodes[(number + turn) % len(nodes)] for turn in range(len(nodes))]
        urls = {name: provider.url for name, provider in self._cluster.providers.items()}
        connections = [Connection(self._cluster, urls[node], timeout_s=10.0) for node in order]
        counts = [0] * SETTINGS_EACH
        due_s, turn = time.monotonic() + every_s * number / count, 0
        while not self._stop_writing.wait(max(0.0, due_s - time.monotonic())):
            which, turn = turn % SETTINGS_EACH, turn + 1
            counts[which] += 1
            self._put(connections, f"{self.prefix}{number}.{which}", counts[which], chance.random() < self._keyed)
            due_s = max(due_s + every_s, time.monotonic() - LATE_S)
        for connection in connections:
            connection.close()

    def _put(self, connections: Sequence[Connection], setting: str, number: int, keyed: bool) -> None:
        """Until it is acknowledged: a successor is begun only then."""
        key = f"{setting} {number}" if keyed else None
        body = {"value": value_of(number, keyed=keyed, padding=PADDING)}
        began_s, turn = time.monotonic(), 0
        while True:
            try:
                status, answer = connections[turn % len(connections)].put(f"/settings/{setting}", body, key)
            except OSError:
                status, answer = 0, {"code": "no answer"}
            if 200 <= status < 300:
                self.promises.acknowledge(setting, number, answer["revision"])
                with self._lock:
                    self.took_ms.append((time.monotonic() - began_s) * 1000)
                return
            with self._lock:
                code = f"{status} {answer.get('code')}"
                self.refused[code] = self.refused.get(code, 0) + 1
            if status not in RETRYABLE | {0}:
                self.promises.complain(f"{setting} {number}: {status} {answer}")
            turn += 1
            time.sleep(PAUSE_S)

    def take_times(self) -> list[float]:
        """How long writes took, in ms, since this was last asked."""
        with self._lock:
            found, self.took_ms = self.took_ms, []
        return found

    # ── reading along ──

    def _follow(self, node: str, after: int) -> None:
        """The node's event stream, taken up again wherever it breaks off."""
        where = urlsplit(self._cluster.providers[node].url)
        context = client_context(self._cluster.layout.ca)
        token = self._cluster.layout.admin_token.read_text().strip()
        headers = {"Authorization": f"Bearer {token}", "Accept": "application/x-ndjson"}
        self.reached[node] = after
        while not self._stop_reading.is_set():
            http_ = http.client.HTTPSConnection(where.hostname or "", where.port, timeout=30.0, context=context)
            try:
                http_.request("GET", f"/api/v1/events?after={self.reached[node]}", headers=headers)
                answer = http_.getresponse()
                while not self._stop_reading.is_set() and (line := answer.readline()):
                    if line.strip():
                        self._told(node, json.loads(line))
            except (OSError, http.client.HTTPException, ValueError):
                self._stop_reading.wait(PAUSE_S)
            finally:
                http_.close()

    def _told(self, node: str, event: dict[str, object]) -> None:
        revision = event["revision"]
        assert isinstance(revision, int)
        if revision != self.reached[node] + 1:
            self.promises.complain(f"{node} tells of {revision} after {self.reached[node]}")
        self.lags.told(node, revision)
        changes = event["changes"]
        assert isinstance(changes, list)
        for change in changes:
            if change["kind"] == "setting" and change["op"] == "put" and change["id"].startswith(self.prefix):
                self.promises.tell(node, change["id"], change["spec"]["value"], revision)
        self.reached[node] = revision

    # ── what goes on besides ──

    def _promote(self) -> None:
        """The next node in turn becomes primary."""
        nodes = list(self._cluster.providers)
        turn = 1
        while not self._stop_writing.wait(self._promote_every_s):
            node = nodes[turn % len(nodes)]
            turn += 1
            asked = {"operation": "promote", "node": node, "force": False, "wait_s": WAIT_S}
            began_s = time.monotonic()
            try:
                answer = client(self._cluster, node).post("/failover", asked)
                result = json.loads(answer.body.splitlines()[-1])
            except (OSError, http.client.HTTPException, ValueError) as error:
                result = {"result": repr(error)}
            if result.get("result") == "promoted":
                self.promoted_ms.append((time.monotonic() - began_s) * 1000)
            else:
                self.promotions_refused.append(json.dumps(result))

    def _tell_agents(self) -> None:
        """Agents work as well: an account's password is changed again and again."""
        turn = 0
        while not self._stop_writing.wait(ACCOUNT_EVERY_S):
            turn += 1
            node = list(self._cluster.providers)[turn % len(self._cluster.providers)]
            for name in self._cluster.agents:
                body = {"host": "%", "grants": [], "password": secrets.token_hex(12)}
                try:
                    client(self._cluster, node).put(f"/instances/{name}/accounts/soak", body)
                except (OSError, http.client.HTTPException):
                    continue
