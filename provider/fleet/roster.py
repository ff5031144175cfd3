"""Who is there, what they last said, and what follows from it. Pure: messages and time in, instructions out.

Every provider listens to everything that agents say, so a new primary knows the fleet already. Only the primary speaks,
and only it writes to the log. Everything is level-triggered: what is to be sent or recorded is worked out from the
difference between the state and what was last heard, and is worked out again on each tick, so nothing lost stays lost.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

from immutables import Map

from provider.core.commands import RotateCredential, StatusUpdate, SwitchCredential, removed_key
from provider.core.documents import Document
from provider.core.entries import Claim
from provider.core.state import Accepted, State
from provider.fleet import beats, follow, status
from provider.fleet.instructions import (
    Change,
    Instruction,
    Record,
    Register,
    SendAdvice,
    SendBeat,
    SendDesired,
    SendInquire,
    SendPulse,
    Warn,
)
from provider.fleet.limits import Limited
from provider.fleet.view import AgentSeen, NodeSeen, View, heard_from
from shared import messages as m
from shared.backoff import Backoff

OFFLINE_AFTER_S = 7.0
"""Three pulses (one every 2 s) and a bit. Can be set: `agents.offline_after_s`."""
RESEND_S = 0.1
"""One agent is sent its desired state at most this often: a burst of writes becomes a few messages, not a flood."""
UPDATES_MAX = 200
"""Status updates in one commit."""
SENDS_MAX = 500
"""Messages at once, every tenth of a second: a fleet of 10,000 is told within two seconds, and hears us in between."""
REFRESH_S, REFRESHED_A_SECOND = 1.0, 1000
"""A new primary sends everybody's wishes again after so long at the latest, and later in a large fleet."""
ADVISED_A_SECOND = 400
"""Acknowledgements of a new epoch to be counted on: in a large fleet, who has not spoken yet is not asked again. With
less patience (a quarter of a second for 1,000) brokers that were slow had two to six times as much to carry."""
LOOKS_MAX = 500
"""Agents that are compared with the state at once, some 10 ms. All of them come round in turn: 500 of them a second."""

ROTATIONS_A_TICK = 10
"""Passwords whose change is begun at once because of their age: no more than a commit or two a second."""

