"""Invariant: what is asked for through any node is made so on the real server, exactly; what was not asked for is not
touched; nothing that holds data goes unless it was said."""

from urllib.parse import quote

import pymysql
import pytest
from localcluster.cluster import Cluster
from localcluster.mariadb import MariaDB

from tests.support.api import Client, client
from tests.support.nodes import standbys_of
from tests.support.sql import accounts, databases, sql, sql_as, wait_for_database

BASE = "/instances/db1"
PASSWORD = "pä's`s\"w%rd\\"


@pytest.fixture
def server(cluster: Cluster) -> MariaDB:
    return cluster.servers["db1"]


@pytest.fixture
def standby(cluster: Cluster) -> Client:
    return client(cluster, standbys_of(cluster)[-1])


def ready(node: Client, path: str) -> object:
    return node.wait_for(path, lambda d: d["status"]["phase"] == "ready")


# ── databases ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_database_asked_for_through_a_standby_is_on_the_server(standby: Client, server: MariaDB) -> None:
    asked = standby.write("PUT", f"{BASE}/databases/shop", {"charset": "latin1", "collation": "latin1_german2_ci"})
    assert (asked.status, asked.json["status"]["phase"]) == (201, "pending")
    ready(standby, f"{BASE}/databases/shop")
    assert databases(server)["shop"] == ("latin1", "latin1_german2_ci")

    again = standby.put(f"{BASE}/databases/shop", {"charset": "latin1", "collation": "latin1_german2_ci"})
    assert (again.status, again.json["status"]["phase"]) == (200, "ready"), "nothing new was asked for"
    assert standby.read(f"{BASE}/databases")["items"] == [again.json]


def test_one_that_exists_with_other_properties_is_altered_and_keeps_its_data(standby: Client, server: MariaDB) -> None:
    sql(server, "CREATE DATABASE old CHARACTER SET latin1")
    sql(server, "CREATE TABLE old.kept (id INT PRIMARY KEY)")
    sql(server, "INSERT INTO old.kept VALUES (42)")
    standby.write("PUT", f"{BASE}/databases/old", {})
    ready(standby, f"{BASE}/databases/old")
    assert databases(server)["old"][0] == "latin1", "what is left out stays as the server has it"

    standby.write("PUT", f"{BASE}/databases/old", {"charset": "utf8mb4", "collation": "utf8mb4_bin"})
    ready(standby, f"{BASE}/databases/old")
    assert databases(server)["old"] == ("utf8mb4", "utf8mb4_bin")
    assert sql(server, "SELECT id FROM old.kept") == [(42,)]


def test_a_character_set_that_does_not_exist_fails_and_says_so(standby: Client, server: MariaDB) -> None:
    standby.write("PUT", f"{BASE}/databases/strange", {"charset": "klingon"})
    failed = standby.wait_for(f"{BASE}/databases/strange", lambda d: d["status"]["phase"] == "failed")
    assert "klingon" in failed["status"]["message"]
    assert "strange" not in databases(server)

    standby.write("PUT", f"{BASE}/databases/strange", {"charset": "utf8mb4"})
    mended = ready(standby, f"{BASE}/databases/strange")
    assert isinstance(mended, dict)
    assert "message" not in mended["status"]
    assert databases(server)["strange"][0] == "utf8mb4"


def test_a_collation_of_another_character_set_fails(standby: Client, server: MariaDB) -> None:
    standby.write("PUT", f"{BASE}/databases/torn", {"charset": "latin1", "collation": "utf8mb4_bin"})
    failed = standby.wait_for(f"{BASE}/databases/torn", lambda d: d["status"]["phase"] == "failed")
    assert failed["status"]["message"]
    assert "torn" not in databases(server)
    standby.write("DELETE", f"{BASE}/databases/torn")


ODD_NAMES = ["it's", "back`tick", 'quo"te', "per%cent", "under_score", "semi;colon --", "ünïcode", "a" * 64, "`", "''",
             "a b", "#x", "?x=1&y", "${jndi}", "%s", "0", "SELECT", "ä\u0308"]  # fmt: skip


