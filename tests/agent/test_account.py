"""The account that `deploy/agent-account.sql` makes may do what the agent does, and is entered by the socket alone."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from localcluster.mariadb import AGENT_ACCOUNT
from localcluster.mariadb import MariaDB as Server

from agent.mariadb import MariaDB, Refused, ServerDown
from agent.privileges import ALL, GRANT_OPTION
from agent.settings import InstanceSettings
from agent.steps import (
    AlterDatabase,
    CreateAccount,
    CreateDatabase,
    DropAccount,
    DropDatabase,
    Grant,
    RenameAccount,
    Revoke,
    RevokeAll,
    SetPassword,
)
from shared.files import write_atomically
from tests.support.agents import Query

ACCOUNT, PASSWORD = "bellwether-agent", "only-for-this-test"


@pytest.fixture(autouse=True)
def account(mariadb: Server, query: Query, clean: None) -> None:
    with AGENT_ACCOUNT.open() as statements:
        for _ in range(2):  # again does no harm
            statements.seek(0)
            command = ["mariadb", "--socket", mariadb.socket, "--user", mariadb.user]
            subprocess.run(command, stdin=statements, check=True, timeout=30)


@pytest.fixture
def adapter(mariadb: Server, query: Query, tmp_path: Path) -> Iterator[MariaDB]:
    """Logged in as that account. With a password, since the tests run as another user; its rights are the same."""
    query(f"ALTER USER `{ACCOUNT}`@localhost IDENTIFIED BY '{PASSWORD}'")
    write_atomically(tmp_path / "password", PASSWORD)
    settings = InstanceSettings(id="db1", socket=mariadb.socket, user=ACCOUNT, password_file=tmp_path / "password")
    adapter = MariaDB(settings)
    yield adapter
    adapter.close()


def test_another_user_of_the_host_is_not_let_in(mariadb: Server) -> None:
    with pytest.raises(ServerDown, match="Access denied"):
        MariaDB(InstanceSettings(id="db1", socket=mariadb.socket, user=ACCOUNT)).vitals()
    with pytest.raises(ServerDown, match="not allowed to connect"):
        MariaDB(InstanceSettings(id="db1", host="127.0.0.1", port=mariadb.port, user=ACCOUNT)).vitals()


def test_it_sees_all_that_is_reported(adapter: MariaDB, query: Query) -> None:
    query("CREATE DATABASE shop")
    query("CREATE TABLE shop.t (id INT PRIMARY KEY) SELECT 1 AS id")
    look = adapter.look()
    assert look.held.accounts_hidden is None
    assert look.vitals.role == "primary"
    assert {"shop", "mysql"} <= set(look.held.databases)
    assert (ACCOUNT, "localhost") in look.held.accounts
    assert adapter.sizes()["shop"] > 0


def test_it_may_do_every_step(adapter: MariaDB) -> None:
    adapter.apply(
        [
            CreateDatabase("shop", "utf8mb4", None),
            AlterDatabase("shop", "latin1", None),
            CreateAccount("app", "10.%", "first-password"),
            SetPassword("app", "10.%", "second-password"),
            RenameAccount("app", "10.%", "%"),
            Grant("app", "%", "shop", (ALL, GRANT_OPTION)),
            Revoke("app", "%", "shop", ("INSERT",)),
            Grant("app", "%", "*", ("SELECT",)),
            Revoke("app", "%", "*", ("SELECT",)),
            RevokeAll("app", "%"),
            DropAccount("app", "%"),
            DropDatabase("shop"),
        ]
    )
    held = adapter.look().held
    assert "shop" not in held.databases
    assert ("app", "%") not in held.accounts


@pytest.mark.parametrize("privilege", ["SUPER", "FILE", "SHUTDOWN", "SET USER"])
def test_it_cannot_give_what_it_does_not_have(adapter: MariaDB, privilege: str) -> None:
    """These would make the server, or its host, whoever is given them."""
    adapter.apply([CreateAccount("app", "%", "some-password")])
    with pytest.raises(Refused, match="Access denied"):
        adapter.apply([Grant("app", "%", "*", (privilege,))])
