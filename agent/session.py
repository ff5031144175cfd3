"""What the agent decides about messages and about broker.json. Pure: events in, instructions out, no clock, no I/O.

The daemon calls one method per event, from one thread, and carries out the instructions in order. It stops at one that
fails: what has not been stored is not acknowledged.

Which commands are obeyed: those of the highest epoch seen, or a higher one. An epoch is stored before anything is done
in its name, so a deposed primary cannot command an agent that was restarted either. While it cannot be stored (the disk
is full), nothing is done in its name, and it is not claimed to be known; older ones are refused all the same.
"""

from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from agent import brokerfile
from agent.brokerfile import BrokerSettings
from agent.settings import AgentFiles
from shared.errors import Invalid
from shared.messages import (
    TO_ALL,
    Advice,
    Advised,
    Beat,
    Body,
    Credential,
    Desired,
    DesiredInstance,
    Envelope,
    Hello,
    Inquire,
    ObservedInstance,
    Offer,
    Pulse,
    Report,
    Undecodable,
    decode,
    type_of,
)
from shared.tls import trust_of

REMEMBERED_SENDERS = 1000
"""Bound on what is kept to log each oddity once."""
REMEMBERED_MESSAGES = 256
"""While the connection moves, each message comes through the old one and the new one: it is acted on once."""


@dataclass(frozen=True, slots=True)
class Send:
    """Publish `body`. `staggered`: after a random wait, because the whole fleet was told to."""

    body: Body
    staggered: bool = False


@dataclass(frozen=True, slots=True)
class Store:
    """Write broker.json, then call `Session.stored`."""

    settings: BrokerSettings


@dataclass(frozen=True, slots=True)
class Connect:
    """Open a connection with these settings; once it is up, close the one before."""

    settings: BrokerSettings
    staggered: bool


@dataclass(frozen=True, slots=True)
class Fulfil:
    """Hand each instance its wishes; instances that are not named have none."""

    revision: int
    desired: Mapping[str, DesiredInstance]


@dataclass(frozen=True, slots=True)
class Note:
    """One line for the log."""

    level: str
    text: str
    fields: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class MakePassword:
    """Make the next broker password and put it on disk, then call `Session.made`."""

    number: int


@dataclass(frozen=True, slots=True)
class UsePassword:
    """The broker knows the next password: open a connection with it; once it is up, call `Session.switched`."""


@dataclass(frozen=True, slots=True)
class Heard:
    """The primary has spoken through the connection on which this message came; `beat` where that is what it said."""

    beat: Beat | None


Instruction = Send | Store | Connect | Fulfil | Note | MakePassword | UsePassword | Heard


@dataclass(frozen=True, slots=True)
class Sight:
    """What one instance's worker last saw, and the revision of the wishes that it had then dealt with."""

    observed: ObservedInstance
    revision: int