def test_odd_names_are_made_and_dropped_for_what_they_are(standby: Client, server: MariaDB) -> None:
    before = databases(server)
    for name in ODD_NAMES:
        made = standby.write("PUT", f"{BASE}/databases/{quote(name, safe='')}", {"charset": "utf8mb4"})
        assert made.json["id"] == f"db1/{name}"
    for name in ODD_NAMES:
        ready(standby, f"{BASE}/databases/{quote(name, safe='')}")
    assert databases(server).keys() - before.keys() == set(ODD_NAMES)
    for name in ODD_NAMES:
        assert standby.delete(f"{BASE}/databases/{quote(name, safe='')}?drop=true").status == 202
    for name in ODD_NAMES:
        standby.wait_for_gone(f"{BASE}/databases/{quote(name, safe='')}")
    assert databases(server) == before


@pytest.mark.parametrize("name", ["mysql", "information_schema", "PERFORMANCE_SCHEMA", "sys"])
def test_what_is_the_servers_own_is_never_touched(standby: Client, server: MariaDB, name: str) -> None:
    before = databases(server)
    standby.write("PUT", f"{BASE}/databases/{name}", {"charset": "latin1"})
    failed = standby.wait_for(f"{BASE}/databases/{name}", lambda d: d["status"]["phase"] == "failed")
    assert "never touched" in failed["status"]["message"]
    assert standby.delete(f"{BASE}/databases/{name}?drop=true").status == 202
    refused = standby.wait_for(f"{BASE}/databases/{name}", lambda d: d["status"].get("message"))
    assert refused["status"]["phase"] == "dropping"
    assert standby.delete(f"{BASE}/databases/{name}").status == 204, "it can be forgotten all the same"
    assert databases(server) == before


def test_delete_forgets_and_leaves_the_data_drop_drops_it(standby: Client, server: MariaDB) -> None:
    standby.write("PUT", f"{BASE}/databases/ledger", {})
    ready(standby, f"{BASE}/databases/ledger")
    sql(server, "CREATE TABLE ledger.kept (id INT PRIMARY KEY)")
    sql(server, "INSERT INTO ledger.kept VALUES (1)")

    assert standby.delete(f"{BASE}/databases/ledger").status == 204
    assert standby.get(f"{BASE}/databases/ledger").status == 404
    standby.write("PUT", f"{BASE}/databases/marker", {})
    ready(standby, f"{BASE}/databases/marker")  # so the agent has seen what came before
    assert sql(server, "SELECT id FROM ledger.kept") == [(1,)]

    standby.write("PUT", f"{BASE}/databases/ledger", {})
    dropping = standby.write("DELETE", f"{BASE}/databases/ledger?drop=true")
    assert (dropping.status, dropping.json["status"]["phase"]) == (202, "dropping")
    assert standby.put(f"{BASE}/databases/ledger", {}).code in ("conflict", None)
    wait_for_database(server, "ledger", there=False)
    standby.wait_for_gone(f"{BASE}/databases/ledger")
    assert "marker" in databases(server)


# ── accounts ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_account_logs_in_with_its_password_and_may_what_was_granted(standby: Client, server: MariaDB) -> None:
    standby.write("PUT", f"{BASE}/databases/books", {})
    made = standby.write(
        "PUT",
        f"{BASE}/accounts/reader",
        {
            "host": "127.0.0.1",
            "password": PASSWORD,
            "grants": [{"database": "books", "privileges": ["select"]}],
        },
    )
    assert made.json["spec"] == {"host": "127.0.0.1", "grants": [{"database": "books", "privileges": ["SELECT"]}]}
    ready(standby, f"{BASE}/accounts/reader")
    sql(server, "CREATE TABLE books.page (id INT PRIMARY KEY)")
    sql(server, "INSERT INTO books.page VALUES (7)")

    assert sql_as(server, "reader", PASSWORD, "SELECT id FROM books.page") == [(7,)]
    with pytest.raises(pymysql.err.OperationalError, match="denied"):
        sql_as(server, "reader", PASSWORD, "INSERT INTO books.page VALUES (8)")
    with pytest.raises(pymysql.err.OperationalError, match="denied"):
        sql_as(server, "reader", "wrong", "SELECT 1")

    # More is granted; the password, of which nothing is said, stays.
    grants = [{"database": "books", "privileges": ["SELECT", "INSERT"]}]
    standby.write("PUT", f"{BASE}/accounts/reader", {"host": "127.0.0.1", "grants": grants})
    ready(standby, f"{BASE}/accounts/reader")
    sql_as(server, "reader", PASSWORD, "INSERT INTO books.page VALUES (8)")

    # Another password, and nothing granted any more.
    standby.write("PUT", f"{BASE}/accounts/reader", {"host": "127.0.0.1", "password": "second"})
    ready(standby, f"{BASE}/accounts/reader")
    assert sql_as(server, "reader", "second", "SELECT 1") == [(1,)]
    with pytest.raises(pymysql.err.OperationalError, match="denied"):
        sql_as(server, "reader", "second", "SELECT id FROM books.page")
    with pytest.raises(pymysql.err.OperationalError, match="denied"):
        sql_as(server, "reader", PASSWORD, "SELECT 1")


