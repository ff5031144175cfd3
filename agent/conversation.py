"""Carries out what `Session` and `Placement` decide, on a `Connection`: all of an agent that concerns the broker.

It has no thread, no timer and no file of its own. Its host has them: the daemon, or a test that is many agents at once.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol

from agent.brokerfile import BrokerSettings
from agent.connection import Attempt, Connection, LinkFactory
from agent.placement import Abandon, Move, Placement, Seek, Settle
from agent.session import (
    Connect,
    Fulfil,
    Heard,
    Instruction,
    MakePassword,
    Note,
    Send,
    Session,
    Store,
    UsePassword,
    shortened,
)
from shared.backoff import Backoff
from shared.bus import Credentials, Delivery, Outcome
from shared.logs import log
from shared.messages import AGENTS_UP, MAX_BYTES, Body, DesiredInstance, Hello, Report, encode, type_of, up_key


class Host(Protocol):
    """What a conversation needs from who holds it."""

    def after(self, wait_s: float, action: Callable[[], None]) -> None:
        """Call `action` later, on the thread that holds the conversation."""

    def note(self, note: Note) -> None: ...

    def store(self, settings: BrokerSettings) -> bool:
        """Write broker.json. False: it could not be written."""

    def fulfil(self, revision: int, desired: Mapping[str, DesiredInstance]) -> None: ...

    def change_password(self, instruction: MakePassword | UsePassword) -> None: ...

    def login(self, settings: BrokerSettings) -> Credentials:
        """For a connection with these settings. Raises `OSError`."""

    def unsent(self) -> None:
        """Have `say_again` called soon. Any thread."""


class Conversation:
    """Used from one thread. `on_delivery(delivery, attempt)` and `on_wake` are called on others: hand them over, to
    `arrived` and `look`."""

    def __init__(
        self,
        agent: str,
        session: Session,
        host: Host,
        make_link: LinkFactory,
        on_delivery: Callable[[Delivery, Attempt], None],
        on_wake: Callable[[], None],
        *,
        stagger_s: float,
        return_s: float,
    ) -> None:
        """`stagger_s`, `return_s`: as in agent.toml."""
        self.agent, self.session = agent, session
        self._host, self._stagger_s = host, stagger_s
        broker = session.broker
        self.placement = Placement(agent, broker.endpoints, epoch=broker.epoch, stagger_s=stagger_s, return_s=return_s)
        self.connection = Connection(agent, make_link, on_delivery, on_wake, self._after_losing)
        self._again = Backoff(first_s=1.0, longest_s=15.0)
        self._again_pending = False

    def begin(self) -> None:
        """Connect."""
        self.use(self.session.broker)

    def arrived(self, delivery: Delivery, attempt: Attempt) -> None:
        """A message has come."""
        delivery.ack()  # all that we are told is level-triggered: what a crash loses is sent again on hello
        told = self.session.message(delivery.body, key=delivery.key, user=delivery.user_id)
        # First, because it may be the reason to move: what is answered goes the new way.
        for one in told:
            if isinstance(one, Heard):
                here, there = self.connection.is_in_use(attempt), self.connection.is_sought(attempt)
                self._move(self.placement.heard(one.beat, here=here, there=there, now_s=time.monotonic()))
        self.do(told)

    def look(self) -> None:
        """See what became of the connections, and what time has brought about. To be called now and then."""
        now_s, broker = time.monotonic(), self.session.broker
        self.placement.told(broker.endpoints, broker.epoch, now_s)
        endpoint, renewed = self.connection.look()
        if self.connection.found:
            self._move(self.placement.reached(now_s))
            endpoint, renewed = self.connection.look()
        if endpoint is None:
            self.do(self.session.disconnected())
            self._move(self.placement.disconnected())
        elif renewed or self.session.endpoint != endpoint:
            self._connected(endpoint, now_s)
        self._move(self.placement.due(now_s))

    def do(self, instructions: Sequence[Instruction]) -> None:
        """Carry out, in order, up to one that fails."""
        for instruction in instructions:
            match instruction:
                case Note():
                    self._host.note(instruction)
                case Send(body, staggered):
                    self._host.after(self._patience_s() if staggered else 0.0, partial(self._send, body))
                case Store(settings):
                    if not self._host.store(settings):
                        return  # what is not on disk is not acknowledged; the provider will ask again
                    self.session.stored(settings)
                case Connect(settings, staggered):
                    wait_s = self.placement.stagger_s() if staggered else 0.0
                    self._host.after(wait_s, partial(self._use_if_new, settings, stay=staggered))
                case MakePassword() | UsePassword():
                    self._host.change_password(instruction)
                case Fulfil(revision, desired):
                    self._host.fulfil(revision, desired)
                case Heard():
                    pass  # see `arrived`

    def use(self, settings: BrokerSettings, *, stay: bool = False) -> None:
        """Connect with `settings`; once that is up, the connection before is closed. `stay`: to the same broker."""
        self.placement.told(settings.endpoints, settings.epoch, time.monotonic())
        try:
            self.connection.use(self.placement.order(stay=stay), self._host.login(settings))
        except (OSError, ValueError) as error:
            log(endpoints=",".join(settings.endpoints)).error("cannot be used: {}", error)

    def say_again(self) -> None:
        """A hello or report may not have arrived."""
        # With no connection there is nothing to do: each connect begins with a hello.
        if self._again_pending or self.session.endpoint is None:
            return
        self._again_pending = True
        self._host.after(self._again.next_s(), self._hello_again)

    # ── how ──────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _move(self, moves: Sequence[Move]) -> None:
        for move in moves:
            match move:
                case Note():
                    self._host.note(move)
                case Seek(endpoint):
                    self.connection.seek(endpoint)
                case Abandon():
                    self.connection.abandon()
                case Settle():
                    self.connection.settle()
                    endpoint_now, _ = self.connection.look()
                    if endpoint_now is not None:
                        self._connected(endpoint_now, time.monotonic())

    def _connected(self, endpoint: str, now_s: float) -> None:
        self.placement.connected(endpoint, now_s)
        self.do(self.session.connected(endpoint))

    def _after_losing(self, endpoint: str) -> tuple[Sequence[str], float]:
        # What was just lost may be gone for good: first the others. The whole fleet may have lost it in this moment.
        return self.placement.order(last=endpoint), self.placement.stagger_s()

    def _patience_s(self) -> float:
        return self.placement.chance() * self._stagger_s

    def _use_if_new(self, settings: BrokerSettings, *, stay: bool) -> None:
        """Unless newer ones have come while this waited for its turn."""
        if settings.connects_as(self.session.broker):
            self.use(settings, stay=stay)

    def _send(self, body: Body) -> None:
        data = self._encoded(body)
        on_done = self._check_sent if isinstance(body, Hello | Report) else None
        self.connection.publish(AGENTS_UP, up_key(type_of(body), self.agent), data, on_done)

    def _encoded(self, body: Body) -> bytes:
        epoch = self.session.broker.epoch
        data = encode(body, sender=self.agent, epoch=epoch)
        if len(data) > MAX_BYTES and isinstance(body, Hello | Report):
            body = body.model_copy(update={"instances": shortened(body.instances)})
            data = encode(body, sender=self.agent, epoch=epoch)
        return data

    def _check_sent(self, outcome: Outcome) -> None:
        """Link's thread."""
        if not outcome.ok:
            self._host.unsent()
        else:
            self._again.reset()

    def _hello_again(self) -> None:
        self._again_pending = False
        self.do(self.session.hello())
