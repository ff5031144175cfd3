"""The hub: the thread that owns the roster and speaks to agents and to the other nodes over the broker."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from uuid import uuid4

from provider.broker.users import node_user
from provider.core.commands import FREE_SETTINGS, Command, RecordStatus
from provider.core.state import Accepted, State
from provider.fleet import follow
from provider.fleet.alike import sent_ms
from provider.fleet.desired import desired_for
from provider.fleet.events import Advise, Applied, Ended, Event, Heard, LinkState, Recorded, Stop
from provider.fleet.hearing import silent
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
from provider.fleet.limits import DEATH, Limiter, said_by
from provider.fleet.roster import Roster
from provider.fleet.view import View
from shared import messages as m
from shared.bus import AnyTopology, Delivery, Exchange, Link, Queue, Subscription, Topology
from shared.logs import log
from shared.tls import trust_of

TICK_S = 1.0
PULSE_S = 1.0
DUE_S = 0.1
TELL_S = 0.05
"""`on_change` is called this often at most: ten thousand agents say something thousands of times a second."""
_FROM_AGENTS = (m.Hello, m.Pulse, m.Advised, m.Report)

Submit = Callable[[Command, Callable[[bool], None]], None]
"""Commit a command on behalf of this node; the callback runs when it has ended, with whether it was done, on any
thread."""


@dataclass(frozen=True, slots=True)
class RefusedMessage:
    """A message that its sender may not send. `user` is the broker's user who sent it, None where that is not known."""

    user: str | None
    type: str
    kind: str
    why: str


