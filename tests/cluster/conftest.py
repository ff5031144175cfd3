"""Whole clusters of real processes, each in a directory of its own."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from localcluster.cluster import Cluster

from tests.support.amqp import Rogue, enrolled
from tests.support.api import Client, client
from tests.support.clusters import running
from tests.support.nodes import primary_of, standbys_of

StartCluster = Callable[..., Cluster]


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three providers and one MariaDB with its agent, shared by all tests that leave it as healthy as they found it."""
    with running(tmp_path_factory.mktemp("shared"), providers=3, databases=1) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def start_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartCluster]:
    """Starts a cluster for one module, to be broken: `start_cluster(providers=3, databases=1)`."""
    with ExitStack() as stack:

        def start(*, providers: int = 3, databases: int = 1) -> Cluster:
            root = tmp_path_factory.mktemp("own")
            return stack.enter_context(running(root, providers=providers, databases=databases))

        yield start


@pytest.fixture(params=["primary", "standby"])
def node(request: pytest.FixtureRequest, cluster: Cluster) -> Client:
    """A node of the shared cluster, once the primary and once a standby: whoever asks must not notice."""
    leader = primary_of(cluster)
    return client(cluster, leader if request.param == "primary" else standbys_of(cluster)[0])


@pytest.fixture
def other(cluster: Cluster, node: Client) -> Client:
    """A standby that is not `node`."""
    return next(c for c in (client(cluster, name) for name in standbys_of(cluster)) if c.url != node.url)


@pytest.fixture
def rogue(cluster: Cluster) -> Iterator[Rogue]:
    """An agent of the shared cluster that obeys nobody."""
    with enrolled(cluster) as found:
        yield found
