"""What Prometheus reads. Worked out when it asks; nothing is counted on the way of a write."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from provider.broker.endpoints import endpoints
from provider.condition import condition, leads, newest_of
from provider.core.commands import backups_done
from provider.fleet.alike import clock_skews
from provider.fleet.follow import advised, agents_at
from provider.standing import standings
from provider.states import STATES
from provider.trust.pki import days_left

if TYPE_CHECKING:
    from provider.api.access.refused import TokensRefused
    from provider.api.http.guard import Guard
    from provider.core.state import State
    from provider.engine import Engine
    from provider.fleet.hub import Hub
    from provider.trust.membership import Membership


class _Collector(Collector):
    def __init__(
        self,
        node: str,
        engine: "Engine",
        hub: "Hub",
        membership: "Membership",
        guard: "Guard",
        refused: Mapping[str, int],
        tokens_refused: "TokensRefused",
    ) -> None:
        self._node, self._engine, self._hub, self._membership = node, engine, hub, membership
        self._guard, self._refused, self._tokens_refused = guard, refused, tokens_refused

    def collect(self) -> Iterator[Metric]:
        state, health, view = self._engine.state, self._engine.health, self._hub.view
        yield _gauge("revision", "Revision of this node's state", state.revision)
        yield _gauge("epoch", "Current epoch", state.epoch)
        yield _gauge("primary", "1 on a primary that works", int(leads(self._engine, self._node) is None))
        yield _gauge("log_connected", "1 while the log can be written and read", int(health.connected))
        yield _gauge("store_ok", "1 while the store can be written", int(health.store_problem is None))
        yield _gauge(
            "certificate_days", "Days until the node's certificate expires", self._membership.certificate_days_left()
        )
        days = GaugeMetricFamily(
            "bellwether_authority_days", "Days until a trusted certificate authority expires", labels=["authority"]
        )
        for authority in state.of("authority"):
            days.add_metric([authority.id], days_left(authority.spec["certificate"]))
        yield days
        newest = newest_of(state.revision, view)
        yield from _backups(state)
        yield _gauge("lag_revisions", "Revisions that this node is behind", newest - state.revision)
        yield from self._nodes()
        documents = GaugeMetricFamily("bellwether_documents", "Documents in the state", labels=["kind"])
        for kind, collection in state.documents.items():
            documents.add_metric([kind], len(collection))
        yield documents
        yield _gauge("idempotency_keys", "Idempotency keys remembered", len(state.keys))
        yield from self._agents()
        yield _gauge("connections", "Open connections of the API", self._guard.connections.total)
        yield _counter("refused_connections", "Connections refused or ended early", "reason", dict(self._guard.refused))
        yield _counter("limited", "Requests that met a limit", "what", dict(self._guard.limited))
        yield _counter("tokens_refused", "Tokens that were refused", "reason", dict(self._tokens_refused.counts))
        yield _counter("records_skipped", "Log records that changed nothing", "why", health.skipped)
        yield _counter(
            "records_unreadable", "Log records that are none of ours", "why", {"unreadable": health.unreadable}
        )
        yield _counter(
            "messages_skipped", "Broker messages that were not understood", "kind", dict(self._hub.undecodable)
        )

        yield _counter("refused", "What was asked and refused here, as the audit has it", "code", dict(self._refused))

    def _nodes(self) -> Iterator[Metric]:
        """A node that was removed says so of itself, and is no member that others could tell of."""
        states = GaugeMetricFamily(
            "bellwether_node_state", "1 for the state that a node is in, as this one knows it", labels=["node", "state"]
        )
        lags = GaugeMetricFamily(
            "bellwether_node_lag_revisions", "Revisions that a node was behind when last heard of", labels=["node"]
        )
        state = self._engine.state
        found = {one.name: one for one in standings(self._engine, self._hub, self._node, state)}
        now_in = {name: one.condition.state for name, one in found.items()}
        now_in.setdefault(self._node, condition(self._engine, self._node).state)
        for name, its_state in now_in.items():
            for known in STATES:
                states.add_metric([name, known], int(known == its_state))
        for name, one in found.items():
            if one.lag is not None:
                lags.add_metric([name], one.lag)
        yield states
        yield lags
        skews = GaugeMetricFamily(
            "bellwether_clock_skew_seconds", "How far a node's clock is ahead of the primary's", labels=["node"]
        )
        for name, ahead_s in clock_skews(self._hub.view, self._node, state.primary).items():
            skews.add_metric([name], ahead_s)
        yield skews

    def _agents(self) -> Iterator[Metric]:
        state, view = self._engine.state, self._hub.view
        agents = state.of("agent")
        by_state = GaugeMetricFamily("bellwether_agents", "Agents by state", labels=["state"])
        for name in ("never", "online", "offline"):
            by_state.add_metric([name], sum(agent.status["state"] == name for agent in agents))
        yield by_state
        by_endpoint = GaugeMetricFamily(
            "bellwether_agents_at", "Agents that are online, by the broker at which they are", labels=["endpoint"]
        )
        for endpoint, count in sorted((dict.fromkeys(endpoints(state), 0) | agents_at(state, view)).items()):
            by_endpoint.add_metric([endpoint], count)
        yield by_endpoint
        follow = sum(advised(agent, state, view) for agent in agents)
        yield _gauge("agents_advised", "Agents that follow: epoch, authorities and password", follow)


def metrics_of(
    node: str,
    engine: "Engine",
    hub: "Hub",
    membership: "Membership",
    guard: "Guard",
    refused: Mapping[str, int],
    tokens_refused: "TokensRefused",
) -> CollectorRegistry:
    """A registry of its own: there is no global state. `refused` is `Refusals.counts`."""
    registry = CollectorRegistry()
    registry.register(_Collector(node, engine, hub, membership, guard, refused, tokens_refused))
    ProcessCollector(registry=registry)
    return registry


def render(registry: CollectorRegistry) -> bytes:
    return generate_latest(registry)


def _backups(state: "State") -> Iterator[Metric]:
    done = backups_done(state)
    for which in ("last", "scheduled"):
        if which in done:
            about = "the last backup" if which == "last" else "the last scheduled backup"
            yield _gauge(f"backup_{which}_timestamp_seconds", f"When {about} was made", done[which]["at"] / 1000)
            yield _gauge(f"backup_{which}_bytes", f"Size of {about}", done[which]["size_bytes"])
    yield _gauge("backup_failed", "1 where the last scheduled backup could not be made", int("failed" in done))


def _gauge(name: str, help_: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"bellwether_{name}", help_, value=value)


def _counter(name: str, help_: str, label: str, values: dict[str, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(f"bellwether_{name}", help_, labels=[label])
    for value, count in sorted(values.items()):
        family.add_metric([value], count)
    return family
