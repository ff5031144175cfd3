"""Engines to try things on: the real engine and store, a log in memory, and results that can be waited for."""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from hashlib import sha256
from pathlib import Path

from provider.core.commands import Command, PutSetting
from provider.core.entries import Change, Entry, decode
from provider.core.pending import Result
from provider.core.replica import Ask, Progress
from provider.core.state import Accepted, Answer, State
from provider.engine import Engine
from provider.store import Store
from tests.support.history import GENERATION, START_MS
from tests.support.memory_log import MemoryLog, MemoryLogStream

PATIENCE_S = 20.0


def genesis(*nodes: str) -> State:
    """Revision 1, with these nodes; the first one is primary."""
    changes = tuple(
        Change(
            kind="node", id=name, spec={"url": f"https://{name}:1", "version": "1", "endpoints": [f"amqps://{name}"]}
        )
        for name in nodes
    )
    return State.genesis(generation=GENERATION, primary=nodes[0], now=START_MS, changes=changes)


class ValveLog(MemoryLog):
    """What is appended can be held back (`shut`), as a broker does that hangs; and refused (`why_blocked`). One that is
    `deaf` is told nothing more, as by a broker that has forgotten its reader, until it reads anew."""

    def __init__(self, stream: MemoryLogStream) -> None:
        super().__init__(stream)
        self.why_blocked: str | None = None
        self.appended = 0
        self.deaf = False
        self._shut = False
        self._held: list[Callable[[], None]] = []
        self._valve = threading.Lock()

    @property
    def blocked(self) -> str | None:
        return self.why_blocked

    def append(self, data: bytes, token: object, deadline_s: float) -> None:
        with self._valve:
            self.appended += 1
            send = partial(super().append, data, token, deadline_s)
            if self._shut:
                self._held.append(send)
            else:
                send()

    def pump(self) -> None:
        if not self.deaf:
            super().pump()

    def reread(self, reason: str) -> None:
        self.deaf = False
        super().reread(reason)

    def shut(self) -> None:
        with self._valve:
            self._shut = True

    def open(self) -> None:
        """What was held back goes out now, late."""
        with self._valve:
            self._shut = False
            held, self._held = self._held, []
            for send in held:
                send()


