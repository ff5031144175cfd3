"""A fleet of agents and a broker for each provider: it follows a promotion, and no agent misses a wish.

The agents are a swarm: real connections, real conversations, no database servers.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.api import client
from tests.support.clustered import BrokersCluster
from tests.support.following import Followed, Wishes, patient, promote, started
from tests.support.swarm import Swarm

AGENTS, MANY = 50, 1000


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[BrokersCluster]:
    made = BrokersCluster(tmp_path / "c")
    try:
        made.up()
        yield made
    finally:
        made.kill_all()


def follow(cluster: BrokersCluster, swarm: Swarm, standby: str) -> Followed:
    """A promotion while wishes of all agents change; afterwards everything is as it was asked for."""
    wishes = Wishes(list(swarm.agents))
    with wishes.going_on([client(cluster, name) for name in cluster.providers]):
        followed = promote(cluster, swarm, standby)
    assert not wishes.failed
    assert wishes.asked
    node = client(cluster, standby)
    node.wait_for("/cluster", lambda c: c["agents"]["advised"] == len(swarm.agents))
    swarm.until(wishes.held_by, "agents were told of all their wishes")
    for agent, names in wishes.asked.items():
        path = f"/instances/{agent}/databases?limit=1000"
        node.wait_for(path, lambda page, names=names: names <= ready(page))  # type: ignore[misc]
    return followed


def ready(page: dict[str, object]) -> set[str]:
    items: list[dict[str, dict[str, str]]] = page["items"]  # type: ignore[assignment]
    return {str(one["id"]).partition("/")[2] for one in items if one["status"]["phase"] == "ready"}


def test_agents_follow_a_promotion_to_another_broker_and_none_misses_a_wish(
    cluster: BrokersCluster, tmp_path: Path
) -> None:
    with started(cluster, tmp_path, AGENTS) as swarm:
        assert set(swarm.where) == {cluster.endpoint("p1")}
        follow(cluster, swarm, "p2")
        found = client(cluster, "p3").wait_for("/cluster", lambda c: c["agents_at"][0]["agents"] == AGENTS)
        assert found["agents_at"][0] == {"endpoint": cluster.endpoint("p2"), "agents": AGENTS, "preferred": True}
        # Its broker dies: they go to both others, and say why.
        cluster.brokers["p2"].kill()
        others = {cluster.endpoint(name) for name in ("p1", "p3")}
        swarm.until(lambda agent: agent.session.endpoint in others, "agents go to the other brokers")
        assert all(swarm.where[endpoint] >= AGENTS / 5 for endpoint in others), swarm.where
        assert not swarm.faults


@pytest.mark.long
def test_a_thousand_agents_follow_a_promotion(cluster: BrokersCluster, tmp_path: Path) -> None:
    patient(cluster)
    with started(cluster, tmp_path, MANY) as swarm:
        for standby in ("p2", "p3"):
            print(follow(cluster, swarm, standby))
        assert not swarm.faults
