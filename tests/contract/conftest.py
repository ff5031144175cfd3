"""The databases that a store can be in, all of them real."""

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
from localcluster.mariadb import MariaDB

from provider.store import Store
from tests.support.brokers import MemoryRig, RabbitRig, Rig
from tests.support.databases import new_database, running_server
from tests.support.stores import OpenStore


@pytest.fixture(scope="session")
def mariadb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MariaDB]:
    """A running server. Whoever stops it starts it again."""
    with running_server(tmp_path_factory.mktemp("mariadb")) as server:
        yield server


@pytest.fixture(scope="session")
def new_mariadb_url(mariadb: MariaDB) -> Callable[[], str]:
    """Makes an empty database and returns its URL."""
    numbers = count()

    def make() -> str:
        return new_database(mariadb, f"store_{next(numbers)}")

    return make


@pytest.fixture(params=["sqlite", "mariadb"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, once in SQLite and once in MariaDB."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'state.db'}"
    make: Callable[[], str] = request.getfixturevalue("new_mariadb_url")
    return make()


@pytest.fixture
def open_store(store_url: str) -> Iterator[OpenStore]:
    """Opens the same database as often as asked, as a process does that starts."""
    stores: list[Store] = []

    def open_() -> Store:
        stores.append(Store(store_url))
        stores[-1].migrate()
        return stores[-1]

    yield open_
    for store in stores:
        store.close()


@pytest.fixture(scope="session")
def rabbit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitRig]:
    """A running RabbitMQ. Whoever breaks it mends it."""
    rig = RabbitRig(tmp_path_factory.mktemp("rabbit"))
    yield rig
    rig.end()


@pytest.fixture(params=["memory", "rabbit"])
def rig(request: pytest.FixtureRequest) -> Rig:
    """A running broker: one in memory, new for each test; and RabbitMQ."""
    if request.param == "memory":
        return MemoryRig()
    rabbit: RabbitRig = request.getfixturevalue("rabbit")
    return rabbit