class Host:
    """A node's engine, on a store in `directory`. `seed` is what the store begins with; without it, what is there."""

    def __init__(
        self,
        name: str,
        stream: MemoryLogStream,
        directory: Path,
        *,
        seed: State | None = None,
        on_ask: Callable[[Ask], None] | None = None,
        database: str | None = None,
    ) -> None:
        """`database`: a name that it shares with others; its own, unless given."""
        self.name = name
        self.url = f"sqlite:///{directory / f'{database or name}.db'}"
        self.store = Store(self.url, busy_s=0.02 if database is None else 1.0)
        self.store.migrate()
        if seed is not None:
            self.store.seed(seed, None)
        self.stream = stream
        self.results: dict[int, list[Result]] = {}
        self.durable: dict[int, int] = {}
        """By ticket, the revision that the store had when the result was told."""
        self.applied: list[Accepted] = []
        self.listeners: list[Callable[[list[tuple[int, Result]]], None]] = []
        self.on_change: list[Callable[[], None]] = []
        self._news = threading.Condition()
        self.engine = Engine(
            node=name,
            store=self.store,
            make_log=self._make_log,
            on_applied=self._on_applied,
            on_results=self._on_results,
        )
        if on_ask is not None:
            self.engine.attach(on_ask=on_ask, on_lost=lambda: None)

    def _make_log(self, _generation: str) -> ValveLog:
        self.log = ValveLog(self.stream)
        return self.log

    def start(self) -> "Host":
        self.engine.start()
        return self

    def stop(self) -> None:
        self.engine.stop(PATIENCE_S)
        self.store.close()

    # ── asking ──

    def put(self, key: str, value: object = 1, *, wait_s: float = PATIENCE_S, again: str | None = None) -> int:
        """A ticket for `user.<key>` = value. `again` is its idempotency key."""
        return self.submit(PutSetting(f"user.{key}", value), wait_s=wait_s, again=again)

    def submit(self, command: Command, *, wait_s: float = PATIENCE_S, again: str | None = None) -> int:
        ticket = self.engine.ticket()
        said = sha256(repr(command).encode()).hexdigest()
        self.engine.submit(
            ticket, command, principal="token:t", action="PUT", wait_s=wait_s, key=again, fingerprint=said
        )
        return ticket

    def barrier(self, *, promote: bool = False, wait_s: float = PATIENCE_S) -> int:
        ticket = self.engine.ticket()
        self.engine.barrier(ticket, wait_s=wait_s, promote=promote)
        return ticket

    # ── waiting ──

    def result(self, ticket: int, timeout_s: float = PATIENCE_S) -> Result:
        """What the ticket was answered with in the end."""
        self.until(lambda: self._final(ticket) is not None, timeout_s, f"no result for ticket {ticket}")
        found = self._final(ticket)
        assert found is not None
        return found

    def answer(self, ticket: int) -> Answer:
        """The same, and it is a success."""
        result = self.result(ticket)
        assert isinstance(result, Answer), result
        return result

    def reach(self, revision: int) -> State:
        self.until(lambda: self.engine.state.revision >= revision, what=f"{self.name} does not reach {revision}")
        return self.engine.state

    def caught_up(self) -> "Host":
        result = self.result(self.barrier())
        assert isinstance(result, Progress), result
        return self

    def promoted(self) -> State:
        """This node, as primary."""
        result = self.result(self.barrier(promote=True))
        assert isinstance(result, Progress), result
        assert result.state.primary == self.name
        return self.reach(result.state.revision)

    def until(self, condition: Callable[[], bool], timeout_s: float = PATIENCE_S, what: str = "in time") -> None:
        """Waits for results and states; looks now and then also where nothing was told."""
        deadline = time.monotonic() + timeout_s
        with self._news:
            while not condition():
                assert time.monotonic() < deadline, what
                self._news.wait(0.02)

    def until_told(self, many: int, tickets: Sequence[int]) -> None:
        """Waits until that many of `tickets` have a result."""
        self.until(lambda: sum(map(self.told, tickets)) >= many, what=f"less than {many} results")

    def told(self, ticket: int) -> bool:
        return self._final(ticket) is not None

    def value(self, key: str) -> object:
        document = self.engine.state.get("setting", f"user.{key}")
        return None if document is None else document.spec["value"]

    def _final(self, ticket: int) -> Result | None:
        results = self.results.get(ticket, [])
        return next((r for r in results if not isinstance(r, Progress) or r.final), None)

    # ── the engine's callbacks ──

    def _on_applied(self, state: State, accepted: Sequence[Accepted]) -> None:
        with self._news:
            assert state is accepted[-1].state
            self.applied += accepted
            self._news.notify_all()
        for tell in self.on_change:
            tell()

    def _on_results(self, pairs: list[tuple[int, Result]]) -> None:
        with self._news:
            for ticket, result in pairs:
                self.results.setdefault(ticket, []).append(result)
                self.durable[ticket] = self.engine.state.revision
            self._news.notify_all()
        for tell in self.listeners:
            tell(pairs)


StartHost = Callable[..., Host]


@contextmanager
def locked(host: Host) -> Iterator[None]:
    """Somebody else holds the store's lock: it can be read, not written."""
    other = sqlite3.connect(host.url.removeprefix("sqlite:///"), isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")
    finally:
        other.close()


def entries(stream: MemoryLogStream) -> list[Entry]:
    records = [decode(data) for data in stream.records]
    return [record for record in records if isinstance(record, Entry)]


def accepted_keys(host: Host) -> list[str]:
    """The settings that were changed, in order, one for each change in an accepted entry."""
    return [
        change.id
        for accepted in host.applied
        if isinstance(accepted.record, Entry)
        for commit in accepted.record.commits
        for change in commit.changes
    ]
