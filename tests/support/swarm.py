"""Many agents in one process: what agents say and obey, over real AMQP, without database servers.

Each is the agent's own conversation (`Session`, `Placement`, `Connection`) with a login of its own. What an agent has a
process for is shared: one thread for all decisions, a few for all connections. A wish is fulfilled by saying so.
"""

import heapq
import itertools
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self

from agent import brokerfile
from agent.brokerfile import BrokerSettings
from agent.connection import Attempt
from agent.conversation import Conversation
from agent.endpoints import share
from agent.session import MakePassword, Note, Session, UsePassword
from agent.settings import AgentFiles
from shared.bus import Credentials, Delivery
from shared.iothread import IOThread
from shared.messages import Advice, DesiredInstance, ObservedInstance, Result
from shared.rabbitmq import RabbitLink, io_thread
from shared.version import VERSION
from tests.support.api import Client
from tests.support.newcomers import Newcomer, newcomer

PULSE_S = 2.0
LOOK_S = 0.5
THREADS = 3
"""For connections. More of them only wait for each other."""
ENROLLING = 8
CONNECTING = 30
"""At a time, at the start: what a processor can do before connections are given up for being slow."""
PATIENCE_S = 120.0


@dataclass
class Told:
    """When an agent was told what, monotonic seconds."""

    advised: dict[int, float] = field(default_factory=dict)
    """By epoch: when the advice was acknowledged."""
    desired: dict[str, DesiredInstance] = field(default_factory=dict)
    revision: int = 0
    moves: list[tuple[float, str]] = field(default_factory=list)
    messages: Counter[str] = field(default_factory=Counter)


class SwarmAgent:
    """One of them. Everything but the constructor runs on the swarm's thread."""

    def __init__(self, swarm: "Swarm", newcomer: Newcomer, advice: Advice, directory: Path) -> None:
        self.id, self.told = newcomer.id, Told()
        self._swarm, self._newcomer = swarm, newcomer
        files = AgentFiles(directory / "agent.toml")
        broker = brokerfile.from_advice(advice, files)
        self.session = Session(
            version=VERSION, session=f"swarm of {self.id}", instances=[self.id], broker=broker, files=files
        )
        self.conversation = Conversation(
            self.id,
            self.session,
            self,
            partial(
                RabbitLink,
                name=self.id,
                thread=self._swarm.thread_of(self.id),
                connect_timeout_s=10.0,  # many share one processor, which takes its time
            ),
            lambda delivery, attempt: swarm.put(partial(self.arrived, delivery, attempt)),
            lambda: swarm.put(self.look),
            stagger_s=1.0,
            return_s=swarm.return_s,
        )

    def begin(self) -> None:
        self.session.seen(ObservedInstance(id=self.id, engine="mariadb", state="up", version="11"), 0)
        self.conversation.begin()
        wait_s = share(self.id, "first pulse")
        self.after(wait_s * PULSE_S, self.pulse)
        self.after(wait_s * LOOK_S, self.look_on)

    def arrived(self, delivery: Delivery, attempt: Attempt) -> None:
        before = self.session.broker.epoch
        self.conversation.arrived(delivery, attempt)
        if self.session.broker.epoch != before:
            self.told.advised[self.session.broker.epoch] = time.monotonic()
        self.look()

    def look(self) -> None:
        endpoint = self.session.endpoint
        self.conversation.look()
        if self.session.endpoint not in (None, endpoint):
            if not self.told.moves:
                self._swarm.begin_one()
            self.told.moves.append((time.monotonic(), self.session.endpoint or ""))

    def look_on(self) -> None:
        self.look()
        self.after(LOOK_S, self.look_on)

    def pulse(self) -> None:
        self.conversation.do(self.session.pulse())
        self.after(PULSE_S, self.pulse)

    # ── what the conversation asks for ──

    def after(self, wait_s: float, action: Callable[[], None]) -> None:
        self._swarm.after(wait_s, action)

    def note(self, note: Note) -> None:
        self.told.messages[note.text] += 1

    def store(self, settings: BrokerSettings) -> bool:
        return True

    def fulfil(self, revision: int, desired: Mapping[str, DesiredInstance]) -> None:
        self.told.revision, self.told.desired = revision, dict(desired)
        mine = desired.get(self.id, DesiredInstance(id=self.id))
        done = tuple(
            Result(name=one.name, version=one.version, phase="dropped" if one.drop else "ready")
            for one in mine.databases
        )
        seen = ObservedInstance(id=self.id, engine="mariadb", state="up", version="11", database_results=done)
        self.after(0.0, lambda: self.conversation.do(self.session.seen(seen, revision)))

    def change_password(self, instruction: MakePassword | UsePassword) -> None:
        raise AssertionError("nobody asked for that")

    def login(self, settings: BrokerSettings) -> Credentials:
        return Credentials(self.id, self._newcomer.password, str(settings.ca_file), settings.vhost)

    def unsent(self) -> None:
        self._swarm.put(self.conversation.say_again)


