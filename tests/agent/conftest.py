"""A real MariaDB server, a real broker on which the tests play the provider, and an agent."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pymysql
import pytest
import trustme
from localcluster.broker import Broker, BrokerPorts, BrokerUser
from localcluster.mariadb import MariaDB
from localcluster.ports import free_ports

from shared.bus import Credentials
from shared.files import write_atomically
from tests.support.agents import PASSWORD, Agent, Query, advice
from tests.support.databases import running_server
from tests.support.provider_side import ProviderSide


@pytest.fixture(scope="session")
def mariadb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MariaDB]:
    """A running server. Whoever stops it starts it again."""
    with running_server(tmp_path_factory.mktemp("mariadb")) as server:
        yield server


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


@pytest.fixture
def provider(broker: Broker) -> Iterator[ProviderSide]:
    side = ProviderSide(broker.endpoint, Credentials("provider", PASSWORD, str(broker.ca)))
    yield side
    side.close()


@pytest.fixture
def agent(tmp_path: Path, broker: Broker, mariadb: MariaDB, clean: None) -> Iterator[Agent]:
    """An agent that is enrolled as `db1`, with quick timings; not started. It must end by itself on SIGTERM."""
    made = Agent(tmp_path)
    made.config.write_text(
        f'id = "db1"\npulse_s = 0.5\nstagger_s = 0.1\n[[instances]]\nid = "db1"\nsocket = "{mariadb.socket}"\n'
        f'user = "{mariadb.user}"\nprobe_s = 0.3\nlook_s = 1.0\nsizes_s = 60\nretry_s = 1.0\nread_timeout_s = 1.5\n'
    )
    shutil.copy(broker.ca, tmp_path / "ca.pem")
    write_atomically(tmp_path / "broker.password", PASSWORD)
    content = advice(broker).model_dump(exclude={"credential"}) | {"ca": "ca.pem"}
    made.broker_json.write_text(json.dumps(content))
    yield made
    if made.process is not None:
        made.process.resume()
        made.stop()
    assert "unexpected error" not in made.log(), made.log()
