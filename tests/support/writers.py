"""Writers that go on whatever happens, and remember what they were promised.

Each is a thread with a connection of its own. It writes new settings, one at a time, each under a fresh idempotency
key, and asks again under the same key, on the next node, where an answer says that asking again can help. What was
answered with success was promised: it must be there afterwards, once, at the revision that the answer named.
"""

import http.client
import itertools
import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from localcluster.api import Answer
from localcluster.cluster import Cluster

from shared.tls import client_context
from tests.support.api import Client, client
from tests.support.nodes import events

PREFIX = "user.load."
RETRYABLE = {429, 503, 504}


class Connection:
    """A lasting connection. Raises `OSError` where there is no answer; then the next request connects."""

    def __init__(self, cluster: Cluster, url: str, *, timeout_s: float) -> None:
        where = urlsplit(url)
        self._http = http.client.HTTPSConnection(
            where.hostname or "", where.port, timeout=timeout_s, context=client_context(cluster.layout.ca)
        )
        self._headers = {"Authorization": f"Bearer {cluster.layout.admin_token.read_text().strip()}"}

    def put(self, path: str, value: Any, key: str | None) -> tuple[int, dict[str, Any]]:
        """Status and JSON of the answer."""
        answer = self.ask("PUT", path, value, {"Idempotency-Key": key} if key is not None else {})
        return answer.status, answer.json

    def ask(self, method: str, path: str, value: Any = None, headers: Mapping[str, str] | None = None) -> Answer:
        body = json.dumps(value) if value is not None else None
        try:
            self._http.request(method, f"/api/v1{path}", body, {**self._headers, **(headers or {})})
            answer = self._http.getresponse()
            found = {name.lower(): text for name, text in answer.getheaders()}
            return Answer(answer.status, found, answer.read())
        except http.client.HTTPException as error:
            self.close()
            raise OSError(f"the connection broke: {error!r}") from None
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        self._http.close()


class Stream(Connection):
    """A connection for one answer that does not end by itself."""

    def open(self, path: str, headers: Mapping[str, str]) -> Answer:
        """What the answer begins with. Raises `OSError`."""
        try:
            self._http.request("GET", f"/api/v1{path}", None, {**self._headers, **headers})
            self._answer = self._http.getresponse()
        except http.client.HTTPException as error:
            raise OSError(f"the connection broke: {error!r}") from None
        return Answer(self._answer.status, {name.lower(): text for name, text in self._answer.getheaders()}, b"")

    def lines(self) -> Iterator[Any]:
        """The JSON of each whole line, until the answer ends, breaks off, or has nothing to tell for too long."""
        while True:
            try:
                line = self._answer.readline()
            except (OSError, http.client.HTTPException):
                return
            if not line.endswith(b"\n"):
                return
            if line.strip():
                yield json.loads(line)


@dataclass(frozen=True, slots=True)
class Failure:
    """An answer, or none (`status` 0), that a client would have seen as a failure."""

    node: str
    setting: str
    status: int
    detail: str
    took_s: float