_ADVISED = ("node", "authority")
"""Kinds of documents that advice is made of."""


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
    # Sets that keep their order. Nothing below costs a look at all agents, but for noticing who is silent.
    _to_send: dict[str, None] = field(default_factory=dict)
    """Agents to whom something is owed."""
    _to_look_at: dict[str, None] = field(default_factory=dict)
    """Agents of whom something may have to be written down."""
    _next_tick: set[str] = field(default_factory=set)
    """To be looked at then: what could not be written down is not tried again at once."""
    _round: list[str] = field(default_factory=list)
    """Those whose turn to be looked at has not come yet."""
    _recording: set[tuple[str, str]] = field(default_factory=set)
    _rotations: int = 0
    """Passwords whose change was begun since the last tick, because of their age."""
    _to_refresh: dict[str, None] = field(default_factory=dict)
    """Agents that are to be sent their wishes for no other reason than that this node has begun to lead."""
    _refresh_at_s: float = float("-inf")
    _beat_at_s: float = float("-inf")
    """When the next beat is due."""
    _clock_s: float = float("-inf")
    """Monotonic time of the last tick: who was silent then is not online, whatever it last said."""

    @property
    def leads(self) -> bool:
        return self.state.primary == self.node

    # ── events ──

    def link_up(self, mono_s: float) -> list[Instruction]:
        """We can hear again. Ask everyone for what we missed."""
        self.up_s = mono_s
        self._to_look_at.update(dict.fromkeys(self.view.agents))
        self._beat_at_s = mono_s  # soon: whoever was without it for long has begun to look elsewhere
        return [SendAdvice(m.TO_ALL), SendInquire(m.TO_ALL)] if self.leads else []

    def link_down(self) -> None:
        self.up_s = None

    def applied(self, state: State, accepted: Sequence[Accepted], mono_s: float) -> list[Instruction]:
        """The state has moved on."""
        led, self.state = self.leads, state
        for item in accepted:
            for kind, id_ in item.delta.deleted:
                if kind == "agent":
                    self._forget(id_)
                elif kind == "node" and id_ in self.view.nodes:
                    self.view = replace(self.view, nodes=self.view.nodes.delete(id_))
        if not self.leads:
            return []
        if not led or any(isinstance(a.record, Claim) for a in accepted):
            return self._new_reign(mono_s)
        out: list[Instruction] = []
        if any(d.kind in _ADVISED for a in accepted for d in a.delta.put) or any(
            kind in _ADVISED for a in accepted for kind, _ in a.delta.deleted
        ):
            out.append(SendAdvice(m.TO_ALL))
        touched = self._touched(accepted)
        for agent in touched:
            self._owe(agent).desired = True
        asked = {d.id for a in accepted for d in a.delta.put if d.kind == "agent" and d.wish == d.revision}
        for agent in (agent for agent in asked if agent in self.view.agents):  # its password is to change, or has
            self._owe(agent).advice_at_s = float("-inf")
            self._owe(agent).backoff.reset()
        return out + self._due(mono_s, touched | asked)

    def trusts(self, trust: str, mono_s: float) -> list[Instruction]:
        """What agents should trust, as the state has it now. To be called each time that may have changed."""
        if trust == self.view.trust:
            return []
        self.view = replace(self.view, trust=trust)
        if not self.leads or self.up_s is None:
            return []
        self._expect_answers(mono_s)
        return [SendAdvice(m.TO_ALL)]

    def _new_reign(self, mono_s: float) -> list[Instruction]:
        """Tell everyone, then look at all that was heard as if it had just been said."""
        self._clock_s = mono_s
        self._expect_answers(mono_s)
        agents = dict.fromkeys(self.view.agents)
        self._to_look_at |= agents
        self._to_refresh, self._refresh_at_s = agents, mono_s + REFRESH_S + len(agents) / REFRESHED_A_SECOND
        self._beat_at_s = mono_s + beats.interval_s(len(agents))  # the advice says as much
        return [SendAdvice(m.TO_ALL), *self._due(mono_s), *self._look()]

    def _refresh(self, mono_s: float) -> None:
        """Wishes follow when all have acknowledged, or have had the time to: what agents answer would be in the way of
        what they acknowledge. Who says hello, and who has new wishes, is sent them at once."""
        if self._to_refresh and (not self._to_send or mono_s >= self._refresh_at_s):
            agents, self._to_refresh = self._to_refresh, {}
            for agent in agents:
                self._owe(agent).desired = True

    def _expect_answers(self, mono_s: float) -> None:
        """All are told at once: each is told again, alone, where it does not follow in time."""
        for agent in self.view.agents:
            owed = self._owe(agent)
            owed.backoff.reset()
            owed.advice_at_s = mono_s + self._patience_s + owed.backoff.next_s()

    def heard(
        self, sender: str, body: m.Body, epoch: int, at_ms: int, mono_s: float, sent_ms: int | None = None
    ) -> list[Instruction]:
        """A message whose sender the broker vouched for; `sent_ms` by the sender's clock (Unix ms), as it says."""
        if isinstance(body, m.NodePulse):
            lags_ms = (at_ms - sent_ms,) if sent_ms is not None else ()
            return self._heard_node(sender, NodeSeen(at_ms, mono_s, body, epoch, lags_ms))
        if self.state.get("agent", sender) is None:
            return []  # removed, or enrolled a moment ago and not yet applied here: it will say it again
        known = self.view.agents.get(sender)
        now_seen = heard_from(known, body, at_ms, mono_s)
        if now_seen is None:
            return []
        self.view = replace(self.view, agents=self.view.agents.set(sender, now_seen))
        if not self.leads:
            return []
        doubled: list[Instruction] = [Warn(sender)] if now_seen.noticed_twice(known, mono_s) else []
        return doubled + self._answer(sender, body, known, now_seen, mono_s)

    def _answer(
        self, sender: str, body: m.Body, known: AgentSeen | None, now_seen: AgentSeen, mono_s: float
    ) -> list[Instruction]:
        """What follows from what an agent said, which was `known` before, where this node leads."""
        out: list[Instruction] = []
        owed = self._owe(sender)
        if not self._is_behind(sender, now_seen):
            owed.backoff.reset()
        if isinstance(body, m.Hello):
            owed.desired, owed.advice_at_s = True, float("-inf")
            self._to_refresh.pop(sender, None)
        elif isinstance(body, m.Pulse):
            if known is None:
                out.append(SendInquire(sender))
            elif known.says_the_same(body) and not self._is_silent(known):  # nearly every message is one of these
                return self._due(mono_s, [sender])
        elif isinstance(body, m.Advised) and body.offer is None:  # many come at once, and are written down together
            self._to_look_at[sender] = None
            return self._due(mono_s, [sender])
        return out + self._due(mono_s, [sender]) + self._differences([sender])

    def _heard_node(self, sender: str, seen: NodeSeen) -> list[Instruction]:
        if self.state.get("setting", removed_key(sender)) is not None:
            return []
        known = self.view.nodes.get(sender)
        self.view = replace(self.view, nodes=self.view.nodes.set(sender, seen.after(known)))
        # One that has just started has not heard of us either.
        started = known is None or known.pulse.started != seen.pulse.started
        return [SendPulse()] if started and sender != self.node else []

    def recorded(self, updates: Iterable[StatusUpdate], *, ok: bool = True) -> list[Instruction]:
        """A `Record` has ended, one way or the other."""
        agents = {status.agent_of(self.state, update) for update in updates} - {None}
        self._recording.difference_update((update.kind, update.id) for update in updates)
        if not ok:  # the log or the store does not take it now: asked again at once it would say so again
            self._next_tick.update(agent for agent in agents if agent is not None)
            return []
        return self._differences(agent for agent in agents if agent is not None) if self.leads else []

    def registered(self, id_: str) -> None:
        """A `Register` has ended, one way or the other."""
        self._recording.discard(("instance", id_))

    def limited(self, limited: Map[str, Limited]) -> None:
        """Who said more than may be, for others to see."""
        if limited is not self.view.limited:
            self.view = replace(self.view, limited=limited)

    def changed(self, agent: str) -> None:
        """A `Change` has ended, one way or the other."""
        self._recording.discard(("credential", agent))

    def tick(self, mono_s: float) -> list[Instruction]:
        """Resend what is overdue, notice who went silent."""
        if not self.leads or self.up_s is None:
            return []
        self._rotations = 0
        silent = self._silent(mono_s)
        if not self._round:
            self._round = list(self.view.agents)
        turn, self._round = self._round[:LOOKS_MAX], self._round[LOOKS_MAX:]
        self._to_look_at.update(dict.fromkeys([*turn, *self._next_tick]))
        self._next_tick.clear()
        return self.due(mono_s) + silent

    def due(self, mono_s: float) -> list[Instruction]:
        """What has waited long enough to be sent or to be looked at."""
        if not self.leads or self.up_s is None:
            return []
        beat = self._beat(mono_s) if mono_s >= self._beat_at_s else []
        self._refresh(mono_s)
        return beat + self._due(mono_s) + self._look()

    def advise(self, agent: str) -> list[Instruction]:
        """Somebody asked for this agent to be advised now."""
        return [SendAdvice(agent)]

    def _forget(self, agent: str) -> None:
        if agent in self.view.agents:
            self.view = replace(self.view, agents=self.view.agents.delete(agent))
        for known in (self._owed, self._to_send, self._to_refresh):
            known.pop(agent, None)

    def _beat(self, mono_s: float) -> list[Instruction]:
        agents = len(self.state.documents.get("agent", ()))
        beat = SendBeat(beats.interval_s(agents), beats.spread_s(agents))
        self._beat_at_s = mono_s + beat.interval_s
        return [beat]

    # ── what is owed to agents ──

    def _owe(self, agent: str) -> _Owed:
        """For a change of what is owed, which is sent when it is due."""
        self._to_send[agent] = None
        return self._owed.setdefault(agent, _Owed())

    @property
    def _patience_s(self) -> float:
        """For what the whole fleet may be answering at this moment."""
        return len(self.view.agents) / ADVISED_A_SECOND

    def _due(self, mono_s: float, agents: Iterable[str] | None = None) -> list[Instruction]:
        out: list[Instruction] = []
        for agent in list(self._to_send) if agents is None else agents:
            owed, seen = self._owe(agent), self.view.agents.get(agent)
            if seen is None or self._is_silent(seen):  # it will be told when it is heard of
                del self._to_send[agent]
                continue
            behind = self._is_behind(agent, seen)
            if behind and mono_s >= owed.advice_at_s:
                owed.advice_at_s = mono_s + self._patience_s + owed.backoff.next_s()
                out.append(SendAdvice(agent))
            if owed.desired and mono_s - owed.sent_s >= RESEND_S:
                owed.desired, owed.sent_s = False, mono_s
                out.append(SendDesired(agent))
            if not behind and not owed.desired:
                del self._to_send[agent]
            if len(out) >= SENDS_MAX:
                break
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

    def _look(self) -> list[Instruction]:
        """At those of whom something may have to be written down, not at too many at once."""
        agents = list(islice(self._to_look_at, LOOKS_MAX))
        for agent in agents:
            del self._to_look_at[agent]
        return self._differences(agents)

    def _differences(self, agents: Iterable[str]) -> list[Instruction]:
        updates: list[StatusUpdate] = []
        out: list[Instruction] = []
        for agent in agents:
            seen, document = self.view.agents.get(agent), self.state.get("agent", agent)
            if seen is None or document is None or self.up_s is None or self._is_silent(seen):
                continue
            updates += status.online(document, seen)
            for observed in seen.instances.values():
                updates += status.observed_instance(self.state, agent, observed)
                register = status.unknown_instance(self.state, agent, observed)
                if register is not None and ("instance", register.id) not in self._recording:
                    self._recording.add(("instance", register.id))
                    out.append(Register(register))
            out += self._credential(document, seen)
        return out + self._record(updates)

    def _credential(self, document: Document, seen: AgentSeen) -> list[Instruction]:
        """The change of its broker password that is due."""
        if ("credential", document.id) in self._recording:
            return []
        command: RotateCredential | SwitchCredential
        if (offer := follow.offered(document, seen)) is not None:
            command = SwitchCredential(document.id, offer.number, offer.broker_password_hash)
        elif self._rotations < ROTATIONS_A_TICK and follow.to_rotate(document, self.state, seen.at_ms):
            self._rotations += 1
            command = RotateCredential(document.id)
        else:
            return []
        self._recording.add(("credential", document.id))
        return [Change(command)]

    def _is_behind(self, agent: str, seen: AgentSeen) -> bool:
        document = self.state.get("agent", agent)
        return document is not None and follow.behind(document, seen, self.state, self.view.trust)

    def _record(self, updates: list[StatusUpdate]) -> list[Instruction]:
        fresh = [u for u in updates if (u.kind, u.id) not in self._recording]
        self._recording.update((u.kind, u.id) for u in fresh)
        return [Record(tuple(fresh[i : i + UPDATES_MAX])) for i in range(0, len(fresh), UPDATES_MAX)]

    def _silent(self, mono_s: float) -> list[Instruction]:
        self._clock_s = mono_s
        updates: list[StatusUpdate] = []
        offline_after_s, up_s = self.offline_after_s, self.up_s if self.up_s is not None else mono_s
        for document in self.state.of("agent"):
            if document.status.get("state") != "online":
                continue
            seen = self.view.agents.get(document.id)
            if mono_s - (up_s if seen is None else max(up_s, seen.mono_s)) > offline_after_s:
                updates += status.offline(self.state, document, seen)
        return self._record(updates)

    def _is_silent(self, seen: AgentSeen) -> bool:
        return self._clock_s - seen.mono_s > self.offline_after_s

    @property
    def offline_after_s(self) -> float:
        setting = self.state.get("setting", "agents.offline_after_s")
        return float(setting.spec["value"]) if setting is not None else OFFLINE_AFTER_S
