"""What was heard of agents and nodes: immutable pictures, which other threads may read."""

from dataclasses import dataclass, field, replace

from immutables import Map

from provider.fleet.limits import Limited
from shared import messages as m

LAGS_KEPT = 15
"""One a second. A clock that jumps is noticed after as long, at the latest."""
DUPLICATE_S = 60.0
"""An agent counts as there twice for so long after it was last noticed."""


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
    trust: str | None = None
    credential: int = 0
    offer: m.Offer | None = field(default=None, repr=False)
    other_session: str | None = None
    """The one before this, if it was another."""
    duplicate_until_s: float = float("-inf")
    """Two programs speak under this name: a session came back after another. Monotonic."""

    def noticed_twice(self, known: "AgentSeen | None", mono_s: float) -> bool:
        """Whether two programs under this name were noticed now, and not already when it was as in `known`."""
        before_s = known.duplicate_until_s if known is not None else float("-inf")
        return before_s <= mono_s < self.duplicate_until_s

    def says_the_same(self, pulse: m.Pulse) -> bool:
        return (self.session, self.version, self.epoch, self.revision, self.endpoint) == (
            pulse.session,
            pulse.version,
            pulse.epoch,
            pulse.revision,
            pulse.endpoint,
        ) and (self.trust, self.credential, self.offer) == (pulse.trust, pulse.credential, pulse.offer)


@dataclass(frozen=True, slots=True)
class NodeSeen:
    at_ms: int
    mono_s: float
    pulse: m.NodePulse
    epoch: int
    lags_ms: tuple[int, ...] = ()
    """How much later each of its last messages came than it was sent, newest last: the time on the way, and the
    difference of the two clocks."""

    @property
    def lag_ms(self) -> int | None:
        return min(self.lags_ms, default=None)

    def after(self, known: "NodeSeen | None") -> "NodeSeen":
        """This message, after those that were `known`. A node that was started anew may have another clock."""
        if known is None or known.pulse.started != self.pulse.started:
            return self
        return replace(self, lags_ms=(*known.lags_ms, *self.lags_ms)[-LAGS_KEPT:])


@dataclass(frozen=True, slots=True)
class View:
    """What other threads may read: one immutable picture."""

    agents: Map[str, AgentSeen] = field(default_factory=Map)
    nodes: Map[str, NodeSeen] = field(default_factory=Map)
    trust: str | None = None
    """What agents should trust; None: not known yet."""
    limited: Map[str, Limited] = field(default_factory=Map)
    """Who said more than may be."""


def heard_from(known: AgentSeen | None, body: m.Body, at_ms: int, mono_s: float) -> AgentSeen | None:
    """What is known of an agent after `body`; None where it says nothing that can be placed."""
    instances: Map[str, m.ObservedInstance] = known.instances if known is not None else Map()
    match body:
        case m.Hello():
            return _said(known, body, Map({one.id: one for one in body.instances}), at_ms, mono_s)
        case m.Pulse():
            return _said(known, body, instances, at_ms, mono_s)
        case m.Advised() if known is not None:
            return replace(
                known,
                at_ms=at_ms,
                mono_s=mono_s,
                epoch=max(known.epoch, body.epoch),
                trust=body.trust,
                credential=body.credential,
                offer=body.offer,
            )
        case m.Report() if known is not None:
            for instance in body.instances:
                instances = instances.set(instance.id, instance)
            return replace(known, at_ms=at_ms, mono_s=mono_s, revision=body.revision, instances=instances)
        case _:
            return None


def _said(
    known: AgentSeen | None,
    body: m.Hello | m.Pulse,
    instances: Map[str, m.ObservedInstance],
    at_ms: int,
    mono_s: float,
) -> AgentSeen:
    other, duplicate_until_s = None, float("-inf")
    if known is not None:
        other, duplicate_until_s = known.other_session, known.duplicate_until_s
        if body.session != known.session:
            if body.session == other:  # sessions are new at each start: one that comes back was never gone
                duplicate_until_s = mono_s + DUPLICATE_S
            other = known.session
    return AgentSeen(
        at_ms,
        mono_s,
        body.session,
        body.version,
        body.epoch,
        body.revision,
        body.endpoint,
        instances,
        body.trust,
        body.credential,
        body.offer,
        other,
        duplicate_until_s,
    )
