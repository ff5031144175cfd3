"""Wishes on a real server: what is done to it, and what is seen of it."""

from collections.abc import Iterator
from typing import Any

import pymysql
import pytest
from localcluster.mariadb import MariaDB as Server

from agent import privileges as known
from agent.mariadb import MariaDB, Refused, ServerDown
from agent.plan import plan
from agent.settings import InstanceSettings
from agent.steps import Grant, pattern_of
from shared.messages import DesiredInstance
from tests.support.agents import Query

pytestmark = pytest.mark.usefixtures("clean")


@pytest.fixture
def server(mariadb: Server) -> Iterator[MariaDB]:
    settings = InstanceSettings(id="i1", socket=mariadb.socket, user=mariadb.user, read_timeout_s=1.0)
    adapter = MariaDB(settings)
    yield adapter
    adapter.close()


def fulfil(server: MariaDB, wishes: dict[str, Any], managed: dict[str, str] | None = None) -> dict[str, str]:
    """Do what is wished; by name how each wish ended. Whatever was done must then be seen to be as wished."""
    desired = DesiredInstance.model_validate({"id": "i1"} | wishes)
    ends = {}
    for work in plan(desired, server.look().held, managed or {}):
        ends[work.name] = work.impossible or work.phase
        try:
            server.apply(work.steps)
        except Refused as error:
            ends[work.name] = f"refused: {error}"
    left = plan(desired, server.look().held, managed or {})
    assert [work.name for work in left if work.steps and not ends[work.name].startswith("refused")] == []
    return ends


def database(name: str, **more: Any) -> dict[str, Any]:
    return {"databases": [{"name": name, "version": 1} | more]}


def account(name: str, **more: Any) -> dict[str, Any]:
    return {"accounts": [{"name": name, "version": 1} | more]}


AWKWARD = [
    "with`backtick", "`", "``", "with'quote", 'with"quotes', "back\\slash", "\\", "a_b", "100%", "%s", "%(name)s",
    "ünï-ço∂é", "日本", "a/b", "a.b", ".", "..", " leading", "#x", "--", "/* */", "a;b", "@", "x" * 64,
    "\u00a0", "ﬀ", "\uffff",
]  # fmt: skip


