"""A real MariaDB server, and a real broker on which the tests play the provider."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pymysql
import pytest
import trustme
from localcluster.broker import Broker, BrokerPorts, BrokerUser
from localcluster.mariadb import MariaDB
from localcluster.ports import free_ports

Query = Callable[..., list[tuple[Any, ...]]]
PASSWORD = "broker-password"


@pytest.fixture(scope="session")
def mariadb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MariaDB]:
    """A running server. Whoever stops it starts it again."""
    server = MariaDB(tmp_path_factory.mktemp("mariadb"), free_ports(1)[0])
    server.start()
    yield server
    server.kill()


@pytest.fixture
def query(mariadb: MariaDB) -> Query:
    """Runs one statement as the administrator; what was made stays, so use names of your own."""

    def run(sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        connection = pymysql.connect(
            unix_socket=str(mariadb.socket), user=mariadb.user, charset="utf8mb4", autocommit=True, read_timeout=20
        )
        with connection, connection.cursor() as cursor:
            cursor.execute(sql, parameters or None)
            return list(cursor.fetchall())

    return run


@pytest.fixture
def clean(query: Query) -> Iterator[None]:
    """Before and after: no database and no account but the server's own."""
    _clean(query)
    yield
    _clean(query)


def _clean(query: Query) -> None:
    own = ("mysql", "sys", "information_schema", "performance_schema")
    for (name,) in query("SELECT schema_name FROM information_schema.schemata"):
        if name not in own:
            query(f"DROP DATABASE `{name.replace('`', '``')}`")
    for user, host in query("SELECT User, Host FROM mysql.global_priv WHERE Host <> ''"):
        if user not in ("root", "mariadb.sys"):
            query("DROP USER %s@%s", user, host)
    for (role,) in query("SELECT User FROM mysql.global_priv WHERE Host = ''"):
        query(f"DROP ROLE `{role}`")


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory, authority: trustme.CA) -> Iterator[Broker]:
    """A running broker with the users `provider` and `db1`, the latter with an agent's rights."""
    root = tmp_path_factory.mktemp("broker")
    issued = authority.issue_cert("127.0.0.1", "localhost")
    issued.private_key_pem.write_to_path(root / "key.pem")
    issued.cert_chain_pems[0].write_to_path(root / "cert.pem")
    authority.cert_pem.write_to_path(root / "ca.pem")
    password_file = Path(root / "password")
    password_file.write_text(PASSWORD)
    own = r"agent\.db1\..*"
    users = (
        BrokerUser("provider", password_file),
        BrokerUser(
            "db1",
            password_file,
            tags="",
            configure=f"^{own}$",
            write=rf"^({own}|agents\.up)$",
            read=rf"^({own}|agents\.down)$",
        ),
    )
    amqps, distribution, epmd = free_ports(3)
    server = Broker(
        root / "data",
        BrokerPorts(amqps, distribution, epmd),
        certificate=root / "cert.pem",
        key=root / "key.pem",
        ca=root / "ca.pem",
        users=users,
    )
    server.start()
    yield server
    server.kill()
