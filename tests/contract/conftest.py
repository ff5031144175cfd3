"""The databases that a store can be in, all of them real."""

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pymysql
import pytest
from localcluster.mariadb import MariaDB
from localcluster.ports import free_ports

from provider.store import Store

OpenStore = Callable[[], Store]


@pytest.fixture(scope="session")
def mariadb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MariaDB]:
    """A running server. Whoever stops it starts it again."""
    server = MariaDB(tmp_path_factory.mktemp("mariadb"), free_ports(1)[0])
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def new_mariadb_url(mariadb: MariaDB) -> Callable[[], str]:
    """Makes an empty database and returns its URL."""
    numbers = count()

    def make() -> str:
        name = f"store_{next(numbers)}"
        connection = pymysql.connect(unix_socket=str(mariadb.socket), user=mariadb.user)
        with connection, connection.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {name}")
            cursor.execute("CREATE USER IF NOT EXISTS store@'127.0.0.1' IDENTIFIED BY 's3cret'")
            cursor.execute(f"GRANT ALL ON {name}.* TO store@'127.0.0.1'")
        return f"mysql+pymysql://store:s3cret@127.0.0.1:{mariadb.port}/{name}"

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