@dataclass
class Writers:
    """What the writers were told. Any thread may look."""

    promised: dict[str, int] = field(default_factory=dict)
    """Setting → revision that the answer named."""
    open: set[str] = field(default_factory=set)
    """Settings that were asked for and never answered with success: they may be there or not."""
    failures: list[Failure] = field(default_factory=list)
    stalls_s: list[float] = field(default_factory=list)
    """How long each success took, retries included."""
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _stopping: threading.Event = field(default_factory=threading.Event)

    def wait_for_more(self, number: int = 20, *, timeout_s: float = 30.0) -> None:
        """Waits until that many more writes have succeeded, counted from now."""
        with self._changed:
            wanted = len(self.promised) + number
            assert self._changed.wait_for(lambda: len(self.promised) >= wanted, timeout_s), (
                f"{len(self.promised)} of {wanted} writes in {timeout_s:g} s; the last failures: {self.failures[-5:]}"
            )

    # ── the threads ──

    def write(
        self,
        cluster: Cluster,
        name: str,
        nodes: Sequence[str],
        timeout_s: float,
        urls: Mapping[str, str],
        *,
        keyed: bool,
    ) -> None:
        """One writer: the nodes in turn, each kept as long as it answers."""
        connections = {node: Connection(cluster, urls[node], timeout_s=timeout_s) for node in nodes}
        turns = itertools.cycle(nodes)
        node = next(turns)
        for number in itertools.count():
            setting, key = f"{PREFIX}{name}.{number}", uuid4().hex if keyed else None
            with self._changed:
                self.open.add(setting)
            began_s = time.monotonic()
            while not self._stopping.is_set():
                if self._attempt(connections[node], node, setting, key, began_s):
                    break
                node = next(turns)
            if self._stopping.is_set():
                break
        for connection in connections.values():
            connection.close()

    def _attempt(self, connection: Connection, node: str, setting: str, key: str | None, began_s: float) -> bool:
        asked_s = time.monotonic()
        try:
            status, body = connection.put(f"/settings/{setting}", {"value": setting}, key)
        except OSError as error:
            status, body = 0, {"detail": repr(error), "code": "no answer"}
        now_s = time.monotonic()
        with self._changed:
            if 200 <= status < 300:
                self.promised[setting] = body["revision"]
                self.open.discard(setting)
                self.stalls_s.append(now_s - began_s)
                self._changed.notify_all()
                return True
            detail = f"{body.get('code')}: {body.get('detail')}"
            self.failures.append(Failure(node, setting, status, detail, now_s - asked_s))
        if status not in RETRYABLE | {0} or key is None:
            self._stopping.set()  # a refusal, or nothing that may be asked again: the test looks at it and fails
        self._stopping.wait(0.05)
        return False

    def stop(self) -> None:
        self._stopping.set()


@contextmanager
def running(
    cluster: Cluster,
    *,
    one_each: Sequence[str] = (),
    roaming: int = 0,
    nodes: Sequence[str] = (),
    keyed: bool = True,
    timeout_s: float = 10.0,
    through: Mapping[str, str] | None = None,
) -> Iterator[Writers]:
    """Writers that run within this block: one for each node in `one_each`, which stays with it; and `roaming` that
    turn to the next of `nodes` (all, unless given) when one fails them. Those that are not `keyed` give up at once.
    `through` names further addresses, as that of a proxy, that may stand for a node."""
    urls = {**{name: provider.url for name, provider in cluster.providers.items()}, **(through or {})}
    load, run = Writers(), uuid4().hex[:6]
    plans = [(f"{run}.{node}", [node]) for node in one_each]
    order = list(nodes) or list(cluster.providers)
    plans += [(f"{run}.{n}", order[n % len(order) :] + order[: n % len(order)]) for n in range(roaming)]
    threads = [
        threading.Thread(target=load.write, args=(cluster, *plan, timeout_s, urls), kwargs={"keyed": keyed})
        for plan in plans
    ]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        load.stop()
        for thread in threads:
            thread.join(timeout_s + 5.0)
    assert not any(thread.is_alive() for thread in threads), "a request hangs without a deadline"


def check_promises(cluster: Cluster, load: Writers, *, after: int) -> None:
    """Every promise is kept, exactly once, on each node: the setting is there, at the revision that was answered, and
    the events since revision `after` hold it once. What was never answered with success is there once or not at all."""
    asked = load.promised.keys() | load.open
    for name in cluster.providers:
        node = client(cluster, name)
        held = {setting: revision for setting, revision in settings(node).items() if setting in asked}
        lost = {setting for setting, revision in load.promised.items() if held.get(setting) != revision}
        assert not lost, f"{name}: {len(lost)} acknowledged writes are lost or altered: {sorted(lost)[:5]}"
        told: dict[str, list[int]] = {}
        for event in events(node, after):
            for change in event["changes"]:
                if change["id"] in asked:
                    told.setdefault(change["id"], []).append(event["revision"])
        twice = {setting: revisions for setting, revisions in told.items() if len(revisions) > 1}
        assert not twice, f"{name}: done more than once: {twice}"
        assert {setting: at[0] for setting, at in told.items()} == held, f"{name}: events and state differ"


def settings(node: Client) -> dict[str, int]:
    """All settings of writers on that node, with their revisions."""
    found: dict[str, int] = {}
    after = ""
    while True:
        page = node.read(f"/settings?prefix={PREFIX}&limit=1000{after}")
        found |= {item["id"]: item["revision"] for item in page["items"]}
        if page["next"] is None:
            return found
        after = f"&after={page['next']}"
