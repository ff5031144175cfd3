"""A roster with a log of its own, and what agents and nodes say to it."""

from dataclasses import dataclass, field

from provider.core.documents import AgentStatus, Document, InstanceStatus, WishStatus
from provider.core.entries import Change
from provider.core.state import Accepted, State
from provider.fleet.instructions import Instruction, Record, SendBeat
from provider.fleet.roster import Roster
from shared import messages as m
from tests.support.history import accept_claim, accept_entry, commit_of, genesis

ONLINE = AgentStatus(state="online", version="1", endpoint="amqps://b", epoch=1)
UP = InstanceStatus(state="up", version="11", role="primary", read_only=False)


def change(kind: str, id_: str, spec: dict[str, object], status: object = None, *, wish: bool = True) -> Change:
    dumped = status.model_dump(mode="json", exclude_none=True) if status is not None else {}  # type: ignore[attr-defined]
    return Change.model_validate({"kind": kind, "id": id_, "spec": spec, "status": dumped, "wish": wish})


def agent(id_: str, status: AgentStatus | None = None) -> Change:
    secrets: dict[str, object] = {"token_sha256": "x", "broker_password_hash": "y"}
    return change("agent", id_, secrets, status or AgentStatus(), wish=False)


def instance(id_: str, of: str, status: InstanceStatus | None = None, *, wish: bool = True) -> Change:
    return change("instance", id_, {"agent": of, "engine": "mariadb"}, status or InstanceStatus(), wish=wish)


def database(id_: str, phase: str = "pending", message: str | None = None) -> Change:
    return change("database", id_, {}, WishStatus.model_validate({"phase": phase, "message": message}))


def observed(id_: str = "db1", **more: object) -> m.ObservedInstance:
    seen = {"id": id_, "engine": "mariadb", "state": "up", "version": "11", "role": "primary", "read_only": False}
    return m.ObservedInstance.model_validate(seen | more)


def hello(*instances: m.ObservedInstance, epoch: int = 1, version: str = "1") -> m.Hello:
    return m.Hello(version=version, session="s", epoch=epoch, revision=0, endpoint="amqps://b", instances=instances)


def pulse(*, epoch: int = 1, revision: int = 0) -> m.Pulse:
    return m.Pulse(version="1", session="s", epoch=epoch, revision=revision, endpoint="amqps://b")


def node_pulse(started: str = "then") -> m.NodePulse:
    return m.NodePulse(role="standby", state="active", version="1", revision=1, digest="d", started=started)


def saying(**more: object) -> m.Pulse:
    return pulse().model_copy(update=more)


@dataclass
class Fleet:
    """A roster, and the log that it lives with: what it asks to be recorded is committed, unless told otherwise."""

    node: str = "p1"
    commits: bool = True
    now_s: float = 1000.0
    state: State = field(default_factory=genesis)
    recorded: list[Record] = field(default_factory=list)
    beats: list[tuple[float, SendBeat]] = field(default_factory=list)
    """When, and which: they come by the clock, whatever else happens."""

    def __post_init__(self) -> None:
        self.roster = Roster(self.node, self.state)
        self.link_up()

    def link_up(self) -> list[Instruction]:
        return self._done(self.roster.link_up(self.now_s))

    def due(self, seconds: float) -> list[Instruction]:
        self.now_s += seconds
        return self._done(self.roster.due(self.now_s))

    def commit(self, *changes: Change) -> list[Instruction]:
        return self._applied(accept_entry(self.state, commit_of(*changes)))

    def claim(self, node: str) -> list[Instruction]:
        return self._applied(accept_claim(self.state, node))

    def hear(self, sender: str, body: m.Body) -> list[Instruction]:
        return self._done(self.roster.heard(sender, body, self.state.epoch, 0, self.now_s))

    def wait(self, seconds: float) -> list[Instruction]:
        """Time passes; the roster looks once, at its end."""
        self.now_s += seconds
        return self._done(self.roster.tick(self.now_s))

    def _applied(self, accepted: Accepted) -> list[Instruction]:
        self.state = accepted.state
        return self._done(self.roster.applied(self.state, [accepted], self.now_s))

    def _done(self, instructions: list[Instruction]) -> list[Instruction]:
        """Carries out what is to be recorded; the rest is what the test looks at."""
        out: list[Instruction] = []
        for instruction in instructions:
            if isinstance(instruction, Record) and self.commits:
                self.recorded.append(instruction)
                out += self.commit(*(self._change(u.kind, u.id, u.status) for u in instruction.updates))
                out += self._done(self.roster.recorded(instruction.updates))
            elif isinstance(instruction, SendBeat):
                self.beats.append((self.now_s, instruction))
            else:
                out.append(instruction)
        return out

    def _change(self, kind: str, id_: str, status: object) -> Change:
        document = self.get(kind, id_)
        if status is None:
            return Change(kind=document.kind, id=id_)
        return change(kind, id_, dict(document.spec), status, wish=False)

    def get(self, kind: str, id_: str) -> Document:
        found = self.state.get(kind, id_)  # type: ignore[arg-type]
        assert found is not None
        return found

    def status(self, kind: str, id_: str) -> dict[str, object]:
        return dict(self.get(kind, id_).status)