class Swarm:
    """`agents` by name. `start`, then ask; `close` at the end."""

    def __init__(self, directory: Path, *, return_s: float = 10.0) -> None:
        """`directory` is for the authority's certificate; `return_s`: as in agent.toml."""
        self.return_s = return_s
        self.agents: dict[str, SwarmAgent] = {}
        self.faults: list[BaseException] = []
        self._directory = directory
        self._to_begin: list[SwarmAgent] = []
        self._threads: list[IOThread] = [io_thread(f"swarm {number}") for number in range(THREADS)]
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="swarm", daemon=True)

    # ── any thread ──

    def enrol(self, admin: Client, names: Iterable[str]) -> None:
        """Make these agents members, each with a one-time token of its own, and an instance of its name."""
        with ThreadPoolExecutor(ENROLLING) as pool:
            for made, advice in pool.map(partial(_enrolled, admin), names):
                self.agents[made.id] = SwarmAgent(self, made, advice, self._directory)
        first = next(iter(self.agents.values())).session.broker
        first.ca_file.write_text(first.ca)

    def start(self) -> None:
        """Connect all, some at a time, from the network namespace of who calls."""
        self._thread.start()
        for thread in self._threads:
            thread.start()
        self._to_begin = list(self.agents.values())
        for _ in range(CONNECTING):
            self.put(self.begin_one)

    def put(self, action: Callable[[], None]) -> None:
        self._inbox.put(action)

    def until(self, holds: Callable[[SwarmAgent], object], what: str, timeout_s: float = PATIENCE_S) -> None:
        """Wait until it holds of all agents. Raises `AssertionError` with some of those of whom it does not."""
        deadline_s = time.monotonic() + timeout_s
        while missing := [agent.id for agent in self.agents.values() if not holds(agent)]:
            left_s = deadline_s - time.monotonic()
            assert left_s > 0, f"{what}: not so of {len(missing)}: {missing[:10]}"
            assert not self.faults, self.faults[0]
            with self._news:
                self._news.wait(min(0.2, left_s))

    @property
    def where(self) -> Counter[str | None]:
        """How many sit at which broker."""
        return Counter(agent.session.endpoint for agent in self.agents.values())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._inbox.put(None)
        self._thread.join(30.0)
        for thread in self._threads:
            thread.stop()
        for thread in self._threads:
            thread.join(30.0)

    # ── the swarm's thread ──

    def begin_one(self) -> None:
        if self._to_begin:
            self._to_begin.pop().begin()

    def after(self, wait_s: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._timers, (time.monotonic() + wait_s, next(self._numbers), action))

    def thread_of(self, agent: str) -> IOThread:
        return self._threads[int(share(agent, "thread") * len(self._threads))]

    def _run(self) -> None:
        while True:
            wait_s = self._timers[0][0] - time.monotonic() if self._timers else 1.0
            action: Callable[[], None] | None = _nothing
            if wait_s > 0:
                with suppress(queue.Empty):
                    action = self._inbox.get(timeout=wait_s)
            else:
                action = heapq.heappop(self._timers)[2]
                # What arrives is not kept waiting by timers, of which there are thousands.
                self._one_waiting()
            if action is None:
                break
            self._do(action)
        for agent in self.agents.values():
            agent.conversation.connection.close(1.0)

    def _one_waiting(self) -> None:
        try:
            action = self._inbox.get_nowait()
        except queue.Empty:
            return
        if action is None:
            self._inbox.put(None)
        else:
            self._do(action)

    def _do(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # noqa: BLE001 - the test that waits tells of it
            self.faults.append(error)
        with self._news:
            self._news.notify_all()


def _nothing() -> None:
    pass


def _enrolled(admin: Client, name: str) -> tuple[Newcomer, Advice]:
    token: Any = admin.write("POST", "/tokens", {"role": "agent"}).json["token"]
    made = newcomer(name)
    body = made.body(instances=[{"id": name, "engine": "mariadb", "port": 3306}])
    given = admin.holding(token).write("POST", "/enroll", body).json
    return made, Advice.model_validate(given["advice"])
