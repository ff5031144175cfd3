"""Plans: what is done for a wish, and what is never done."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.mysqlhash import native_hash
from agent.plan import SYSTEM_DATABASES, AccountSeen, DatabaseSeen, Held, Work, plan
from agent.results import result_of
from agent.sql import render
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
    RevokeRole,
    SetPassword,
    Step,
    name_of,
    pattern_of,
)
from shared.messages import DesiredInstance

UTF8 = DatabaseSeen("utf8mb4", "utf8mb4_general_ci")


def wish(*, databases: list[dict[str, Any]] | None = None, accounts: list[dict[str, Any]] | None = None) -> Any:
    versioned = {"version": 7}
    return DesiredInstance.model_validate(
        {
            "id": "i1",
            "databases": [versioned | one for one in databases or []],
            "accounts": [versioned | one for one in accounts or []],
        }
    )


def database(held: Held, **properties: Any) -> Work:
    (work,) = plan(wish(databases=[properties]), held, {})
    return work


def account(held: Held, managed: dict[str, str] | None = None, **properties: Any) -> Work:
    (work,) = plan(wish(accounts=[properties]), held, managed or {})
    return work


def holding(*, host: str = "%", name: str = "app", password: str | None = "pw", **more: Any) -> Held:
    hashed = None if password is None else native_hash(password)
    return Held(accounts={(name, host): AccountSeen(hashed, more.pop("grants", {}), **more)})


# ── databases ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_missing_database_is_created_with_what_was_wished() -> None:
    work = database(Held(), name="shop", charset="utf8mb4", collation="utf8mb4_bin")
    assert work.steps == (CreateDatabase("shop", "utf8mb4", "utf8mb4_bin"),)
    assert (work.phase, work.version, work.impossible) == ("ready", 7, None)


@pytest.mark.parametrize(
    "properties",
    [
        {},
        {"charset": "utf8mb4"},
        {"charset": "UTF8MB4", "collation": "utf8mb4_GENERAL_ci"},
        {"collation": "utf8mb4_general_ci"},
        {"charset": "utf8mb4", "collation": "general_ci"},  # without its character set, as uca1400_ai_ci may be given
    ],
)
def test_a_database_that_is_as_wished_is_left_alone(properties: dict[str, str]) -> None:
    assert database(Held(databases={"shop": UTF8}), name="shop", **properties).steps == ()


@pytest.mark.parametrize("properties", [{"charset": "latin1"}, {"collation": "utf8mb4_bin"}])
def test_a_database_with_other_properties_is_altered(properties: dict[str, str]) -> None:
    work = database(Held(databases={"shop": UTF8}), name="shop", **properties)
    assert work.steps == (AlterDatabase("shop", properties.get("charset"), properties.get("collation")),)


def test_utf8_means_what_the_server_says_it_means() -> None:
    old = Held(databases={"shop": DatabaseSeen("utf8mb3", "utf8mb3_general_ci")}, utf8="utf8mb3")
    assert database(old, name="shop", charset="utf8", collation="utf8_general_ci").steps == ()
    assert database(replace(old, utf8="utf8mb4"), name="shop", charset="utf8").steps != ()


def test_a_drop_ends_dropped_also_when_there_was_nothing() -> None:
    there = database(Held(databases={"shop": UTF8}), name="shop", drop=True)
    gone = database(Held(), name="shop", drop=True)
    assert (there.steps, there.phase) == ((DropDatabase("shop"),), "dropped")
    assert (gone.steps, gone.phase) == ((), "dropped")


@pytest.mark.parametrize("name", ["mysql", "MySQL", "sys", "information_schema", "Performance_Schema"])
@pytest.mark.parametrize("drop", [True, False])
def test_the_servers_own_databases_are_refused(name: str, drop: bool) -> None:
    work = database(Held(databases={name: UTF8}), name=name, charset="latin1", drop=drop)
    assert work.steps == ()
    assert work.phase == "failed"
    assert "never touched" in (work.impossible or "")


@pytest.mark.parametrize("name", ["", "x" * 65, "nul\0", "line\nbreak", "emoji😀", "end ", "#mysql50#x", "\ud800"])
def test_names_that_no_server_can_hold_are_refused_with_a_reason(name: str) -> None:
    work = database(Held(), name=name)
    assert work.steps == ()
    assert work.impossible


def test_a_server_that_keeps_names_in_lower_case_is_compared_so() -> None:
    held = Held(databases={"shop": UTF8}, lower_case_names=True)
    assert database(held, name="Shop").steps == ()
    assert database(held, name="Shop", drop=True).steps == (DropDatabase("shop"),)


@pytest.mark.parametrize(
    ("held", "reason"),
    [
        (Held(replica=True), "replica"),
        (Held(replica=None), "SLAVE MONITOR"),
        (Held(read_only=True), "read-only"),
    ],
)
def test_nothing_is_written_to_a_replica_or_a_read_only_server(held: Held, reason: str) -> None:
    work = database(held, name="shop")
    assert work.steps == ()
    assert reason in (work.impossible or "")


def test_a_wish_that_replication_fulfilled_is_ready_on_a_replica() -> None:
    work = database(Held(databases={"shop": UTF8}, replica=True), name="shop")
    assert (work.phase, work.impossible) == ("ready", None)


def test_one_impossible_wish_does_not_stop_the_others() -> None:
    works = plan(wish(databases=[{"name": "mysql"}, {"name": "shop"}], accounts=[{"name": "root"}]), Held(), {})
    assert [(work.name, bool(work.impossible)) for work in works] == [("mysql", True), ("shop", False), ("root", True)]


# ── accounts ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_new_account_gets_password_and_grants() -> None:
    work = account(Held(), name="app", password="pw", grants=[{"database": "a_b", "privileges": ["select", "INSERT"]}])
    assert work.steps == (CreateAccount("app", "%", "pw"), Grant("app", "%", "a\\_b", ("INSERT", "SELECT")))


def test_grants_are_made_exact() -> None:
    held = holding(
        grants={"shop": frozenset({"SELECT", "DROP"}), "old": frozenset({"SELECT"}), "*": frozenset({"FILE"})}
    )
    work = account(held, name="app", grants=[{"database": "shop", "privileges": ["SELECT", "UPDATE"]}])
    assert work.steps == (
        Grant("app", "%", "shop", ("UPDATE",)),
        Revoke("app", "%", "shop", ("DROP",)),
        Revoke("app", "%", "old", ("SELECT",)),
        Revoke("app", "%", "*", ("FILE",)),
    )


def test_a_grant_with_wildcards_is_not_taken_for_the_database_of_that_name() -> None:
    held = holding(grants={"a_b": frozenset({"SELECT"})})
    work = account(held, name="app", grants=[{"database": "a_b", "privileges": ["SELECT"]}])
    assert work.steps == (Grant("app", "%", "a\\_b", ("SELECT",)), Revoke("app", "%", "a_b", ("SELECT",)))


def test_all_privileges_are_compared_with_what_they_come_to_on_this_server() -> None:
    everything = frozenset({"SELECT", "INSERT"})
    held = replace(holding(grants={"shop": everything}), all_on_databases=everything)
    assert account(held, name="app", grants=[{"database": "shop", "privileges": ["ALL"]}]).steps == ()
    newer = replace(held, all_on_databases=everything | {"UPDATE"})
    work = account(newer, name="app", grants=[{"database": "shop", "privileges": ["ALL"]}])
    assert work.steps == (Grant("app", "%", "shop", ("ALL PRIVILEGES",)),)


def test_an_unchanged_password_is_not_set_again() -> None:
    assert account(holding(), name="app", password="pw").steps == ()
    assert account(holding(), name="app").steps == ()
    assert account(holding(), name="app", password="new").steps == (SetPassword("app", "%", "new"),)
    # Another way to log in than by one password: with a wished password that is the only way again.
    assert account(holding(password=None), name="app", password="pw").steps == (SetPassword("app", "%", "pw"),)


def test_privileges_on_tables_and_roles_are_extra_and_go() -> None:
    held = holding(grants={"shop": frozenset({"SELECT"})}, finer_grants=True, roles=frozenset({"dba"}))
    work = account(held, name="app", grants=[{"database": "shop", "privileges": ["SELECT"]}])
    assert work.steps == (
        RevokeRole("app", "%", "dba"),
        RevokeAll("app", "%"),
        Grant("app", "%", "shop", ("SELECT",)),
    )


def test_a_privilege_that_we_have_no_word_for_is_taken_away_with_all() -> None:
    held = holding(grants={"*": frozenset({"BIT 44"})})
    assert account(held, name="app").steps == (RevokeAll("app", "%"),)


def test_a_managed_account_moves_to_its_new_host() -> None:
    held = holding(host="10.%")
    assert account(held, {"app": "10.%"}, name="app", host="%").steps == (RenameAccount("app", "10.%", "%"),)


def test_an_account_at_another_host_that_was_never_ours_is_left_alone() -> None:
    work = account(holding(host="10.%"), name="app", host="%")
    assert work.steps == (CreateAccount("app", "%", None),)


def test_where_the_new_host_exists_already_the_former_account_goes() -> None:
    held = Held(accounts={("app", host): AccountSeen("", {}) for host in ("%", "10.%")})
    assert account(held, {"app": "10.%"}, name="app").steps == (DropAccount("app", "10.%"),)


def test_a_drop_takes_the_account_at_its_host_and_no_other() -> None:
    held = Held(accounts={("app", host): AccountSeen("", {}) for host in ("%", "10.%")})
    assert account(held, name="app", drop=True).steps == (DropAccount("app", "%"),)
    assert account(Held(), name="app", drop=True).phase == "dropped"


def test_a_host_is_compared_as_the_server_keeps_it() -> None:
    assert account(holding(host="db.example.com"), name="app", host="DB.example.com").steps == ()


@pytest.mark.parametrize("name", ["root", "Root", "mariadb.sys", "agent", "", "x" * 129, "a\0", "😀"])
def test_accounts_of_the_server_and_the_agent_are_refused(name: str) -> None:
    for drop in (True, False):
        work = account(Held(own_account="agent"), name=name, drop=drop)
        assert work.steps == ()
        assert work.impossible


@pytest.mark.parametrize(
    ("database_name", "privilege"),
    [
        ("shop", "SELECT ON *.* TO x; --"),
        ("shop", "SUPER"),  # only for all databases
        ("*", "NO SUCH THING"),
        ("mysql", "UPDATE"),
        ("sys", "ALL"),
    ],
)
def test_privileges_that_are_none_or_do_not_fit_are_refused(database_name: str, privilege: str) -> None:
    work = account(Held(), name="app", grants=[{"database": database_name, "privileges": [privilege]}])
    assert work.steps == ()
    assert "privilege" in (work.impossible or "")


def test_reading_the_servers_own_tables_may_be_granted() -> None:
    work = account(holding(), name="app", grants=[{"database": "performance_schema", "privileges": ["SELECT"]}])
    assert work.steps == (Grant("app", "%", "performance\\_schema", ("SELECT",)),)


def test_a_grant_that_could_not_be_exact_is_refused() -> None:
    work = account(Held(), name="app", grants=[{"database": "_" * 40, "privileges": ["SELECT"]}])
    assert "exactly" in (work.impossible or "")


def test_without_a_view_of_accounts_none_is_touched() -> None:
    work = account(Held(accounts_hidden="may not see"), name="app", drop=True)
    assert (work.steps, work.impossible) == ((), "may not see")


def test_no_password_shows_in_a_plan() -> None:
    work = account(Held(), name="app", password="s3cret-pw")
    change = account(holding(), name="app", password="s3cret-pw")
    assert "s3cret-pw" not in repr(work) + repr(change)


# ── for every wish ───────────────────────────────────────────────────────────────────────────────────────────────────

NAMES = st.sampled_from(["shop", "a_b", "100%", "a`b", "ünï", "mysql", "SYS", "root", "other", "x" * 70]) | st.text(
    max_size=8
)
HOSTS = st.sampled_from(["%", "10.%", "localhost"])
PRIVILEGES = st.lists(
    st.sampled_from(["SELECT", "insert", "ALL", "GRANT OPTION", "DROP", "PROCESS", "rubbish"]), max_size=4
)
GRANTS = st.lists(st.fixed_dictionaries({"database": NAMES | st.just("*"), "privileges": PRIVILEGES}), max_size=3)
WISHES = st.builds(
    wish,
    databases=st.lists(
        st.fixed_dictionaries(
            {"name": NAMES, "drop": st.booleans(), "charset": st.sampled_from([None, "utf8mb4", "latin1"])}
        ),
        max_size=4,
        unique_by=lambda one: one["name"],
    ),
    accounts=st.lists(
        st.fixed_dictionaries(
            {
                "name": NAMES,
                "host": HOSTS,
                "drop": st.booleans(),
                "password": st.sampled_from([None, "a", "b"]),
                "grants": GRANTS,
            }
        ),
        max_size=3,
        unique_by=lambda one: one["name"],
    ),
)
SEEN = st.builds(
    AccountSeen,
    password_hash=st.sampled_from([None, "", native_hash("a")]),
    grants=st.dictionaries(
        st.sampled_from(["*", "shop", "a_b", "a\\_b"]),
        st.frozensets(st.sampled_from(["SELECT", "INSERT", "DROP", "GRANT OPTION"]), min_size=1),
    ),
    finer_grants=st.booleans(),
)
HELD = st.builds(
    Held,
    databases=st.dictionaries(NAMES, st.sampled_from([UTF8, DatabaseSeen("latin1", "latin1_swedish_ci")]), max_size=5),
    accounts=st.dictionaries(st.tuples(NAMES, HOSTS), SEEN, max_size=5),
)


def granted(seen: AccountSeen, step: Grant | Revoke, held: Held) -> AccountSeen:
    every = held.all_everywhere if step.pattern == "*" else held.all_on_databases
    words = frozenset(step.privileges)
    words = (words - {"ALL PRIVILEGES"}) | every if "ALL PRIVILEGES" in words else words
    before = seen.grants.get(step.pattern, frozenset())
    after = before | words if isinstance(step, Grant) else before - words
    return replace(seen, grants=dict(seen.grants) | {step.pattern: after})


def carry_out(held: Held, steps: tuple[Step, ...]) -> Held:
    """A server in a few lines: what it holds after `steps`."""
    databases, accounts = dict(held.databases), dict(held.accounts)
    for step in steps:
        render(step)
        if isinstance(step, CreateDatabase | AlterDatabase):
            databases[step.name] = DatabaseSeen(step.charset or "utf8mb4", "default")
        elif isinstance(step, DropDatabase):
            del databases[step.name]
        else:
            seen = accounts.pop((step.name, step.host), AccountSeen("", {}))
            if not isinstance(step, DropAccount):
                host = step.new_host if isinstance(step, RenameAccount) else step.host
                accounts[step.name, host] = changed(seen, step, held)
    tidy = {who: replace(one, grants={p: g for p, g in one.grants.items() if g}) for who, one in accounts.items()}
    return replace(held, databases=databases, accounts=tidy)


def changed(seen: AccountSeen, step: Step, held: Held) -> AccountSeen:
    match step:
        case CreateAccount(_, _, password):
            return AccountSeen("invalid" if password is None else native_hash(password), {})
        case SetPassword(_, _, password):
            return replace(seen, password_hash=native_hash(password))
        case RevokeAll():
            return replace(seen, grants={}, finer_grants=False)
        case RevokeRole(_, _, role):
            return replace(seen, roles=seen.roles - {role})
        case Grant() | Revoke():
            return granted(seen, step, held)
    return seen


@given(WISHES, HELD, st.dictionaries(NAMES, HOSTS, max_size=2))
def test_after_its_steps_every_wish_has_come_true_and_nothing_else_has_changed(
    desired: DesiredInstance, held: Held, managed: dict[str, str]
) -> None:
    works = plan(desired, held, managed)
    after = held
    for work in works:
        assert not (work.impossible and work.steps)
        after = carry_out(after, work.steps)
    assert [work.steps for work in plan(desired, after, managed)] == [()] * len(works)
    named = {one.name for one in desired.databases}
    assert {n: s for n, s in after.databases.items() if n not in named} == {
        n: s for n, s in held.databases.items() if n not in named
    }
    told = {one.name for one in desired.accounts}
    assert {w: s for w, s in after.accounts.items() if w[0] not in told} == {
        w: s for w, s in held.accounts.items() if w[0] not in told
    }
    touched = {getattr(step, "name", "").lower() for work in works for step in work.steps if work.kind == "database"}
    assert not touched & SYSTEM_DATABASES


@given(st.text(max_size=70))
def test_a_pattern_names_its_database_and_no_other(name: str) -> None:
    assert name_of(pattern_of(name)) == name


@given(NAMES, st.text(max_size=20))
def test_no_name_leaves_its_backticks(name: str, host: str) -> None:
    sql, parameters = render(DropDatabase(name))
    inside = sql.removeprefix("DROP DATABASE IF EXISTS `").removesuffix("`")
    assert "`" not in inside.replace("``", "")
    assert sql % parameters == f"DROP DATABASE IF EXISTS `{name.replace('`', '``')}`"
    sql, parameters = render(DropAccount(name, host))
    assert sql == "DROP USER IF EXISTS %s@%s"
    assert parameters == (name, host)


def test_a_word_that_is_no_privilege_never_becomes_sql() -> None:
    with pytest.raises(ValueError, match="not a known privilege"):
        render(Grant("app", "%", "shop", ("SELECT ON *.* TO x; --",)))


# ── wishes that are held ──


@pytest.mark.parametrize(
    ("held", "phase", "message"),
    [
        (Held(), "held", "the server does not have it"),
        (Held(databases={"a": DatabaseSeen("latin1", "latin1_bin")}), "held", "its character set"),
        (Held(databases={"a": UTF8}), "ready", None),
    ],
)
def test_of_a_held_wish_it_is_told_in_what_the_server_differs(held: Held, phase: str, message: str | None) -> None:
    (work,) = plan(wish(databases=[{"name": "a", "charset": "utf8mb4", "hold": True}]), held, {})
    result = result_of(work, None)
    assert (result.phase, work.hold) == (phase, True)
    assert (message or "") in (result.message or "")


def test_of_a_held_account_each_difference_is_told_without_what_is_secret() -> None:
    seen = AccountSeen(native_hash("other"), {"*": frozenset({"SELECT"})}, finer_grants=False, roles=frozenset({"r"}))
    grants = [{"database": "b", "privileges": ["INSERT"]}]
    wished = {"name": "app", "host": "10.%", "password": "hush", "grants": grants, "hold": True}
    (work,) = plan(wish(accounts=[wished]), Held(accounts={("app", "%"): seen}), {"app": "%"})
    message = result_of(work, None).message or ""
    assert "it is at host %" in message
    assert "the role r" in message
    assert "SELECT on *" in message
    assert "hush" not in message
    same = Held(accounts={("app", "10.%"): AccountSeen(native_hash("other"), {})})
    (work,) = plan(wish(accounts=[{**wished, "grants": []}]), same, {})
    assert result_of(work, None).message == "its password is another"