def test_a_grant_reaches_its_database_and_no_lookalike(standby: Client, server: MariaDB) -> None:
    for name in ("pay_roll", "payxroll"):
        standby.write("PUT", f"{BASE}/databases/{name}", {})
    standby.write(
        "PUT",
        f"{BASE}/accounts/payer",
        {"password": "x", "grants": [{"database": "pay_roll", "privileges": ["ALL PRIVILEGES"]}]},
    )
    for path in ("databases/pay_roll", "databases/payxroll", "accounts/payer"):
        ready(standby, f"{BASE}/{path}")
    sql_as(server, "payer", "x", "CREATE TABLE pay_roll.t (id INT)")
    with pytest.raises(pymysql.err.OperationalError, match="denied"):
        sql_as(server, "payer", "x", "CREATE TABLE payxroll.t (id INT)")


def test_odd_names_of_accounts(standby: Client, server: MariaDB) -> None:
    names = ["o'brien", "back`tick", 'quo"te', "a@b", "per%cent", "ünïcode", "--", "x" * 80]
    for name in names:
        standby.write("PUT", f"{BASE}/accounts/{quote(name, safe='')}", {"host": "localhost"})
    for name in names:
        ready(standby, f"{BASE}/accounts/{quote(name, safe='')}")
    assert {f"{name}@localhost" for name in names} <= accounts(server).keys()
    for name in names:
        standby.write("DELETE", f"{BASE}/accounts/{quote(name, safe='')}?drop=true")
    for name in names:
        standby.wait_for_gone(f"{BASE}/accounts/{quote(name, safe='')}")
    assert not {f"{name}@localhost" for name in names} & accounts(server).keys()


def test_a_privilege_that_does_not_exist_fails_and_says_so(standby: Client, server: MariaDB) -> None:
    grants = [{"database": "*", "privileges": ["TELEPORT"]}]
    standby.write("PUT", f"{BASE}/accounts/wizard", {"grants": grants})
    failed = standby.wait_for(f"{BASE}/accounts/wizard", lambda a: a["status"]["phase"] == "failed")
    assert "TELEPORT" in failed["status"]["message"]
    assert "wizard@%" not in accounts(server)
    standby.write("DELETE", f"{BASE}/accounts/wizard")


def test_accounts_that_it_was_never_told_about_are_untouched(standby: Client, server: MariaDB) -> None:
    sql(server, "CREATE USER stranger@'%%' IDENTIFIED BY 'own'")
    sql(server, "CREATE USER shared@'10.0.0.%%' IDENTIFIED BY 'own'")
    sql(server, "GRANT SELECT, INSERT ON *.* TO stranger@'%%'")
    sql(server, "CREATE DATABASE unasked")
    before, held = accounts(server), databases(server)

    standby.write("PUT", f"{BASE}/accounts/shared", {"host": "%", "password": "theirs"})
    ready(standby, f"{BASE}/accounts/shared")
    standby.write("DELETE", f"{BASE}/accounts/shared?drop=true")
    standby.wait_for_gone(f"{BASE}/accounts/shared")
    standby.write("PUT", f"{BASE}/accounts/root", {"password": "mine now"})
    failed = standby.wait_for(f"{BASE}/accounts/root", lambda a: a["status"]["phase"] == "failed")
    assert "never touched" in failed["status"]["message"]
    standby.write("DELETE", f"{BASE}/accounts/root")
    assert (accounts(server), databases(server)) == (before, held)


def test_the_instance_shows_what_is_there(standby: Client, server: MariaDB) -> None:
    standby.write("PUT", f"{BASE}/databases/visible", {"charset": "utf8mb4"})
    ready(standby, f"{BASE}/databases/visible")
    seen = standby.wait_for(
        BASE, lambda i: "visible" in [d["name"] for d in i["status"].get("observed", {}).get("databases", [])]
    )
    observed = seen["status"]["observed"]
    shown = {d["name"]: (d["charset"], d["collation"]) for d in observed["databases"]}
    assert shown["visible"] == databases(server)["visible"]
    assert all(d["size_bytes"] >= 0 for d in observed["databases"])
    assert seen["status"]["positions"], "it has written a binary log by now"