class Hub:
    """Public methods may be called from any thread."""

    def __init__(
        self,
        *,
        node: str,
        username: str,
        state: State,
        make_link: Callable[[AnyTopology, Callable[[str], None], Callable[[str], None]], Link],
        submit: Submit,
        advice: Callable[[State], m.Advice],
        unseal: Callable[[str, str], str],
        pulse: Callable[[], m.NodePulse],
        on_change: Callable[[], None],
        on_refused: Callable[[RefusedMessage], None],
        on_broker: Callable[[str, str], bool] = lambda _user, _hash: False,
        on_suspended: Callable[[Sequence[str]], None] = lambda _users: None,
        commits: Callable[[], bool] = lambda: True,
    ) -> None:
        """`make_link(topology, on_up, on_down)` connects to the broker; `pulse()` says how this node is; `on_change` is
        called on the hub's thread soon after `view` has become another, `on_refused` for each message that its sender
        may not send; `on_broker(user, hash)` says whether the broker knows this user with this password;
        `on_suspended(users)` is called when `suspended` has changed for these; `commits()` says whether a primary has
        read the log back lately: one that has not does not beat, so that agents look for another one."""
        self._on_broker, self._on_suspended, self._commits = on_broker, on_suspended, commits
        self._limiter = Limiter()
        self._node, self._username = node, username
        self._submit, self._advice, self._unseal, self._pulse = submit, advice, unseal, pulse
        self._on_change, self._on_refused = on_change, on_refused
        self._roster = Roster(node, state)
        self._trust()
        self._view = self._roster.view
        self._inbox: SimpleQueue[Event] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="hub", daemon=True)
        self._link = make_link(
            self._topology,
            lambda _endpoint: self._inbox.put(LinkState(True)),
            lambda _reason: self._inbox.put(LinkState(False)),
        )
        self.undecodable: dict[str, int] = {}
        """Messages that were skipped, by kind; each kind is logged once for each sender."""
        self._logged: set[tuple[str, str]] = set()

    @property
    def view(self) -> View:
        return self._view

    @property
    def suspended(self) -> frozenset[str]:
        """Broker users that are cut off for a time."""
        return self._limiter.suspended

    @property
    def connected(self) -> bool:
        return self._link.endpoint is not None

    @property
    def endpoint(self) -> str | None:
        """Of the broker at which this node is connected; None: it is not."""
        return self._link.endpoint

    @property
    def listening_s(self) -> float | None:
        """For how many seconds it has had its connection to the broker; None: it has none."""
        since_s = self._roster.up_s
        return time.monotonic() - since_s if since_s is not None and self.connected else None

    def unheard(self) -> list[str]:
        """Members of which nothing was heard although there is a connection, by name."""
        since_s, roster = self._roster.up_s, self._roster
        if since_s is None or not self.connected:
            return []
        return silent(roster.state, self._view, self._node, time.monotonic(), since_s)

    def reconnect(self, why: str) -> None:
        """Make the connection to the broker anew, with its queue."""
        self._link.restart(why)

    def start(self) -> None:
        self._thread.start()
        self._link.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        self._inbox.put(Stop())
        self._thread.join(timeout_s)
        self._link.close()

    def applied(self, state: State, accepted: Sequence[Accepted]) -> None:
        """The state has moved on. Cheap for what does not concern agents or nodes."""
        concerned = any(
            a.record.type == "claim"
            or any(_concerns(d.kind, d.id) for d in a.delta.put)
            or any(_concerns(kind, id_) for kind, id_ in a.delta.deleted)
            for a in accepted
        )
        if concerned:
            self._inbox.put(Applied(state, tuple(accepted)))

    def advise(self, agent: str) -> None:
        """Send the advice to one agent, or to `all`, now."""
        self._inbox.put(Advise(agent))

    # ── the thread ──

    def _topology(self) -> Topology:
        """Of one connection."""
        queue = f"provider.{self._node}.{uuid4().hex[:12]}"
        return Topology(
            exchanges=[
                Exchange(m.AGENTS_DOWN, "topic"),
                Exchange(m.AGENTS_UP, "topic"),
                Exchange(m.PROVIDERS, "topic"),
            ],
            queues=[
                Queue(
                    queue,
                    # What is older than this says nothing any more; a node that hangs must not fill the broker.
                    arguments={
                        "x-message-ttl": 30_000,
                        "x-max-length": 50_000,
                        "x-max-length-bytes": 128 * 1024 * 1024,
                        "x-overflow": "drop-head",
                    },
                    bindings=[(m.AGENTS_UP, m.UP_KEYS), (m.PROVIDERS, "#")],
                    exclusive=True,
                )
            ],
            subscriptions=[Subscription(queue, self._on_delivery, prefetch=500)],
        )

    def _on_delivery(self, delivery: Delivery) -> None:
        """Link's thread. What is too much is dropped here, before it waits for the hub in our memory."""
        if not self._limiter.admit(said_by(delivery), len(delivery.body), time.monotonic()):
            self._drop("over_limit", delivery)
        elif delivery.user_id is None:
            self._drop("anonymous", delivery)
        else:
            self._heard_of(delivery)

    def _drop(self, kind: str, delivery: Delivery) -> None:
        delivery.ack()
        self.undecodable[kind] = self.undecodable.get(kind, 0) + 1

    def _heard_of(self, delivery: Delivery) -> None:
        astray = DEATH in delivery.headers or delivery.exchange not in (m.AGENTS_UP, m.PROVIDERS)
        self._inbox.put(Heard(delivery.body, delivery.user_id, astray, delivery.ack))

    def _run(self) -> None:
        next_due_s = next_tick_s = next_pulse_s = next_tell_s = time.monotonic()
        told = self._view
        while True:
            try:
                event: Event | None = self._inbox.get(timeout=DUE_S if self._view is told else TELL_S)
            except Empty:
                event = None
            if isinstance(event, Stop):
                return
            now_s = time.monotonic()
            if event is not None:
                self._act(partial(self._handle, event))
            if now_s >= next_due_s:
                next_due_s = now_s + DUE_S
                self._act(partial(self._roster.due, now_s))
            if now_s >= next_tick_s:
                next_tick_s = now_s + TICK_S
                self._act(self._trust)
                self._act(partial(self._roster.tick, now_s))
                self._look_at_limits(now_s)
            if now_s >= next_pulse_s:
                next_pulse_s = now_s + PULSE_S
                self._act(lambda: [SendPulse()])
            self._view = self._roster.view
            if self._view is not told and now_s >= next_tell_s:
                told, next_tell_s = self._view, now_s + TELL_S
                self._on_change()

    def _look_at_limits(self, now_s: float) -> None:
        found = self._limiter.look(self._roster.state, now_s, cuts=self._roster.leads)
        for user in found.warned:
            log(user=user).warning("it says more than it may: what is over the limit is dropped unread")
        for user in found.cut:
            log(user=user).error("it goes on saying more than it may, and is cut off from the broker for a time")
        for user in found.back:
            log(user=user).info("it may connect again")
        if found.cut or found.back:
            self._on_suspended((*found.cut, *found.back))
        self._roster.limited(self._limiter.shown)

    def _act(self, decide: Callable[[], list[Instruction]]) -> None:
        """Whatever one agent says, and whatever one document holds, must not end the care for all the others."""
        try:
            instructions = decide()
        except Exception as error:  # noqa: BLE001
            self._fault("?", error)
            return
        for instruction in instructions:
            try:
                self._carry_out(instruction)
            except Exception as error:  # noqa: BLE001
                self._fault(getattr(instruction, "to", "?"), error)

    def _fault(self, agent: str, error: Exception) -> None:
        self.undecodable["fault"] = self.undecodable.get("fault", 0) + 1
        if (type(error).__name__, agent) not in self._logged:
            self._logged.add((type(error).__name__, agent))
            log(agent=agent).opt(exception=error).error("something about the agents could not be done")

    def _handle(self, event: Event) -> list[Instruction]:
        mono_s = time.monotonic()
        match event:
            case Heard():
                return self._heard(event, mono_s)
            case Applied(state, accepted):
                out = self._roster.applied(state, accepted, mono_s) + self._trust()
                self._limiter.forget(id_ for a in accepted for kind, id_ in a.delta.deleted if kind == "agent")
                if any(a.record.type == "claim" for a in accepted):
                    out.append(SendPulse())
                return out
            case Recorded(record, ok):
                return self._roster.recorded(record.updates, ok=ok)
            case Ended(then):
                then()
                return []
            case LinkState(up):
                if up:
                    return self._roster.link_up(mono_s)
                self._roster.link_down()
                return []
            case Advise(agent):
                return self._roster.advise(agent)
            case Stop():
                return []

    def _trust(self) -> list[Instruction]:
        return self._roster.trusts(trust_of(self._advice(self._roster.state).ca), time.monotonic())

    def _heard(self, event: Heard, mono_s: float) -> list[Instruction]:
        event.ack()
        try:
            envelope, body = self._open(event)
        except m.Undecodable as error:
            self.undecodable[error.kind] = self.undecodable.get(error.kind, 0) + 1
            seen = (error.kind, event.user_id or "?")
            if seen not in self._logged:
                self._logged.add(seen)
                log(kind=error.kind, sender=seen[1], why=str(error)).warning("message skipped")
            return []
        at_ms, sent = time.time_ns() // 1_000_000, sent_ms(envelope.at) if isinstance(body, m.NodePulse) else None
        return self._roster.heard(envelope.sender, body, envelope.epoch, at_ms, mono_s, sent)

    def _open(self, event: Heard) -> tuple[m.Envelope, m.Body]:
        """The message, if its sender is who it says. `user_id` is set by the sender and checked by the broker; a
        message that was dead-lettered into our exchange carries somebody else's. Raises `Undecodable`."""
        envelope, body = m.decode(event.body)
        expected = envelope.sender if isinstance(body, _FROM_AGENTS) else self._user_of(envelope.sender)
        if event.user_id != expected or event.astray:
            raise self._refuse(event, "forged", envelope, f"of {envelope.sender!r} sent by {event.user_id!r}")
        if not isinstance(body, (*_FROM_AGENTS, m.NodePulse)):
            raise self._refuse(event, "unexpected", envelope, "is not for providers")
        return envelope, body

    def _refuse(self, event: Heard, kind: str, envelope: m.Envelope, why: str) -> m.Undecodable:
        # Of a dead letter the broker knows only who wrote it first.
        user = None if event.astray else event.user_id
        self._on_refused(RefusedMessage(user, envelope.type, kind, f"{envelope.type} {why}"))
        return m.Undecodable(kind, f"{envelope.type} {why}")

    def _user_of(self, node: str) -> str:
        """The broker's user as whom another node speaks: its own, or one that all share where nobody can make users."""
        return node_user(node) if self._username == node_user(self._node) else self._username

    def _carry_out(self, instruction: Instruction) -> None:
        state, put = self._roster.state, self._inbox.put
        match instruction:
            case SendAdvice(to):
                self._say(m.AGENTS_DOWN, to, self._advice_for(to))
            case SendPulse():
                self._say(m.PROVIDERS, "node_pulse", self._pulse())
            case SendInquire(to):
                self._say(m.AGENTS_DOWN, to, m.Inquire())
            case SendBeat():
                self._beat(instruction)
            case SendDesired(to):
                self._say(m.AGENTS_DOWN, to, desired_for(state, to, self._unseal))
            case Record(updates):
                self._submit(RecordStatus(updates), lambda ok: put(Recorded(instruction, ok)))
            case Register(command):
                self._submit(command, lambda _ok: put(Ended(partial(self._roster.registered, command.id))))
            case Change(change):
                self._submit(change, lambda _ok: put(Ended(partial(self._roster.changed, change.id))))
            case Warn(agent):
                log(agent=agent).warning(
                    "two programs speak under this agent's name: its files were copied, or it was started twice"
                )

    def _advice_for(self, to: str) -> m.Advice:
        """The advice to all, and to one agent with what concerns its password."""
        state = self._roster.state
        advice, agent = self._advice(state), state.get("agent", to)
        if agent is None:
            return advice
        on_broker = self._on_broker(to, str(agent.spec["broker_password_hash"]))
        return advice.model_copy(update={"credential": follow.credential_for(agent, on_broker=on_broker)})

    def _beat(self, beat: SendBeat) -> None:
        if self._commits():
            self._say(m.AGENTS_DOWN, m.TO_ALL, m.Beat(interval_s=beat.interval_s, spread_s=beat.spread_s))

    def _say(self, exchange: str, key: str, body: m.Body) -> None:
        # How this node is, it is now: another pulse follows, and others take what they hear for the present.
        lasting = not isinstance(body, m.NodePulse)
        encoded = m.encode(body, sender=self._node, epoch=self._roster.state.epoch)
        self._link.publish(exchange, key, encoded, lasting=lasting)


def _concerns(kind: str, id_: str) -> bool:
    """Whether a change of this document can matter to agents or nodes."""
    return not (kind in ("token", "task") or (kind == "setting" and id_.startswith(FREE_SETTINGS)))
