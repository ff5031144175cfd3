"""One cluster of real processes for the attacks that leave it as it was: two providers, a broker, a MariaDB server with
its agent `db1`."""

from collections.abc import Iterator

import pytest
from localcluster.cluster import Cluster

from tests.support.amqp import Rogue, enrolled
from tests.support.api import Client, client
from tests.support.clusters import running
from tests.support.nodes import primary_of, standbys_of


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running(tmp_path_factory.mktemp("attacked"), providers=2, databases=1) as cluster:
        yield cluster


@pytest.fixture
def primary(cluster: Cluster) -> Client:
    """The primary, asked as administrator."""
    return client(cluster, primary_of(cluster))


@pytest.fixture
def standby(cluster: Cluster) -> Client:
    """A standby, asked as administrator."""
    return client(cluster, standbys_of(cluster)[0])


@pytest.fixture(params=["primary", "standby"])
def node(request: pytest.FixtureRequest, cluster: Cluster) -> Client:
    return client(cluster, primary_of(cluster) if request.param == "primary" else standbys_of(cluster)[0])


@pytest.fixture(scope="module")
def agent(cluster: Cluster) -> Iterator[Rogue]:
    """One like `rogue`, for all tests of a module."""
    with enrolled(cluster) as found:
        yield found


@pytest.fixture
def rogue(cluster: Cluster) -> Iterator[Rogue]:
    """An agent with credentials of its own, whose program is the attacker's."""
    with enrolled(cluster) as found:
        yield found
