"""Stories on real hosts. Each module has a cluster of its own; each story leaves it healthy for the next."""

from collections.abc import Callable, Iterator

import pytest

from tests.testbed import machine
from tests.testbed.bed import Bed
from tests.testbed.cluster import Cluster

StartCluster = Callable[..., Cluster]


@pytest.fixture(scope="session")
def able() -> None:
    """Skips where this machine cannot carry a bed."""
    reason = machine.why_not()
    if reason is not None:
        pytest.skip(reason)


@pytest.fixture(scope="module")
def bed(able: None, request: pytest.FixtureRequest) -> Iterator[Bed]:
    """A bed without hosts, for one module."""
    with Bed() as bed:
        yield bed


@pytest.fixture(scope="module")
def start_cluster(bed: Bed) -> StartCluster:
    """Makes the module's cluster: `start_cluster(providers=3, databases=1)`."""

    def start(*, providers: int = 3, databases: int = 0) -> Cluster:
        cluster = Cluster(bed)
        try:
            cluster.make(providers, databases)
        except BaseException as error:
            error.add_note(f"journals of all hosts: {bed.keep('setup')}")
            raise
        return cluster

    return start


@pytest.fixture(scope="module")
def cluster(start_cluster: StartCluster) -> Cluster:
    """Three providers and one database host. A module that wants another cluster has a fixture of this name."""
    return start_cluster(databases=1)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """A story that failed leaves the journals of all hosts, and says where."""
    report = yield
    bed = getattr(item, "funcargs", {}).get("bed")
    if report.failed and report.when == "call" and bed is not None:
        report.sections.append(("test bed", f"journals of all hosts: {bed.keep(item.name)}"))
    return report


@pytest.fixture
def healthy(cluster: Cluster) -> Iterator[Cluster]:
    """The module's cluster, healthy before and after the story."""
    cluster.healthy()
    yield cluster
    cluster.healthy()
