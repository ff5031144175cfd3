"""A node's maintenance: begun and ended by command only, so that it outlives every restart of the node."""

from dataclasses import dataclass

from provider.core import documents as docs
from provider.core.commands.base import ALWAYS, Plan, Precondition, need, put
from provider.core.state import State
from shared.errors import Refused


def in_maintenance(state: State, node: str) -> bool:
    """Whether a node is in maintenance. One that is no member is not."""
    document = state.get("node", node)
    return document is not None and document.spec.get("maintenance") is not None


@dataclass(frozen=True, slots=True)
class BeginMaintenance:
    """Take a standby out of service. Begun twice it keeps its beginning; the last reason counts."""

    node: str
    reason: str | None = None
    when: Precondition = ALWAYS

    def plan(self, state: State, now: int) -> Plan:
        document = need(state, "node", self.node)
        self.when.check(f"node {self.node!r}", document)
        if state.primary == self.node:
            # What follows is a stop or a reboot: with the primary, writes would stop, and nobody takes over unasked.
            raise Refused(
                f"{self.node} is the primary: make another node primary first (`failover --operation promote` there), "
                "then put this one into maintenance"
            )
        before = document.spec.get("maintenance")
        begun = docs.MaintenanceSpec(reason=self.reason, since=before["since"] if before is not None else now)
        spec = docs.NodeSpec.model_validate({**document.spec, "maintenance": begun})
        change = put("node", self.node, spec)
        return Plan(200, ("node", self.node), () if change.spec == document.spec else (change,))


@dataclass(frozen=True, slots=True)
class EndMaintenance:
    """Let a node serve again. Of one that is in no maintenance it changes nothing."""

    node: str
    when: Precondition = ALWAYS

    def plan(self, state: State, now: int) -> Plan:
        document = need(state, "node", self.node)
        self.when.check(f"node {self.node!r}", document)
        if document.spec.get("maintenance") is None:
            return Plan(204)
        spec = docs.NodeSpec.model_validate({**document.spec, "maintenance": None})
        return Plan(204, None, (put("node", self.node, spec),))