class Session:
    """The agent's side of the conversation. `session` is new at each start."""

    def __init__(
        self,
        *,
        version: str,
        session: str,
        instances: Sequence[str],
        broker: BrokerSettings,
        files: AgentFiles,
        credential: int = 0,
        offer: Offer | None = None,
    ) -> None:
        """`credential` is the number of the broker password in use, `offer` is of the next one."""
        self.session = session
        self._files = files
        self.broker = broker
        self.credential, self.offer = credential, offer
        self.endpoint: str | None = None
        self.revision = 0
        """Of the desired state that is held; 0 before the first."""
        self.skipped: Counter[str] = Counter()
        """Messages that were not acted on, by kind."""
        self._version = version
        self._instances = tuple(instances)
        self._stored = broker
        """What broker.json says: what was stored last, or edited since."""
        self._desired_at = (0, 0)
        self._waiting: Fulfil | None = None
        """Wishes that are fulfilled once `broker` is stored."""
        self._sights: dict[str, Sight] = {}
        self._noted: set[tuple[str, str]] = set()
        self._known: OrderedDict[str, None] = OrderedDict()
        """The last messages, by their ids."""

    # ── the connection ───────────────────────────────────────────────────────────────────────────────────────────────

    def connected(self, endpoint: str) -> list[Instruction]:
        self.endpoint = endpoint
        note = Note("INFO", "connected", {"endpoint": endpoint, "epoch": self.broker.epoch})
        return [note, *self.hello()]

    def disconnected(self) -> list[Instruction]:
        if self.endpoint is None:
            return []
        lost, self.endpoint = self.endpoint, None
        return [Note("WARNING", "connection lost", {"endpoint": lost})]

    def hello(self, *, staggered: bool = False) -> list[Instruction]:
        """Say what there is. Nothing before every instance was looked at: half the truth would look like a loss."""
        if self.endpoint is None or not self.complete:
            return []
        body = Hello(
            version=self._version,
            session=self.session,
            epoch=self._stored.epoch,
            revision=self.revision,
            endpoint=self.endpoint,
            trust=trust_of(self.broker.ca),
            credential=self.credential,
            offer=self.offer,
            instances=self.observed_instances,
        )
        return [Send(body, staggered)]

    def pulse(self) -> list[Instruction]:
        if self.endpoint is None or not self.complete:
            return []
        body = Pulse(
            version=self._version,
            session=self.session,
            epoch=self._stored.epoch,
            revision=self.revision,
            endpoint=self.endpoint,
            trust=trust_of(self.broker.ca),
            credential=self.credential,
            offer=self.offer,
        )
        return [Send(body)]

    # ── the instances ────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def complete(self) -> bool:
        """Whether every instance has been looked at."""
        return len(self._sights) == len(self._instances)

    @property
    def observed_instances(self) -> tuple[ObservedInstance, ...]:
        return tuple(self._sights[name].observed for name in self._instances if name in self._sights)

    def seen(self, observed: ObservedInstance, revision: int) -> list[Instruction]:
        """An instance's worker has something new to tell."""
        was_complete = self.complete
        self._sights[observed.id] = Sight(observed, revision)
        if not self.complete:
            return []
        return self.report() if was_complete else self.hello()

    def report(self) -> list[Instruction]:
        if self.endpoint is None or not self.complete:
            return []
        reached = min(sight.revision for sight in self._sights.values())
        return [Send(Report(revision=reached, instances=self.observed_instances))]

    # ── messages ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def message(self, data: bytes, *, key: str, user: str | None) -> list[Instruction]:
        """A message from the broker: any bytes. `user` is the sender as the broker knows it."""
        try:
            envelope, body = decode(data)
        except Undecodable as error:
            return self._skip(error.kind, user or "unknown", str(error))
        obeyed = envelope.epoch >= self.broker.epoch
        if isinstance(body, Beat):
            return [Heard(body)] if obeyed else []  # a deposed primary beats until it learns of it: no oddity
        heard: list[Instruction] = [Heard(None)] if obeyed and isinstance(body, Advice | Desired | Inquire) else []
        return heard if self._is_known(envelope.id) else heard + self._act_on(envelope, body, key)

    def _is_known(self, id_: str) -> bool:
        known = id_ in self._known
        self._known[id_] = None
        if len(self._known) > REMEMBERED_MESSAGES:
            self._known.popitem(last=False)
        return known

    def _act_on(self, envelope: Envelope, body: Body, key: str) -> list[Instruction]:
        match body:
            case Inquire():  # from any provider, of whatever epoch: to be known harms nobody
                return self.hello(staggered=key == TO_ALL)
            case Advice() | Desired() if envelope.epoch < self.broker.epoch:
                return self._skip("stale_epoch", envelope.sender, f"epoch {envelope.epoch} < {self.broker.epoch}")
            case Advice():
                return self._advice(envelope, body)
            case Desired():
                return self._desired(envelope, body)
            case _:
                return self._skip("unexpected", envelope.sender, f"{type_of(body)} is not for agents")

    def _advice(self, envelope: Envelope, advice: Advice) -> list[Instruction]:
        if advice.epoch < self.broker.epoch:
            return self._skip("stale_epoch", envelope.sender, f"advice of epoch {advice.epoch}")
        try:
            new = brokerfile.from_advice(advice, self._files, good_ca=self.broker.ca)
        except Invalid as error:
            return self._skip("malformed", envelope.sender, error.detail)
        password = self._password(advice.credential) if advice.credential is not None else []
        return [*self._adopt(new, self._stored, staggered=True), *(password or [self._advised()])]

    def _advised(self) -> Send:
        trust = trust_of(self.broker.ca)
        body = Advised(
            epoch=self.broker.epoch,
            primary=self.broker.primary,
            trust=trust,
            credential=self.credential,
            offer=self.offer,
        )
        return Send(body)

    # ── the broker password ──────────────────────────────────────────────────────────────────────────────────────────

    def _password(self, wanted: Credential) -> list[Instruction]:
        if wanted.number <= self.credential:
            return []
        if self.offer is None or self.offer.number != wanted.number:
            return [MakePassword(wanted.number)]
        return [UsePassword()] if wanted.active else []

    def made(self, offer: Offer) -> list[Instruction]:
        """The next password is on disk."""
        self.offer = offer
        return [self._advised()]

    def switched(self, number: int) -> list[Instruction]:
        """The broker has taken the next password, and it is the only one on disk."""
        self.credential, self.offer = number, None
        note = Note("INFO", "the broker password was changed", {"number": number})
        return [note, self._advised()]

    def _desired(self, envelope: Envelope, desired: Desired) -> list[Instruction]:
        # By epoch first: a log that was begun anew counts revisions from where its survivor stood.
        at = (envelope.epoch, desired.revision)
        if at < self._desired_at:
            return self._skip("stale_revision", envelope.sender, f"revision {desired.revision} < {self.revision}")
        told: list[Instruction] = []
        self._waiting = None
        if envelope.epoch > self.broker.epoch:
            # The advice of this epoch has not come yet; its number is kept all the same, against its predecessors.
            new = replace(self.broker, epoch=envelope.epoch, primary=envelope.sender)
            told += self._adopt(new, self._stored, staggered=True)
        elif self.broker != self._stored:  # its number, or all of its advice, could not be stored when it came
            told += self._adopt(self.broker, self._stored, staggered=True)
        self._desired_at = at
        self.revision = desired.revision
        wishes = {one.id: one for one in desired.instances if one.id in self._instances}
        for stranger in {one.id for one in desired.instances} - wishes.keys():
            told += self._skip("unknown_instance", envelope.sender, f"instance {stranger[:80]} is not in agent.toml")
        fulfil = Fulfil(desired.revision, wishes)
        self._waiting = fulfil if self.broker != self._stored else None
        return [*told, fulfil]

    # ── broker.json ──────────────────────────────────────────────────────────────────────────────────────────────────

    def edited(self, new: BrokerSettings) -> list[Instruction]:
        """A person has changed broker.json, and it is valid: their word is final, also where it lowers the epoch. But
        what it says as it was stored last is nobody's word: something newer may be held that could not be stored."""
        was, self._stored = self._stored, new
        changed = {one: getattr(new, one) for one in new.__slots__ if getattr(new, one) != getattr(was, one)}
        new = replace(self.broker, **changed)
        if new == self.broker:
            return []
        if new.epoch < self.broker.epoch:
            self._desired_at = (0, 0)
        note = Note("INFO", "broker.json was edited", {"epoch": new.epoch, "primary": new.primary})
        return [note, *self._adopt(new, was, staggered=False), self._advised()]

    def stored(self, settings: BrokerSettings) -> None:
        """`settings` are in broker.json."""
        self._stored, self._waiting = settings, None

    def _adopt(self, new: BrokerSettings, was: BrokerSettings, *, staggered: bool) -> list[Instruction]:
        """`was`: what was acted on before. What could not be stored was not, so that is done when it is tried again."""
        self.broker = new
        told: list[Instruction] = []
        if new != self._stored:
            told.append(Store(new))
        if (new.epoch, new.primary) != (was.epoch, was.primary):
            told.append(Note("INFO", "new primary", {"epoch": new.epoch, "primary": new.primary}))
        listed = self.endpoint in new.endpoints
        # Where the order alone has changed, `Placement` sees to it. Who has typed an order is not kept waiting.
        if not new.connects_as(was) and not (staggered and listed and new.trusts_as(was)):
            # One that sits at an endpoint that is to be used no more has no time to wait for its turn.
            told.append(Connect(new, staggered and listed))
        if self._waiting is not None and self._desired_at[0] == new.epoch:
            told.append(self._waiting)
        return told

    def _skip(self, kind: str, sender: str, detail: str) -> list[Instruction]:
        self.skipped[kind] += 1
        known = (kind, sender[:200])
        if known in self._noted or len(self._noted) >= REMEMBERED_SENDERS:
            return []
        self._noted.add(known)
        fields = {"kind": kind, "sender": sender[:200], "reason": detail[:300]}
        return [Note("WARNING", "message skipped; more of the kind are only counted", fields)]


def shortened(instances: Sequence[ObservedInstance]) -> tuple[ObservedInstance, ...]:
    """For a report that would be too large for a message: only wished databases and accounts are listed."""
    return tuple(
        one.model_copy(
            update={
                "databases": tuple(d for d in one.databases if d.name in {r.name for r in one.database_results}),
                "accounts": tuple(a for a in one.accounts if a.name in {r.name for r in one.account_results}),
                "message": one.message or "too many databases and accounts to list; only those managed are listed",
            }
        )
        for one in instances
    )
