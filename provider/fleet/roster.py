"""Who is there, what they last said, and what follows from it. Pure: messages and time in, instructions out.

Every provider listens to everything that agents say, so a new primary knows the fleet already. Only the primary speaks,
and only it writes to the log. Everything is level-triggered: what is to be sent or recorded is worked out from the
difference between the state and what was last heard, and is worked out again on each tick, so nothing lost stays lost.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from immutables import Map

from provider.core.commands import RegisterInstance, StatusUpdate
from provider.core.documents import AgentStatus, Document, InstanceSpec, InstanceStatus, WishStatus
from provider.core.entries import Claim
from provider.core.state import Accepted, State
from shared import messages as m
from shared.backoff import Backoff

OFFLINE_AFTER_S = 7.0
"""Three pulses (one every 2 s) and a bit. Can be set: `agents.offline_after_s`."""
NODE_LOST_AFTER_S = 4.0
"""Four of a provider's pulses (one a second)."""
RESEND_S = 0.1
"""One agent is sent its desired state at most this often: a burst of writes becomes a few messages, not a flood."""
UPDATES_MAX = 200
"""Status updates in one commit."""


@dataclass(frozen=True, slots=True)
class AgentSeen:
    """The last that was heard of an agent. `at_ms` is Unix ms for people, `mono_s` monotonic for deadlines."""

    at_ms: int
    mono_s: float
    session: str
    version: str
    epoch: int
    revision: int
    endpoint: str
    instances: Map[str, m.ObservedInstance] = field(default_factory=Map)


@dataclass(frozen=True, slots=True)
class NodeSeen:
    at_ms: int
    mono_s: float
    pulse: m.NodePulse
    epoch: int


@dataclass(frozen=True, slots=True)
class View:
    """What other threads may read: one immutable picture."""

    agents: Map[str, AgentSeen] = field(default_factory=Map)
    nodes: Map[str, NodeSeen] = field(default_factory=Map)


@dataclass(frozen=True, slots=True)
class SendAdvice:
    to: str


@dataclass(frozen=True, slots=True)
class SendDesired:
    to: str


@dataclass(frozen=True, slots=True)
class SendInquire:
    to: str


@dataclass(frozen=True, slots=True)
class Record:
    updates: tuple[StatusUpdate, ...]


@dataclass(frozen=True, slots=True)
class Register:
    command: RegisterInstance


@dataclass(frozen=True, slots=True)
class SendPulse:
    """Tell the other nodes how this one is, without waiting for the next second."""


Instruction = SendPulse | SendAdvice | SendDesired | SendInquire | Record | Register


@dataclass(slots=True)
class _Owed:
    """What an agent should be sent, and when it was last tried."""

    desired: bool = False
    sent_s: float = float("-inf")
    advice_at_s: float = float("-inf")
    backoff: Backoff = field(default_factory=lambda: Backoff(first_s=0.3, longest_s=5.0))