@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_names_work(server: MariaDB, mariadb: Server, name: str) -> None:
    grants = [{"database": name, "privileges": ["SELECT", "INSERT"]}]
    wishes = database(name, charset="latin1") | account(name, password=f"p'`\\{name}", grants=grants)
    assert fulfil(server, wishes) == {name: "ready"}
    held = server.look().held
    assert held.databases[name].charset == "latin1"
    # The account really logs in, with that password, and sees that database and no other.
    password: Any = f"p'`\\{name}".encode()
    with (
        pymysql.connect(
            host="127.0.0.1", port=mariadb.port, user=name, password=password, charset="utf8mb4"
        ) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute("SHOW DATABASES")
        assert {row[0] for row in cursor.fetchall()} == {name, "information_schema"}
    assert fulfil(server, database(name, drop=True) | account(name, drop=True)) == {name: "dropped"}
    held = server.look().held
    assert name not in held.databases
    assert (name, "%") not in held.accounts


def test_a_character_set_that_does_not_exist_fails_with_the_servers_words(server: MariaDB) -> None:
    ends = fulfil(
        server, {"databases": [{"name": "a", "charset": "klingon", "version": 1}, {"name": "b", "version": 1}]}
    )
    assert ends == {"a": "refused: Unknown character set: 'klingon'", "b": "ready"}
    ends = fulfil(server, database("c", charset="latin1", collation="utf8mb4_bin"))
    assert "not valid for CHARACTER SET" in ends["c"]


def test_a_database_that_exists_with_other_properties_is_altered_and_keeps_its_data(
    server: MariaDB, query: Query
) -> None:
    query("CREATE DATABASE shop CHARACTER SET latin1")
    query("CREATE TABLE shop.t (x INT)")
    query("INSERT INTO shop.t VALUES (1)")
    assert fulfil(server, database("shop", charset="utf8mb4", collation="utf8mb4_bin")) == {"shop": "ready"}
    seen = server.look().held.databases["shop"]
    assert (seen.charset, seen.collation) == ("utf8mb4", "utf8mb4_bin")
    assert query("SELECT x FROM shop.t") == [(1,)]
    assert server.sizes()["shop"] > 0


@pytest.mark.parametrize(
    ("charset", "collation"),
    [
        ("utf8", None),
        ("utf8", "utf8_bin"),
        ("UTF8MB4", "UTF8MB4_BIN"),
        ("utf8mb4", "uca1400_ai_ci"),
        (None, "latin1_bin"),
    ],
)
def test_what_the_server_calls_otherwise_is_not_altered_for_ever(
    server: MariaDB, charset: str | None, collation: str | None
) -> None:
    assert fulfil(server, database("shop", charset=charset, collation=collation)) == {"shop": "ready"}


def test_what_nobody_wished_stays(server: MariaDB, query: Query) -> None:
    query("CREATE DATABASE other")
    query("CREATE USER 'else'@'%' IDENTIFIED BY 'x'")
    query("GRANT ALL ON *.* TO 'else'@'%'")
    before = server.look().held
    fulfil(server, database("shop") | account("app"))
    after = server.look().held
    assert after.databases["other"] == before.databases["other"]
    assert after.accounts["else", "%"] == before.accounts["else", "%"]


def test_every_privilege_is_granted_seen_and_revoked_under_the_same_name(server: MariaDB, query: Query) -> None:
    query("CREATE USER app")
    for privilege in sorted((known.ON_DATABASES | known.EVERYWHERE_ONLY) - {known.ALL, "SHOW CREATE ROUTINE"}):
        for scope in ("*", "a_b") if privilege in known.ON_DATABASES else ("*",):
            wish = account("app", grants=[{"database": scope, "privileges": [privilege]}])
            assert fulfil(server, wish) == {"app": "ready"}
            pattern = scope if scope == "*" else pattern_of(scope)
            assert server.look().held.accounts["app", "%"].grants == {pattern: {privilege}}


def test_all_privileges_are_what_the_server_says(server: MariaDB, query: Query) -> None:
    grants = [{"database": scope, "privileges": ["ALL", "GRANT OPTION"]} for scope in ("*", "shop")]
    assert fulfil(server, account("app", grants=grants)) == {"app": "ready"}
    shown = [row[0] for row in query("SHOW GRANTS FOR app")]
    assert sum("GRANT ALL PRIVILEGES" in line and "WITH GRANT OPTION" in line for line in shown) == 2
    assert fulfil(server, account("app", grants=[{"database": "shop", "privileges": ["ALL"]}])) == {"app": "ready"}
    assert [row[0] for row in query("SHOW GRANTS FOR app")][1:] == ["GRANT ALL PRIVILEGES ON `shop`.* TO `app`@`%`"]


def test_privileges_given_by_hand_to_a_managed_account_are_taken_back(server: MariaDB, query: Query) -> None:
    wish = database("shop") | account("app", grants=[{"database": "shop", "privileges": ["SELECT"]}])
    fulfil(server, wish)
    query("CREATE TABLE shop.t (x INT)")
    query("CREATE ROLE dba")
    for statement in ("GRANT UPDATE ON shop.t TO app", "GRANT SELECT (x) ON shop.t TO app", "GRANT dba TO app",
                      "GRANT FILE ON *.* TO app", "GRANT DROP ON `s%`.* TO app"):  # fmt: skip
        query(statement)
    assert fulfil(server, wish) == {"shop": "ready", "app": "ready"}
    assert [row[0].split(" IDENTIFIED")[0] for row in query("SHOW GRANTS FOR app")] == [
        "GRANT USAGE ON *.* TO `app`@`%`",
        "GRANT SELECT ON `shop`.* TO `app`@`%`",
    ]


def test_an_underscore_in_a_name_grants_on_that_database_alone(server: MariaDB, mariadb: Server, query: Query) -> None:
    query("CREATE DATABASE axb")
    wish = database("a_b") | account("app", password="p", grants=[{"database": "a_b", "privileges": ["ALL"]}])
    fulfil(server, wish)
    with (
        pymysql.connect(host="127.0.0.1", port=mariadb.port, user="app", password="p") as connection,
        connection.cursor() as cursor,
        pytest.raises(pymysql.err.OperationalError, match="denied"),
    ):
        cursor.execute("CREATE TABLE axb.t (x INT)")


def login(mariadb: Server, name: str, password: str) -> bool:
    try:
        pymysql.connect(host="127.0.0.1", port=mariadb.port, user=name, password=password).close()
    except pymysql.err.OperationalError as error:
        assert error.args[0] == 1045
        return False
    return True


def test_passwords_are_set_changed_and_otherwise_kept(server: MariaDB, mariadb: Server) -> None:
    fulfil(server, account("app"))
    assert not login(mariadb, "app", "")  # without a password nobody gets in
    fulfil(server, account("app", password="one"))
    assert login(mariadb, "app", "one")
    fulfil(server, account("app"))
    assert login(mariadb, "app", "one")
    fulfil(server, account("app", password="two"))
    assert login(mariadb, "app", "two")
    assert not login(mariadb, "app", "one")


def test_no_password_reaches_the_servers_logs(server: MariaDB, query: Query) -> None:
    query("SET GLOBAL log_output='TABLE', GLOBAL general_log=1")
    try:
        fulfil(server, account("app", password="s3cret-one"))
        fulfil(server, account("app", password="s3cret-two"))
        (count,) = query("SELECT COUNT(*) FROM mysql.general_log WHERE argument LIKE '%CREATE USER%'")[0]
        assert count
        logged = query("SELECT argument FROM mysql.general_log")
        assert not [row for row in logged if "s3cret-" in str(row)]
    finally:
        query("SET GLOBAL general_log=0")
        query("TRUNCATE mysql.general_log")


def test_a_managed_account_moves_with_its_password(server: MariaDB, mariadb: Server) -> None:
    fulfil(server, account("app", host="10.%", password="p"))
    fulfil(server, account("app", host="%"), {"app": "10.%"})
    assert {who for who in server.look().held.accounts if who[0] == "app"} == {("app", "%")}
    assert login(mariadb, "app", "p")


def test_a_read_only_server_is_seen_and_left_alone(server: MariaDB, query: Query) -> None:
    query("SET GLOBAL read_only=1")
    try:
        look = server.look()
        assert look.vitals.read_only
        assert "read-only" in fulfil(server, database("shop"))["shop"]
    finally:
        query("SET GLOBAL read_only=0")


def test_a_replica_is_seen_as_one_and_left_alone(server: MariaDB, query: Query) -> None:
    query("CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT=1, MASTER_USER='nobody'")
    try:
        vitals = server.look().vitals
        assert vitals.role == "replica"
        assert vitals.positions["replication.source"] == "127.0.0.1:1"
        assert vitals.positions["replication.sql"] == "No"
        assert "replica" in fulfil(server, database("shop"))["shop"]
    finally:
        query("RESET SLAVE ALL")
    assert server.vitals().role == "primary"


def test_what_is_seen_of_a_server(server: MariaDB, query: Query) -> None:
    query("CREATE DATABASE shop")
    vitals = server.vitals()
    assert "MariaDB" in vitals.version
    assert (vitals.role, vitals.read_only) == ("primary", False)
    assert vitals.uptime_s >= 0
    assert vitals.positions["gtid_binlog_pos"].startswith("0-1-")


def test_a_wish_that_waits_for_a_lock_fails_in_time_and_succeeds_later(mariadb: Server, query: Query) -> None:
    impatient = MariaDB(InstanceSettings(id="i1", socket=mariadb.socket, user=mariadb.user, apply_timeout_s=2.0))
    query("CREATE DATABASE shop")
    query("CREATE TABLE shop.t (x INT)")
    with pymysql.connect(unix_socket=str(mariadb.socket), user=mariadb.user) as holder, holder.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute("SELECT * FROM shop.t")
        assert "refused" in fulfil(impatient, database("shop", drop=True))["shop"]
        holder.commit()
    assert fulfil(impatient, database("shop", drop=True)) == {"shop": "dropped"}
    impatient.close()


def test_an_account_of_few_rights_sees_what_it_may_and_says_what_it_lacks(mariadb: Server, query: Query) -> None:
    query("CREATE USER weak IDENTIFIED BY 'p'")
    query("GRANT CREATE ON *.* TO weak")
    password_file = mariadb.directory / "weak.password"
    password_file.write_text("p\n")
    weak = MariaDB(
        InstanceSettings(id="i1", host="127.0.0.1", port=mariadb.port, user="weak", password_file=password_file)
    )
    look = weak.look()
    assert look.vitals.role == "unknown"
    assert "SELECT on mysql.*" in (look.held.accounts_hidden or "")
    ends = fulfil(weak, account("app"))
    assert "may not see accounts" in ends["app"]
    with pytest.raises(Refused, match="denied"):
        weak.apply([Grant("weak", "%", "*", ("SELECT",))])
    weak.close()


def test_a_killed_server_is_down_at_once_and_back_after_its_restart(server: MariaDB, mariadb: Server) -> None:
    server.vitals()
    mariadb.kill()
    try:
        for _ in range(2):
            with pytest.raises(ServerDown):
                server.vitals()
    finally:
        mariadb.start()
    assert server.vitals().role == "primary"


def test_a_connection_that_was_closed_is_opened_again_without_a_word(server: MariaDB, query: Query) -> None:
    server.vitals()
    for (number,) in query("SELECT id FROM information_schema.processlist WHERE id <> CONNECTION_ID()"):
        query(f"KILL {number}")
    assert server.vitals().role == "primary"


def test_a_server_that_hangs_is_down_after_the_timeout_and_recovers(server: MariaDB, mariadb: Server) -> None:
    server.vitals()
    assert mariadb.process is not None
    mariadb.process.suspend()
    try:
        for _ in range(2):  # on the open connection, then on a new one
            with pytest.raises(ServerDown, match="timed out"):
                server.vitals()
    finally:
        mariadb.process.resume()
    assert server.vitals().role == "primary"


def test_a_wrong_password_or_socket_says_so(mariadb: Server, query: Query) -> None:
    query("CREATE USER app IDENTIFIED BY 'p'")
    with pytest.raises(ServerDown, match="Access denied"):
        MariaDB(InstanceSettings(id="i1", host="127.0.0.1", port=mariadb.port, user="app")).vitals()
    with pytest.raises(ServerDown, match=r"nowhere\.sock"):
        MariaDB(InstanceSettings(id="i1", socket=mariadb.directory / "nowhere.sock")).vitals()
    with pytest.raises(ServerDown, match="cannot read"):
        MariaDB(InstanceSettings(id="i1", socket=mariadb.socket, password_file=mariadb.directory / "none")).vitals()
