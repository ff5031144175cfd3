"""Nodes that share one database, in the hands of an adversary: real engines, stores and recoveries, without threads.

The adversary orders everything: what arrives in the log, what a node is told of it and when its engine looks at that,
who asks whom, who looks into the database. Brokers lose the end of the log; processes die; the database is away, its
answers are lost; somebody empties it, or puts a backup in its place. Some things it may not do: the database loses its
contents only while a node has them in memory that can write them back and the log leads there, and until that is done
no such node dies and no broker loses anything.

Promises: what was acknowledged is never lost, whoever is promoted, by force too, and whoever loses patience: it is in
the database. Each revision is stored once, and is the same for everybody for ever. No node shows an older state than it
has shown. In the end all nodes and the database are equal.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Literal
from unittest import mock

from immutables import Map
from sqlalchemy import select

from provider import durable as durable_module
from provider import engine as engine_module
from provider.core.commands import CLUSTER_ID, PutSetting
from provider.core.entries import Change, decode
from provider.core.pending import Result
from provider.core.state import Accepted, Answer, State, step
from provider.fleet.view import NodeSeen, View
from provider.log.port import Position
from provider.recovery import recovery as recovery_module
from provider.recovery.members import Standing
from provider.recovery.recovery import Recovery
from provider.store.tables import history
from shared.bus import Outcome
from shared.errors import BellwetherError
from shared.messages import NodePulse
from tests.model.driven import Clock, Database, Driven, ModelLog, ModelStore
from tests.model.losing import NAMES, START_MS
from tests.support.memory_log import MemoryLogStream

GENERATION = "g1"


def founded() -> State:
    members = [Change(kind="node", id=name, spec={"url": f"https://{name}:1"}) for name in NAMES]
    cluster = Change(kind="setting", id=CLUSTER_ID, spec={"value": "a cluster"})
    return State.genesis(generation=GENERATION, primary="p1", now=START_MS, changes=(*members, cluster))


@dataclass
class Node:
    name: str
    store: ModelStore
    log: ModelLog | None = None
    engine: Driven | None = None
    """None: it is down."""
    recovery: Recovery | None = None
    shown: int = 0


@dataclass
class World:
    """Implements `Members` for all nodes."""

    database: Database
    clock: Clock = field(default_factory=Clock)
    stream: MemoryLogStream = field(default_factory=MemoryLogStream)
    wire: list[tuple[ModelLog, bytes, object]] = field(default_factory=list)
    synced: int = 0
    acknowledged: dict[str, int] = field(default_factory=dict)
    values: dict[int, str] = field(default_factory=dict)
    known: dict[int, str] = field(default_factory=dict)
    """Digest by revision, of whatever was shown."""
    heard: Map[str, NodeSeen] = field(default_factory=Map)
    damaged: bool = False
    """The database has lost something that was not written back yet."""
    patches: ExitStack = field(default_factory=ExitStack)

    def __post_init__(self) -> None:
        modules: list[ModuleType] = [engine_module, durable_module, recovery_module]
        for module in modules:
            self.patches.enter_context(mock.patch.object(module, "time", self.clock))
        nothing: dict[str, Any] = {"LOOK_S": 0.0, "set_aside": lambda *_: None, "want_history": lambda *_: None}
        for name, value in nothing.items():
            self.patches.enter_context(mock.patch.object(recovery_module, name, value))
        self.genesis = founded()
        self.nodes = [Node(name, ModelStore(self.database)) for name in NAMES]
        self.database.put({})
        self.nodes[0].store.seed(self.genesis, None)
        self.backup = self.database.rows()
        for node in self.nodes:
            self.start(node)

    # ── processes ──

    def start(self, node: Node) -> None:
        with suppress(BellwetherError):
            if node.engine is not None or node.store.reached() is None:
                return
            node.engine = Driven(
                node=node.name,
                store=node.store,
                make_log=lambda _: self._log(node),
                on_applied=lambda state, accepted: self._applied(node, state),
                on_results=self._results,
            )
            node.shown = node.engine.state.revision
            node.recovery = Recovery(
                node=node.name,
                engine=node.engine,
                store=node.store,
                data_dir=Path("/nowhere"),
                members=self,
                view=lambda: View(nodes=self.heard),
            )
            node.engine.reading.begin(node.engine.snapshot()[1])

    def _log(self, node: Node) -> ModelLog:
        node.log = ModelLog(self)
        return node.log

    def kill(self, node: Node) -> None:
        if node.engine is None or node.log is None or self.damaged:
            return
        node.log.cut()
        node.log.close()
        node.engine = node.recovery = node.log = None

    def _applied(self, node: Node, state: State) -> None:
        assert state.revision >= node.shown, f"{node.name} showed {node.shown}, and now {state.revision}"
        node.shown = state.revision
        digest = self.known.setdefault(state.revision, state.digest)
        assert digest == state.digest, f"{node.name} has something else as revision {state.revision}"

    def _results(self, pairs: list[tuple[int, Result]]) -> None:
        for ticket, result in pairs:
            if isinstance(result, Answer) and ticket in self.values:
                stored = self.stored()
                assert stored >= result.revision, "answered before it was in the database"
                self.acknowledged[self.values[ticket]] = result.revision

    def stored(self) -> int:
        with self.database.engine.connect() as connection:
            return int(connection.exec_driver_sql("SELECT max(revision) FROM meta").scalar() or 0)

    # ── the log and the brokers ──

    def arrive(self, index: int) -> None:
        log = self.wire[index % len(self.wire)][0]
        at = next(i for i, one in enumerate(self.wire) if one[0] is log)
        _, data, token = self.wire.pop(at)
        self.stream.records.append(data)
        log.ended(token, Outcome.CONFIRMED)

    def power_cut(self, keep: int) -> None:
        if self.damaged:
            return
        for node in self.nodes:
            if node.log is not None:
                node.log.cut()
        self.wire.clear()
        self.stream.forget(min(self.synced + keep, len(self.stream.records)))
        self.synced = len(self.stream.records)

    def connect(self, node: Node) -> None:
        if node.log is not None:
            node.log.connect()

    def folded(self) -> State:
        state = self.genesis
        for data in self.stream.records:
            outcome = step(state, decode(data))
            state = outcome.state if isinstance(outcome, Accepted) else state
        return state

    # ── the database ──

    def lose_database(self, *, all_: bool) -> None:
        """Somebody empties it, or puts a backup of it in its place. A node that has as much must be there, and the log
        must lead there."""
        stored = self.stored()
        running = [node for node in self.nodes if node.engine is not None and not node.store.down]
        have = [
            n
            for n in running
            if n.engine is not None and n.engine.state.revision >= stored and n.engine.reading.lost is None
        ]
        if self.damaged or not have or self.folded().revision < stored:
            return
        self.database.put({} if all_ else self.backup)
        self.damaged = True

    def keep_backup(self) -> None:
        if not self.damaged:
            self.backup = self.database.rows()

    # ── what nodes ask each other ──

    def tell(self, node: Node) -> None:
        if (engine := node.engine) is None:
            return
        health, state = engine.health, engine.state
        role: Literal["primary", "standby"] = "primary" if state.primary == node.name else "standby"
        how = "active" if health.connected and health.caught_up and health.asking is None else "syncing"
        pulse = NodePulse(role=role, state=how, version="1", revision=state.revision, digest="", started="")
        self.heard = self.heard.set(node.name, NodeSeen(0, self.clock.now_s, pulse, state.epoch))

    def recover(self, node: Node) -> None:
        """One round of what its thread does."""
        recovery = node.recovery
        if recovery is None:
            return
        questions = list(recovery._questions.values())
        if questions:
            recovery._answer(questions)
        recovery._listen_to_the_primary()
        recovery._look_at_store()
        if recovery._heals:
            recovery._heal()
        elif not questions:
            recovery._look_whether_all_is_back()
            recovery._look_for_gaps()

    def standings(self, urls: Mapping[str, str], patience_s: float = 1.0) -> dict[str, Standing | None]:
        return {node.name: self._standing(node) for node in self.nodes if node.name in urls}

    def _standing(self, node: Node) -> Standing | None:
        if (engine := node.engine) is None:
            return None
        reading, health = engine.reading, engine.health
        primary = reading.course.replica.state.primary == node.name
        return Standing(reading.word, "a cluster", health.connected and health.caught_up, primary)

    def snapshot(self, url: str) -> tuple[State, Position | None]:
        engine = next(node.engine for node in self.nodes if url == f"https://{node.name}:1")
        assert engine is not None
        return engine.snapshot()

    def history(self, url: str, until: int) -> Iterator[str]:
        rows = self.nodes[0].store.history_back(until + 1, 0, 10_000)
        yield from (json.dumps([row.revision, row.epoch, row.at, row.record]) for row in rows)
        yield json.dumps(["end", len(rows)])

    # ── clients and operators ──

    def put(self, node: Node) -> None:
        if (engine := node.engine) is not None:
            ticket = engine.ticket() + 1000 * len(self.values) + 1_000_000
            self.values[ticket] = f"user.k{len(self.values)}"
            command = PutSetting(self.values[ticket], ticket)
            engine.submit(ticket, command, principal="ann", action="a test", wait_s=1e9)

    def promote(self, node: Node, *, force: bool) -> None:
        if (engine := node.engine) is not None:
            engine.barrier(engine.ticket(), wait_s=60.0, promote=True, force=force)

    # ── promises ──

    def check(self) -> None:
        if self.damaged:
            self.damaged = self.stored() < max(
                (node.shown for node in self.nodes if node.engine is not None), default=0
            )

    def step(self) -> None:
        """All goes well for a second."""
        self.clock.now_s += 1.0
        for node in self.nodes:
            if node.log is not None and not node.log.readable:
                self.connect(node)
            self.tell(node)
            while self.wire:
                self.arrive(0)
            while node.log is not None and node.log.read_one():
                pass
            if node.engine is not None:
                node.engine.look(ticks=True)
            self.recover(node)
        self.check()

    @property
    def at_rest(self) -> bool:
        engines = [node.engine for node in self.nodes if node.engine is not None]
        revisions = {self.stored(), *(engine.state.revision for engine in engines)}
        return len(revisions) == 1 and all(
            engine.health.caught_up and engine.health.asking is None and not engine._durable.unsaved
            for engine in engines
        )

    def end(self) -> None:
        """All is up again, and at rest; and it can be written."""
        for node in self.nodes:
            node.store.down = node.store.mute = False
        self._settle()
        engines = [node.engine for node in self.nodes if node.engine is not None]
        primary = next(node for node in self.nodes if node.name == engines[0].state.primary)
        self.put(primary)
        self._settle()
        assert list(self.values.values())[-1] in self.acknowledged, "in the end nothing can be written"
        final = engines[0].state
        for key, revision in self.acknowledged.items():
            document = final.get("setting", key)
            assert document is not None, f"{key} was acknowledged and is lost"
            assert document.revision == revision, f"{key} was acknowledged at another revision"
        assert {engine.state.digest for engine in engines} == {final.digest, self.nodes[0].store.load()[0].digest}
        with self.database.engine.connect() as connection:
            revisions = connection.execute(select(history.c.revision).order_by(history.c.revision)).scalars().all()
        assert list(revisions) == list(range(final.revision - len(revisions) + 1, final.revision + 1))

    def _settle(self) -> None:
        rests = 0
        for _ in range(200):
            for node in self.nodes:
                self.start(node)
            self.step()
            rests = rests + 1 if self.at_rest else 0
            if rests == 3:
                return
        raise AssertionError("it does not come to rest")

    def close(self) -> None:
        self.patches.close()
