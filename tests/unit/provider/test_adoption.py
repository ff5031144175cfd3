"""Invariant: after a restore nothing on a server is touched before its agent says that it is as wished, or somebody
decides; and whatever is decided for the server's side changes nothing there."""

from typing import Any

import pytest
from immutables import Map

from provider.backup.concerns import warnings
from provider.backup.review import review, to_adopt, unmanaged
from provider.core import commands as c
from provider.core import documents as d
from provider.core.commands import StatusUpdate
from provider.core.entries import Change
from provider.core.state import State
from provider.fleet import status
from provider.fleet.desired import desired_for
from provider.fleet.view import AgentSeen, View
from shared import messages as m
from shared.errors import Conflict, Refused
from tests.support.backups import changed, with_agent
from tests.support.history import START_MS, genesis

NOW = START_MS + 10


def held(state: State, kind: Any, name: str, spec: d.Content) -> State:
    return changed(state, c.put(kind, f"db1/{name}", spec, c.HELD))


def restored() -> State:
    """With a database and an account from the backup."""
    value = {"at": NOW, "backup": {"at": NOW}, "forgotten": [], "ignored": []}
    state = changed(with_agent(genesis()), Change(kind="setting", id=c.RESTORED, spec={"value": value}))
    state = held(state, "database", "shop", d.DatabaseSpec(charset="utf8mb4"))
    return held(state, "account", "app", d.AccountSpec(host="10.%", password="sealed"))


def heard(*, databases: tuple[str, ...] = (), accounts: tuple[m.ObservedAccount, ...] = ()) -> View:
    observed = m.ObservedInstance(
        id="db1",
        engine="mariadb",
        state="up",
        databases=tuple(
            m.ObservedDatabase(name=name, charset="latin1", collation="latin1_bin", size_bytes=1) for name in databases
        ),
        accounts=accounts,
    )
    seen = AgentSeen(NOW, 0.0, "s", "1", 1, 1, "amqps://x:1", Map({"db1": observed}))
    return View(agents=Map({"db1": seen}))


def account(name: str, host: str = "%", *, reserved: bool | None = None) -> m.ObservedAccount:
    grants = (m.Grant(database="shop", privileges=("SELECT",)),)
    return m.ObservedAccount(name=name, host=host, grants=grants, reserved=reserved)


def done(state: State, command: c.Command) -> State:
    return changed(state, *command.plan(state, NOW).changes)


def said(state: State, phase: Any, message: str | None = None, *, name: str = "shop") -> State:
    """What becomes of `state` when its agent says this of the wish as it is now."""
    wish = state.get("database", f"db1/{name}")
    assert wish is not None
    result = m.Result(name=name, version=wish.wish, phase=phase, message=message)
    observed = m.ObservedInstance(id="db1", engine="mariadb", state="up", database_results=(result,))
    updates = [u for u in status.observed_instance(state, "db1", observed) if u.kind == "database"]
    return done(state, c.RecordStatus(tuple(updates)))


def phase(state: State, kind: Any = "database", name: str = "shop") -> str | None:
    wish = state.get(kind, f"db1/{name}")
    return wish.status["phase"] if wish is not None else None


def test_an_agent_is_told_to_look_only() -> None:
    (instance,) = desired_for(restored(), "db1", lambda *_: "x").instances
    assert [one.hold for one in (*instance.databases, *instance.accounts)] == [True, True]


def test_what_its_agent_finds_alike_is_ready_and_kept_so_from_then_on() -> None:
    state = said(restored(), "ready")
    assert phase(state) == "ready"
    wish = state.get("database", "db1/shop")
    assert wish is not None
    assert wish.wish == state.revision, "so its agent is told"
    (instance,) = desired_for(state, "db1", lambda *_: "x").instances
    assert instance.databases[0].hold is None


def test_what_is_not_alike_stays_held_and_it_is_said_in_what() -> None:
    state = said(restored(), "held", "the server does not have it")
    wish = state.get("database", "db1/shop")
    assert wish is not None
    assert wish.status == {"phase": "held", "message": "the server does not have it"}