@dataclass(slots=True)
class Roster:
    node: str
    state: State
    view: View = field(default_factory=View)
    up_s: float | None = None
    """When this node's own connection to the broker came up; before that, silence says nothing about agents."""
    _owed: dict[str, _Owed] = field(default_factory=dict)
    _recording: set[tuple[str, str]] = field(default_factory=set)
    _clock_s: float = float("-inf")
    """Monotonic time of the last tick: who was silent then is not online, whatever it last said."""

    @property
    def leads(self) -> bool:
        return self.state.primary == self.node

    # ── events ──

    def link_up(self, mono_s: float) -> list[Instruction]:
        """We can hear again. Ask everyone for what we missed."""
        self.up_s = mono_s
        return [SendAdvice(m.TO_ALL), SendInquire(m.TO_ALL)] if self.leads else []

    def link_down(self) -> None:
        self.up_s = None

    def applied(self, state: State, accepted: Sequence[Accepted], mono_s: float) -> list[Instruction]:
        """The state has moved on."""
        led, self.state = self.leads, state
        if not self.leads:
            return []
        if not led or any(isinstance(a.record, Claim) for a in accepted):
            # A new reign: tell everyone, then look at all that was heard as if it had just been said.
            for agent in self.view.agents:
                self._owe(agent).desired = True
            return [SendAdvice(m.TO_ALL), *self._due(mono_s), *self._differences(self.view.agents)]
        out: list[Instruction] = []
        if any(d.kind == "node" for a in accepted for d in a.delta.put) or any(
            kind == "node" for a in accepted for kind, _ in a.delta.deleted
        ):
            out.append(SendAdvice(m.TO_ALL))
        for agent in self._touched(accepted):
            self._owe(agent).desired = True
        return out + self._due(mono_s)

    def heard(self, sender: str, body: m.Body, epoch: int, at_ms: int, mono_s: float) -> list[Instruction]:
        """A message whose sender the broker vouched for."""
        if isinstance(body, m.NodePulse):
            known_node = self.view.nodes.get(sender)
            seen = NodeSeen(at_ms, mono_s, body, epoch)
            self.view = View(self.view.agents, self.view.nodes.set(sender, seen))
            # One that has just started has not heard of us either.
            started = known_node is None or known_node.pulse.started != body.started
            return [SendPulse()] if started and sender != self.node else []
        if self.state.get("agent", sender) is None:
            return []  # removed, or enrolled a moment ago and not yet applied here: it will say it again
        known = self.view.agents.get(sender)
        now_seen = _updated(known, body, at_ms, mono_s)
        if now_seen is None:
            return []
        self.view = View(self.view.agents.set(sender, now_seen), self.view.nodes)
        if not self.leads:
            return []
        out: list[Instruction] = []
        owed = self._owe(sender)
        if isinstance(body, m.Hello):
            owed.desired, owed.advice_at_s = True, float("-inf")
            out += self._unknown_instances(sender, body.instances)
        elif isinstance(body, m.Pulse) and known is None:
            out.append(SendInquire(sender))
        if now_seen.epoch >= self.state.epoch:
            owed.backoff.reset()
        return out + self._due(mono_s, [sender]) + self._differences([sender])

    def recorded(self, updates: Iterable[StatusUpdate]) -> list[Instruction]:
        """A `Record` has ended, one way or the other."""
        agents = set()
        for update in updates:
            self._recording.discard((update.kind, update.id))
            agents.add(self._agent_of(update))
        return self._differences([a for a in agents if a]) if self.leads else []

    def tick(self, mono_s: float) -> list[Instruction]:
        """Resend what is overdue, notice who went silent."""
        if not self.leads or self.up_s is None:
            return []
        return self._due(mono_s) + self._differences(d.id for d in self.state.of("agent")) + self._silent(mono_s)

    def due(self, mono_s: float) -> list[Instruction]:
        """What has waited long enough to be sent."""
        return self._due(mono_s) if self.leads and self.up_s is not None else []

    def advise(self, agent: str) -> list[Instruction]:
        """Somebody asked for this agent to be advised now."""
        return [SendAdvice(agent)]

    # ── what is owed to agents ──

    def _owe(self, agent: str) -> _Owed:
        return self._owed.setdefault(agent, _Owed())

    def _due(self, mono_s: float, agents: Iterable[str] | None = None) -> list[Instruction]:
        out: list[Instruction] = []
        for agent in list(self._owed) if agents is None else agents:
            owed, seen = self._owe(agent), self.view.agents.get(agent)
            if seen is None:
                continue
            if seen.epoch < self.state.epoch and mono_s >= owed.advice_at_s:
                owed.advice_at_s = mono_s + owed.backoff.next_s()
                out.append(SendAdvice(agent))
            if owed.desired and mono_s - owed.sent_s >= RESEND_S:
                owed.desired, owed.sent_s = False, mono_s
                out.append(SendDesired(agent))
        return out

    def _touched(self, accepted: Sequence[Accepted]) -> set[str]:
        """Agents whose desired state these records changed."""
        instances: set[str] = set()
        for item in accepted:
            for document in item.delta.put:
                if document.kind in ("database", "account") and document.wish == document.revision:
                    instances.add(document.parent)
                elif document.kind == "instance" and document.wish == document.revision:
                    instances.add(document.id)
            for kind, id_ in item.delta.deleted:
                if kind in ("database", "account"):
                    instances.add(id_.partition("/")[0])
        found = (self.state.get("instance", id_) for id_ in instances)
        return {str(document.spec["agent"]) for document in found if document is not None}

    # ── what is to be written down ──

    def _differences(self, agents: Iterable[str]) -> list[Instruction]:
        updates: list[StatusUpdate] = []
        for agent in agents:
            seen, document = self.view.agents.get(agent), self.state.get("agent", agent)
            if seen is None or document is None:
                continue
            updates += self._agent_online(document, seen)
            for observed in seen.instances.values():
                updates += self._instance(agent, observed)
        return self._record(updates)

    def _record(self, updates: list[StatusUpdate]) -> list[Instruction]:
        fresh = [u for u in updates if (u.kind, u.id) not in self._recording]
        self._recording.update((u.kind, u.id) for u in fresh)
        return [Record(tuple(fresh[i : i + UPDATES_MAX])) for i in range(0, len(fresh), UPDATES_MAX)]

    def _agent_online(self, document: Document, seen: AgentSeen) -> list[StatusUpdate]:
        if self.up_s is None or self._is_silent(seen.mono_s):
            return []
        status = AgentStatus(state="online", version=seen.version, endpoint=seen.endpoint, epoch=seen.epoch)
        return _if_new(document, status)

    def _silent(self, mono_s: float) -> list[Instruction]:
        self._clock_s = mono_s
        updates: list[StatusUpdate] = []
        for document in self.state.of("agent"):
            seen = self.view.agents.get(document.id)
            heard_s = max(self.up_s or mono_s, seen.mono_s if seen is not None else float("-inf"))
            if document.status.get("state") == "online" and mono_s - heard_s > self.offline_after_s:
                old = AgentStatus.model_validate(document.status)
                epoch = seen.epoch if seen is not None else old.epoch
                updates += _if_new(document, old.model_copy(update={"state": "offline", "epoch": epoch}))
                updates += self._instances_unknown(document.id)
        return self._record(updates)

    def _is_silent(self, heard_s: float) -> bool:
        return self._clock_s - heard_s > self.offline_after_s

    @property
    def offline_after_s(self) -> float:
        setting = self.state.get("setting", "agents.offline_after_s")
        return float(setting.spec["value"]) if setting is not None else OFFLINE_AFTER_S

    def _instances_unknown(self, agent: str) -> list[StatusUpdate]:
        out: list[StatusUpdate] = []
        for document in self.state.of("instance"):
            if document.spec["agent"] == agent:
                old = InstanceStatus.model_validate(document.status)
                message = f"agent {agent} is offline: this is the last that it said"
                out += _if_new(document, old.model_copy(update={"state": "unknown", "message": message}))
        return out

    def _instance(self, agent: str, observed: m.ObservedInstance) -> list[StatusUpdate]:
        document = self.state.get("instance", observed.id)
        seen = self.view.agents[agent]
        if document is None or document.spec["agent"] != agent or self._is_silent(seen.mono_s):
            return []
        old = InstanceStatus.model_validate(document.status)
        status = InstanceStatus(
            state=observed.state,
            message=observed.message,
            version=observed.version or old.version,
            role=observed.role if observed.state == "up" else old.role,
            read_only=observed.read_only if observed.state == "up" else old.read_only,
        )
        updates = _if_new(document, status)
        for result in observed.database_results:
            updates += self._wish(self.state.get("database", f"{observed.id}/{result.name}"), result)
        for result in observed.account_results:
            updates += self._wish(self.state.get("account", f"{observed.id}/{result.name}"), result)
        return updates

    def _wish(self, document: Document | None, result: m.Result) -> list[StatusUpdate]:
        if document is None or document.wish != result.version:
            return []
        if document.status["phase"] == "dropping":
            if result.phase == "dropped":
                return [StatusUpdate(document.kind, document.id, None, document.wish)]
            status = WishStatus(phase="dropping", message=result.message)
        elif result.phase == "dropped":
            return []
        else:
            status = WishStatus(phase=result.phase, message=result.message)
        return _if_new(document, status, wish=document.wish)

    def _unknown_instances(self, agent: str, observed: Iterable[m.ObservedInstance]) -> list[Instruction]:
        out: list[Instruction] = []
        for instance in observed:
            document = self.state.get("instance", instance.id)
            if document is None and instance.engine in ("mariadb", "mysql", "postgresql"):
                spec = InstanceSpec.model_validate(
                    {
                        "agent": agent,
                        "engine": instance.engine,
                        "host": instance.host,
                        "port": instance.port,
                        "socket": instance.socket,
                    }
                )
                out.append(Register(RegisterInstance(instance.id, spec)))
        return out

    def _agent_of(self, update: StatusUpdate) -> str | None:
        if update.kind == "agent":
            return update.id
        instance = self.state.get("instance", update.id.partition("/")[0])
        return str(instance.spec["agent"]) if instance is not None else None


