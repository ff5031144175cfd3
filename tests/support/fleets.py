"""A hub on a broker in memory, the agents that it speaks to, and a state that changes as it asks."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from provider.core.commands import Command
from provider.core.entries import Change, Claim, Commit, Entry
from provider.core.state import Accepted, State, step
from provider.fleet.hub import Hub, RefusedMessage
from shared import messages as m
from shared.bus import Delivery, Exchange, Queue, Subscription, Topology
from shared.errors import Refusal
from tests.support.history import GENERATION, START_MS
from tests.support.memory_bus import MemoryBroker, MemoryLink

PATIENCE_S = 20.0
PROVIDERS_USER = "bellwether"
T = TypeVar("T", bound=m.Body)


def agent_change(name: str, **status: object) -> Change:
    spec = {"token_sha256": "x", "broker_password_hash": "y"}
    return Change(kind="agent", id=name, spec=spec, status={"state": "never"} | status)


def instance_change(name: str, agent: str) -> Change:
    return Change(kind="instance", id=name, spec={"agent": agent, "engine": "mariadb"}, status={"state": "unknown"})


def genesis(*changes: Change, offline_after_s: float = 60.0) -> State:
    """Nodes p1 (primary) and p2; and `changes`."""
    nodes = [Change(kind="node", id=name, spec={"url": f"https://{name}:1"}) for name in ("p1", "p2")]
    silence = Change(kind="setting", id="agents.offline_after_s", spec={"value": offline_after_s})
    return State.genesis(generation=GENERATION, primary="p1", now=START_MS, changes=(*nodes, silence, *changes))


class Watched:
    """Things that threads put here, to be waited for."""

    def __init__(self) -> None:
        self.news = threading.Condition()

    def until(self, condition: Callable[[], object], what: str, timeout_s: float = PATIENCE_S) -> None:
        deadline = time.monotonic() + timeout_s
        with self.news:
            while not condition():
                assert time.monotonic() < deadline, what
                self.news.wait(0.02)


class FleetHost(Watched):
    """A hub, and the commits that it asks for: done at once by the real state machine, unless `accepts` is false."""

    def __init__(self, broker: MemoryBroker, state: State, *, name: str = "p1") -> None:
        super().__init__()
        self.name, self.state = name, state
        self.accepts = self.commits = True
        self.beats_due = 0
        self.asked: list[Command] = []
        self.changes = 0
        self.suspended: list[list[str]] = []
        self.refused: list[RefusedMessage] = []
        self.unseal: Callable[[str, str], str] = lambda sealed, _context: sealed.removeprefix("sealed ")
        self._lock = threading.RLock()
        self.hub = Hub(
            node=name,
            username=PROVIDERS_USER,
            state=state,
            make_link=lambda topology, up, down: MemoryLink(
                broker, name=name, topology=topology, on_up=up, on_down=down, user=PROVIDERS_USER
            ),
            submit=self._submit,
            advice=lambda state: m.Advice(
                epoch=state.epoch, primary=state.primary, endpoints=("amqps://x:1",), providers=(), vhost="v", ca="c"
            ),
            unseal=self._unseal,
            pulse=self._pulse,
            on_change=self._on_change,
            on_suspended=lambda users: self.suspended.append(list(users)),
            on_refused=self.refused.append,
            commits=self._commits,
        )

    def start(self) -> "FleetHost":
        self.hub.start()
        self.until(lambda: self.hub.connected, "the hub does not reach the broker")
        return self

    def change(self, *changes: Change) -> State:
        """Have these changes accepted."""
        with self._lock:
            commit = Commit(principal="t", action="PUT", status=200, changes=changes)
            entry = Entry(
                id=f"e{self.state.revision}",
                generation=self.state.generation,
                epoch=self.state.epoch,
                seq=self.state.revision + 1,
                node=self.state.primary,
                at=self.state.now + 1,
                commits=(commit,),
            )
            return self.accept(entry)

    def claim(self, node: str) -> State:
        with self._lock:
            claim = Claim(id="c", generation=GENERATION, ends=self.state.epoch, node=node, at=self.state.now)
            return self.accept(claim)

    def accept(self, record: Entry | Claim) -> State:
        with self._lock, self.news:
            accepted = step(self.state, record)
            assert isinstance(accepted, Accepted), accepted
            self.state = accepted.state
            self.hub.applied(self.state, [accepted])
            self.news.notify_all()
            return self.state

    def status(self, kind: str, id_: str) -> dict[str, object]:
        document = self.state.get(kind, id_)  # type: ignore[arg-type]
        return {} if document is None else dict(document.status)

    def until_status(self, kind: str, id_: str, **wanted: object) -> None:
        self.until(lambda: wanted.items() <= self.status(kind, id_).items(), f"{kind} {id_} is not {wanted}")

    def _submit(self, command: Command, ended: Callable[[bool], None]) -> None:
        with self._lock:
            self.asked.append(command)
            accepts = self.accepts
            if accepts:
                try:
                    plan = command.plan(self.state, self.state.now)
                except Refusal:
                    accepts = False
                else:
                    self.change(*plan.changes)
        ended(accepts)

    def _commits(self) -> bool:
        with self.news:
            self.beats_due += 1
            self.news.notify_all()
        return self.commits

    def _unseal(self, sealed: str, context: str) -> str:
        return self.unseal(sealed, context)

    def _pulse(self) -> m.NodePulse:
        role = "primary" if self.state.primary == self.name else "standby"
        return m.NodePulse(
            role="primary" if role == "primary" else "standby",
            state="active",
            version="1",
            revision=self.state.revision,
            digest="d",
            started=f"start of {self.name}",
        )

    def _on_change(self) -> None:
        with self.news:
            self.changes += 1
            self.news.notify_all()


class Agent(Watched):
    """An agent that says what it is told to say, and keeps what it hears."""

    def __init__(self, broker: MemoryBroker, name: str = "db1", *, user: str | None = None) -> None:
        super().__init__()
        self.name = name
        self.heard: list[tuple[float, m.Body]] = []
        queue = f"agent.{name}.1"
        topology = Topology(
            exchanges=(Exchange(m.AGENTS_DOWN, "topic"), Exchange(m.AGENTS_UP, "topic")),
            queues=(Queue(queue, bindings=((m.AGENTS_DOWN, name), (m.AGENTS_DOWN, m.TO_ALL)), exclusive=True),),
            subscriptions=(Subscription(queue, self._on_delivery),),
        )
        self.link = MemoryLink(broker, name=name, topology=topology, user=name if user is None else user)
        self.link.start()
        self.until(lambda: self.link.endpoint is not None, f"{name} does not reach the broker")

    def close(self) -> None:
        self.link.close()

    def say(self, body: m.Body, *, sender: str | None = None) -> None:
        self.say_bytes(m.encode(body, sender=sender or self.name, epoch=1), m.up_key(m.type_of(body), self.name))

    def say_bytes(self, data: bytes, key: str | None = None) -> None:
        self.link.publish(m.AGENTS_UP, key if key is not None else m.up_key("pulse", self.name), data)

    def hello(self, *instances: m.ObservedInstance, epoch: int = 1) -> None:
        self.say(
            m.Hello(version="1", session="s", epoch=epoch, revision=0, endpoint="amqps://x:1", instances=instances)
        )

    def pulse(self, *, epoch: int = 1) -> None:
        self.say(m.Pulse(version="1", session="s", epoch=epoch, revision=0, endpoint="amqps://x:1"))

    def of(self, kind: type[T]) -> list[T]:
        """Everything of one kind that was heard."""
        return [body for _, body in self.heard if isinstance(body, kind)]

    def until_heard(self, kind: type[T], accept: Callable[[T], object] = lambda _body: True, *, after: int = 0) -> T:
        """The first of that kind, from the position `after` of these on, that `accept` takes."""
        found: list[T] = []

        def holds() -> bool:
            found[:] = [body for body in self.of(kind)[after:] if accept(body)]
            return bool(found)

        self.until(
            holds, f"{self.name} is not told: {kind.__name__}; heard {[type(b).__name__ for _, b in self.heard]}"
        )
        return found[0]

    def _on_delivery(self, delivery: Delivery) -> None:
        delivery.ack()
        with self.news:
            self.heard.append((time.monotonic(), m.decode(delivery.body)[1]))
            self.news.notify_all()
