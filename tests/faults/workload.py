"""Clients on a bad day: they write and read through all nodes, and take down what they asked and were answered.

What each does follows from the seed and from what it is answered. A value is the name of the op that writes it, so that
whoever finds a value knows who wrote it.
"""

import random
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from urllib.parse import quote

from localcluster.api import Answer
from localcluster.cluster import Cluster
from localcluster.process import wait_until

from tests.faults.agreed import NOT_DONE
from tests.faults.history import Action, Attempt, Entry, Followed, Recorder
from tests.support.writers import RETRYABLE, Connection, Stream

TIMEOUT_S = 3.0
ATTEMPTS_MAX = 8
PAUSE_S = 0.06
WISHES_S = 1.0
METHODS: Mapping[Action, str] = {"put": "PUT", "wish": "PUT", "delete": "DELETE"}
SHARED, COUNTED = 6, 2
"""Settings that everybody writes; and those that are written with `If-Match` alone."""


class Clients:
    """All clients of one run. `doors`: name → URL of everybody who may be asked."""

    def __init__(
        self,
        cluster: Cluster,
        doors: Mapping[str, str],
        seed: int,
        recorder: Recorder,
        mark: str,
        *,
        pause_s: float = PAUSE_S,
        after: int = 0,
    ) -> None:
        """`mark` makes the ops of this run differ from those of an earlier one with the same seed. `pause_s`: what a
        client pauses at most between two wishes; `after`: the revision from which on `/events` is followed."""
        self._pause_s, self._after = pause_s, after
        self._cluster, self._doors, self._recorder = cluster, dict(doors), recorder
        self.prefix = f"user.f{seed}.{mark}."
        """What the names of the run's settings begin with."""
        self._mark, self._seed = mark, seed
        self._stopping = threading.Event()
        self.broken: list[str] = []
        """Answers that no client should ever get."""
        plans = {
            "writer0": partial(_Client.write, keyed=True, believes=False),
            "writer1": partial(_Client.write, keyed=True, believes=False),
            "writer2": partial(_Client.write, keyed=True, believes=True),
            "writer3": partial(_Client.write, keyed=False, believes=True),
            "counter0": _Client.count,
            "counter1": _Client.count,
            "remover": _Client.remove,
            **({"wisher": _Client.wish} if cluster.agents else {}),
            **{f"reader at {door}": partial(_Client.read, door=door) for door in doors},
            **{f"follower at {door}": partial(_Client.follow, door=door) for door in doors},
        }
        self._threads = [
            threading.Thread(target=self._run, args=(name, plan), name=name) for name, plan in plans.items()
        ]

    def _run(self, name: str, plan: "partial[None]") -> None:
        client = _Client(name, self)
        while not self._stopping.is_set():
            plan(client)
            self._stopping.wait(client.chance.uniform(0, self._pause_s))
        client.close()

    @contextmanager
    def running(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stopping.set()
            for thread in self._threads:
                thread.join(2 * TIMEOUT_S)
        assert not any(thread.is_alive() for thread in self._threads), "a request hangs without a deadline"

    def hear_from(self, doors: Collection[str], timeout_s: float) -> None:
        """Waits until a write that was asked for from now on has succeeded through each of these. Raises
        `ProcessFailed`."""
        now_s = time.monotonic()

        def heard() -> bool:
            done = {
                one.door for one in self._recorder.attempts if one.action == "put" and one.done and one.asked_s > now_s
            }
            return set(doors) <= done

        wait_until(heard, timeout_s=timeout_s, what=f"no write succeeds through each of {sorted(doors)}")

    def shared(self, number: int) -> str:
        return f"{self.prefix}s{number}"

    def removed(self, number: int) -> str:
        return f"{self.prefix}d{number}"

    def stays(self, setting: str) -> bool:
        """Whether nobody deletes it, not even a request that comes late."""
        return not setting.startswith(f"{self.prefix}d")

    def counted(self, number: int) -> str:
        return f"{self.prefix}c{number}"


class _Client:
    """One of them, in a thread of its own. Each method is one thing that it wants."""

    def __init__(self, name: str, all_: Clients) -> None:
        self._name, self._all = name, all_
        self.chance = random.Random(f"{all_._seed} {name}")
        self._connections: dict[str, Connection] = {}
        self._doors = list(all_._doors)
        self._number = 0
        self._after = all_._after
        """The last revision that a stream has told of."""

    def close(self) -> None:
        for connection in self._connections.values():
            connection.close()

    def write(self, *, keyed: bool, believes: bool) -> None:
        """A new value. `believes`: what it is told not to be done it does not ask for again."""
        setting = self._all.shared(self.chance.randrange(SHARED))
        self._put(self._op(), setting, keyed=keyed, believes=believes)

    def count(self) -> None:
        """Replaces what it has read, unless somebody else has."""
        setting = self._all.counted(self.chance.randrange(COUNTED))
        seen = self._ask(self._new(self._op(), "read", self.chance.choice(self._doors), setting=setting))
        if seen.status in (200, 404):
            self._put(self._op(), setting, keyed=True, believes=False, match=seen.document or 0)

    def remove(self) -> None:
        """A new value, and it goes again. Nobody else writes there."""
        setting = self._all.removed(self.chance.randrange(COUNTED))
        self._put(self._op(), setting, keyed=True, believes=False)
        if self.chance.random() < 0.7:
            self._put(self._op(), setting, keyed=True, believes=False, action="delete")

    def wish(self) -> None:
        """A database. Not too many: each is made."""
        instance = self.chance.choice(list(self._all._cluster.agents))
        op = self._op()
        self._put(op, f"{instance}/{op.replace('.', '_')}", keyed=True, believes=False, action="wish")
        self._all._stopping.wait(self.chance.uniform(0, WISHES_S))

    def read(self, *, door: str) -> None:
        op = self._op()
        match self.chance.randrange(4):
            case 0:
                self._ask(self._new(op, "list", door))
            case 1:
                self._ask(self._new(op, "look", door))
            case _:
                shared = self._all.shared(self.chance.randrange(SHARED))
                setting = shared if self.chance.random() < 0.8 else self._all.removed(self.chance.randrange(COUNTED))
                minimum = self._newest() if self.chance.random() < 0.3 else None
                self._ask(replace(self._new(op, "read", door, setting=setting), minimum=minimum))

    def follow(self, *, door: str) -> None:
        """A stream of events, from where the last one broke off, until this one does."""
        came: list[Entry] = []
        stream = Stream(self._all._cluster, self._all._doors[door], timeout_s=TIMEOUT_S)
        try:
            answer = stream.open(f"/events?after={self._after}", {"Accept": "application/x-ndjson"})
            if answer.status == 410:  # it knows no more of what was: from where it is on
                self._after = int(answer.headers["bellwether-revision"])
            elif answer.status == 200:
                for event in stream.lines():
                    came.append(Entry(event["revision"], event["epoch"], event["type"], event["node"]))
                    if self._all._stopping.is_set():
                        break
                self._all._recorder.stream(Followed(answer.headers["bellwether-node"], self._after, tuple(came)))
                self._after = came[-1].revision if came else self._after
        except OSError:
            pass
        finally:
            stream.close()
        if not came:
            self._all._stopping.wait(0.3)

    def _newest(self) -> int | None:
        written = [one.document or 0 for one in self._all._recorder.attempts[-50:] if one.action == "put" and one.done]
        return max(written, default=None)

    def _op(self) -> str:
        self._number += 1
        return f"{self._all._mark}.{self._name.replace(' ', '-')}.{self._number}"

    def _put(
        self,
        op: str,
        setting: str,
        *,
        keyed: bool,
        believes: bool,
        match: int | None = None,
        action: Action = "put",
    ) -> None:
        order = self.chance.sample(self._doors, len(self._doors))
        for number in range(ATTEMPTS_MAX if keyed else 1):
            attempt = replace(self._new(op, action, order[number % len(order)], setting=setting), match=match)
            answered = self._ask(attempt, key=op if keyed else None)
            if answered.status not in RETRYABLE | {0} or self._all._stopping.is_set():
                return
            if believes and answered.code in NOT_DONE:
                return
            self._all._stopping.wait(self.chance.uniform(0, 0.1))

    # ── asking ──

    def _new(self, op: str, action: Action, door: str, *, setting: str | None = None) -> Attempt:
        now_s = time.monotonic()
        return Attempt(self._name, op, action, door, now_s, now_s, setting=setting)

    def _ask(self, attempt: Attempt, key: str | None = None) -> Attempt:
        """The same with its answer, taken down."""
        headers = {} if key is None else {"Idempotency-Key": key}
        value: dict[str, str] | None = None
        if attempt.action == "wish":
            value = {}
        elif attempt.action == "put":
            value = {"value": attempt.op}
            if attempt.match == 0:
                headers["If-None-Match"] = "*"
            elif attempt.match is not None:
                headers["If-Match"] = f'"{attempt.match}"'
        if attempt.minimum is not None:
            headers |= {"Bellwether-Min-Revision": str(attempt.minimum), "Bellwether-Wait": "1"}
        door, url = attempt.door, self._all._doors[attempt.door]
        connection = self._connections.setdefault(door, Connection(self._all._cluster, url, timeout_s=TIMEOUT_S))
        method = METHODS.get(attempt.action, "GET")
        try:
            answer = connection.ask(method, self._path(attempt), value, headers)
        except OSError:
            done = replace(attempt, answered_s=time.monotonic())
        else:
            done = _with(replace(attempt, answered_s=time.monotonic()), answer)
            self._judge(answer)
        self._all._recorder.attempt(done)
        return done

    def _path(self, attempt: Attempt) -> str:
        match attempt.action:
            case "list":
                return f"/settings?prefix={self._all.prefix}&limit=1000"
            case "look":
                return "/cluster"
            case "wish":
                return "/instances/{}/databases/{}".format(*(attempt.setting or "").split("/"))
            case _:
                return f"/settings/{quote(attempt.setting or '')}"

    def _judge(self, answer: Answer) -> None:
        if answer.status >= 500 and answer.status not in RETRYABLE:
            self._all.broken.append(f"{answer.status}: {answer.body[:300].decode(errors='replace')}")


def _with(attempt: Attempt, answer: Answer) -> Attempt:
    """What the answer says. One without our headers is a proxy's, who found nobody."""
    said = answer.headers
    if "bellwether-node" not in said:
        return replace(attempt, status=answer.status)
    attempt = replace(
        attempt,
        status=answer.status,
        code=answer.code,
        node=said["bellwether-node"],
        role=said["bellwether-role"],
        epoch=int(said["bellwether-epoch"]),
        revision=int(said["bellwether-revision"]),
    )
    if not attempt.done or attempt.action == "delete":
        return attempt
    body = answer.json
    match attempt.action:
        case "list":
            items = {item["id"]: (item["revision"], item["spec"]["value"]) for item in body["items"]}
            return replace(attempt, document=body["revision"], items=items)
        case "look":
            return replace(attempt, document=body["revision"], found=body["digest"])
        case "read":
            return replace(attempt, document=body["revision"], found=body["spec"]["value"])
        case _:
            return replace(attempt, document=body["revision"])