def _if_new(
    document: Document, status: AgentStatus | InstanceStatus | WishStatus, wish: int | None = None
) -> list[StatusUpdate]:
    if status.model_dump(mode="json", exclude_none=True) == document.status:
        return []
    return [StatusUpdate(document.kind, document.id, status, wish)]


def _updated(known: AgentSeen | None, body: m.Body, at_ms: int, mono_s: float) -> AgentSeen | None:
    """What is known of an agent after `body`; None where it says nothing that can be placed."""
    instances: Map[str, m.ObservedInstance] = known.instances if known is not None else Map()
    match body:
        case m.Hello():
            heard = Map({instance.id: instance for instance in body.instances})
            return AgentSeen(at_ms, mono_s, body.session, body.version, body.epoch, body.revision, body.endpoint, heard)
        case m.Pulse():
            return AgentSeen(
                at_ms, mono_s, body.session, body.version, body.epoch, body.revision, body.endpoint, instances
            )
        case m.Advised() if known is not None:
            return replace(known, at_ms=at_ms, mono_s=mono_s, epoch=max(known.epoch, body.epoch))
        case m.Report() if known is not None:
            for instance in body.instances:
                instances = instances.set(instance.id, instance)
            return replace(known, at_ms=at_ms, mono_s=mono_s, revision=body.revision, instances=instances)
        case _:
            return None


def desired_for(state: State, agent: str, unseal: Callable[[str, str], str]) -> m.Desired:
    """Everything that `agent` should see to. `unseal` takes a sealed password and its context."""
    return m.Desired(
        revision=state.revision,
        instances=tuple(
            m.DesiredInstance(
                id=instance.id,
                databases=tuple(
                    m.DesiredDatabase(name=d.name, drop=d.status["phase"] == "dropping", version=d.wish, **d.spec)
                    for d in state.within("database", instance.id)
                ),
                accounts=tuple(_account(d, unseal) for d in state.within("account", instance.id)),
            )
            for instance in state.of("instance")
            if instance.spec["agent"] == agent
        ),
    )


def _account(document: Document, unseal: Callable[[str, str], str]) -> m.DesiredAccount:
    sealed = document.spec.get("password")
    return m.DesiredAccount.model_validate(
        {
            **document.spec,
            "name": document.name,
            "password": unseal(sealed, document.id) if sealed is not None else None,
            "drop": document.status["phase"] == "dropping",
            "version": document.wish,
        }
    )