def test_what_an_agent_said_before_it_heard_of_it_releases_nothing() -> None:
    assert phase(said(restored(), "failed", "long ago")) == "held"
    assert phase(said(restored(), "dropped")) == "held"
    released = done(restored(), c.ReleaseWishes("db1", {"database": ["shop"]}))
    wish = released.get("database", "db1/shop")
    assert wish is not None
    old = StatusUpdate("database", "db1/shop", d.WishStatus(phase="held"), wish.wish - 1)
    assert phase(done(released, c.RecordStatus((old,)))) == "pending"


def test_what_is_on_the_server_and_in_no_wish_is_listed_but_not_what_is_the_servers_own() -> None:
    view = heard(databases=("shop", "later"), accounts=(account("late"), account("root", reserved=True)))
    items = {item.key: item.state for item in review(restored(), view)}
    assert items == {
        "account/db1/app": "held",
        "account/db1/late": "unmanaged",
        "database/db1/later": "unmanaged",
        "database/db1/shop": "held",
    }
    assert "provider adopt list" in warnings(restored(), NOW)[0]
    instance = restored().get("instance", "db1")
    assert instance is not None
    assert unmanaged(restored(), view, instance) == {"databases": ["later"], "accounts": ["late"]}


def test_what_is_adopted_is_wished_as_the_server_has_it_and_is_only_looked_at() -> None:
    state = restored()
    view = heard(databases=("shop", "later"), accounts=(account("late"), account("app", "%")))
    state = done(state, c.AdoptWishes("db1", to_adopt(state, view, "db1", None)))
    later, app = state.get("database", "db1/later"), state.get("account", "db1/app")
    assert later is not None
    assert app is not None
    assert later.spec == {"charset": "latin1", "collation": "latin1_bin"}
    assert (app.spec["host"], "password" in app.spec) == ("%", False), "its password stays what it is"
    (instance,) = desired_for(state, "db1", lambda *_: "x").instances
    assert all(one.hold for one in (*instance.databases, *instance.accounts))
    assert len(instance.accounts) == 2


def test_a_held_wish_of_what_the_server_does_not_have_is_forgotten_when_that_is_adopted() -> None:
    state = restored()
    state = done(state, c.AdoptWishes("db1", to_adopt(state, heard(), "db1", {"database": ["shop"]})))
    assert phase(state) is None
    assert phase(state, "account", "app") == "held", "only what was named"


def test_nothing_is_adopted_or_forgotten_while_its_agent_is_not_heard() -> None:
    assert to_adopt(restored(), View(), "db1", None) == []
    with pytest.raises(Refused, match="not heard"):
        to_adopt(restored(), View(), "db1", {"database": ["shop"]})


def test_an_account_at_several_hosts_is_for_a_person_to_decide() -> None:
    view = heard(accounts=(account("late", "%"), account("late", "10.%")))
    with pytest.raises(Refused, match="several hosts"):
        to_adopt(restored(), view, "db1", {"account": ["late"]})
    assert all(one.name != "late" for one in to_adopt(restored(), view, "db1", None))


def test_what_nobody_asked_about_cannot_be_adopted() -> None:
    with pytest.raises(Refused, match="neither held nor unmanaged"):
        to_adopt(restored(), heard(), "db1", {"database": ["nothing"]})
    ready = said(restored(), "ready")
    with pytest.raises(Conflict, match="not held"):
        c.AdoptWishes("db1", [c.Adopted("database", "shop", None)]).plan(ready, NOW)


def test_released_wishes_are_carried_out_and_a_put_says_as_much() -> None:
    state = done(restored(), c.ReleaseWishes("db1"))
    assert (phase(state), phase(state, "account", "app")) == ("pending", "pending")
    again = c.PutWish("database", "db1", "shop", d.DatabaseSpec(charset="utf8mb4"))
    assert phase(done(restored(), again)) == "pending"


def test_what_is_ignored_is_not_listed_and_the_review_ends_when_nothing_is_held() -> None:
    view = heard(databases=("shop", "later"))
    state = done(restored(), c.IgnoreUnmanaged("db1", {"database": ["later"]}))
    assert [item.name for item in review(state, view)] == ["app", "shop"]
    with pytest.raises(Refused, match="2 wishes are still held"):
        c.EndReview().plan(state, NOW)
    state = done(done(state, c.ReleaseWishes("db1")), c.EndReview())
    assert c.restored(state) is None
    assert warnings(state, NOW) == []
    with pytest.raises(Refused, match="nothing is to be reviewed"):
        c.IgnoreUnmanaged("db1", {"database": ["later"]}).plan(state, NOW)
