"""What nodes on a shared database are made of in the model: the program's own parts, without threads and disks."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from sqlalchemy import Connection, create_engine, insert, select
from sqlalchemy.pool import StaticPool

from provider.engine import Engine
from provider.log.port import LogSink, Position
from provider.store import Store, StoreUnavailable
from provider.store.connections import translated
from provider.store.statements import Statements
from provider.store.tables import SCHEMA, metadata
from shared.bus import Outcome
from tests.model.losing import START_MS
from tests.support.memory_log import MemoryLog, MemoryLogStream

Rows = dict[str, list[dict[str, Any]]]


class Wires(Protocol):
    """What connects the logs of all nodes."""

    stream: MemoryLogStream
    wire: "list[tuple[ModelLog, bytes, object]]"


class Clock:
    """In the place of the module `time`."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s

    def time_ns(self) -> int:
        return START_MS * 1_000_000 + int(self.now_s * 1e9)


class Database:
    """In memory, for all nodes."""

    def __init__(self) -> None:
        self.engine = create_engine("sqlite://", poolclass=StaticPool)
        with self.engine.begin() as connection:
            metadata.create_all(connection)
            connection.exec_driver_sql("CREATE TABLE alembic_version (version_num VARCHAR(32))")
            connection.exec_driver_sql(f"INSERT INTO alembic_version VALUES ('{SCHEMA}')")
            self.statements = Statements(connection.dialect)

    def rows(self) -> Rows:
        with self.engine.connect() as connection:
            return {
                t.name: [dict(row) for row in connection.execute(select(t)).mappings()]
                for t in metadata.tables.values()
            }

    def put(self, rows: Rows) -> None:
        with self.engine.begin() as connection:
            for table in metadata.tables.values():
                connection.execute(table.delete())
                if rows.get(table.name):
                    connection.execute(insert(table), rows[table.name])


class ModelStore(Store):
    """One node's way to the database. `down`: nothing comes through; `mute`: the next answer to a writer is lost."""

    def __init__(self, database: Database) -> None:
        super().__init__("sqlite:////nowhere")
        self._engine = self._commits = database.engine
        self._statements = database.statements
        self.down = self.mute = False

    @contextmanager
    def _writing(self, *, commits: bool = False) -> Iterator[Connection]:
        with self._reading() as connection, connection.begin():
            yield connection
        if self.mute:
            self.mute = False
            raise StoreUnavailable("its answer was lost")

    @contextmanager
    def _reading(self, *, snapshot: bool = False) -> Iterator[Connection]:
        if self.down:
            raise StoreUnavailable("it is away")
        with translated(self._engine), self._engine.connect() as connection:
            yield connection


class ModelLog(MemoryLog):
    """Does nothing by itself: its tasks are done at once, but what is to be read when it is told to. What was appended
    is on its way until it arrives."""

    def __init__(self, world: Wires) -> None:
        super().__init__(world.stream)
        self._world = world

    def start(self, position: Position | None, sink: LogSink, *, anywhere: bool = False) -> None:
        self._stand, self._sink, self._anywhere = position, sink, anywhere
        self._stream.add(self)
        self.connect()

    def later(self, task: Any) -> None:
        """What streams ask for all logs: nothing here."""

    def append(self, data: bytes, token: object, deadline_s: float) -> None:
        if self._up:
            self._world.wire.append((self, data, token))
        else:
            self.ended(token, Outcome.UNKNOWN)

    def ended(self, token: object, outcome: Outcome) -> None:
        if self._sink is not None and not self._ended:
            self._sink.on_append(token, outcome)

    def pump(self) -> None:
        """Only one by one."""

    def read_one(self) -> bool:
        if not self._up or self._ended or self._at >= self._stream.next:
            return False
        self._prefetch = self._unacknowledged + 1
        super().pump()
        return True

    def cut(self) -> None:
        """Of what is on its way nobody knows what becomes of it; here it is gone."""
        if self._up and self._sink is not None:
            self._up = False
            self._sink.on_down("cut")
        gone = [token for log, _, token in self._world.wire if log is self]
        self._world.wire = [one for one in self._world.wire if one[0] is not self]
        for token in gone:
            self.ended(token, Outcome.UNKNOWN)

    def reread(self, reason: str) -> None:
        self.cut()
        self.connect()

    def close(self) -> None:
        self._ended, self._up = True, False
        self._stream.remove(self)


class Driven(Engine):
    """Its turns are taken by the model."""

    def look(self, *, ticks: bool = False) -> None:
        self._turn(self._inbox.take(0.0) if not self._inbox.empty() else [], ticks=ticks)

    def replace(self, *arguments: Any, **named: Any) -> Any:
        done = super().replace(*arguments, **named)
        while not done.done():
            self.look()
        return done
