"""What was heard of agents and nodes: immutable pictures, which other threads may read."""

from dataclasses import dataclass, field, replace

from immutables import Map

from shared import messages as m


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

    def says_the_same(self, pulse: m.Pulse) -> bool:
        return (self.session, self.version, self.epoch, self.revision, self.endpoint) == (
            pulse.session,
            pulse.version,
            pulse.epoch,
            pulse.revision,
            pulse.endpoint,
        )


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


def heard_from(known: AgentSeen | None, body: m.Body, at_ms: int, mono_s: float) -> AgentSeen | None:
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
