"""Commands on databases and accounts, and what agents report of them."""

import pytest

from provider.core.commands import DeleteWish, Plan, PutWish, RecordStatus, StatusUpdate, put
from provider.core.documents import AccountSpec, DatabaseSpec, InstanceStatus, WishStatus
from provider.core.entries import Change
from provider.core.state import State
from shared.errors import Conflict, Invalid, NotFound
from tests.support.commands import NOW, SPEC_NODE, do, fleet, get, refusal, status_of


def test_putting_a_database() -> None:
    wish = PutWish("database", "db1", "shop", DatabaseSpec(charset="utf8mb4"))
    state = do(fleet(), wish)
    made = get(state, "database", "db1/shop")
    assert (made.spec, made.status, made.wish) == ({"charset": "utf8mb4"}, {"phase": "pending"}, 2)
    assert wish.plan(state, NOW) == Plan(200, ("database", "db1/shop"))
    assert status_of(fleet(), wish) == 201
    assert status_of(state, PutWish("database", "db1", "shop", DatabaseSpec())) == 200


@pytest.mark.parametrize("name", ["a/b", "", "x" * 65, "🐬", "\x00", "\ud800"])
def test_a_wish_with_a_bad_name(name: str) -> None:
    refusal(fleet(), PutWish("database", "db1", name, DatabaseSpec()), Invalid, "database name")


def test_a_wish_of_an_unknown_instance() -> None:
    refusal(fleet(), PutWish("database", "db9", "shop", DatabaseSpec()), NotFound, "instance")
    refusal(fleet(), DeleteWish("database", "db9", "shop"), NotFound, "instance")
    refusal(fleet(), DeleteWish("account", "db1", "shop"), NotFound, "account")


def test_an_account_keeps_its_password_where_nothing_is_said_of_it() -> None:
    state = do(fleet(), PutWish("account", "db1", "ann", AccountSpec(password="sealed")))
    changed = do(state, PutWish("account", "db1", "ann", AccountSpec(host="localhost")))
    assert get(changed, "account", "db1/ann").spec["password"] == "sealed"
    other = do(state, PutWish("account", "db1", "ann", AccountSpec(password="other")))
    assert get(other, "account", "db1/ann").spec["password"] == "other"


def test_forgetting_and_dropping() -> None:
    state = do(fleet(), PutWish("database", "db1", "shop", DatabaseSpec()))
    assert status_of(state, DeleteWish("database", "db1", "shop")) == 204
    dropping = do(state, DeleteWish("database", "db1", "shop", drop=True))
    found = get(dropping, "database", "db1/shop")
    assert (found.status["phase"], found.wish) == ("dropping", 3)
    again = DeleteWish("database", "db1", "shop", drop=True)
    assert again.plan(dropping, NOW) == Plan(202, ("database", "db1/shop"))
    refusal(dropping, PutWish("database", "db1", "shop", DatabaseSpec()), Conflict, "being dropped")
    assert status_of(dropping, DeleteWish("database", "db1", "shop")) == 204


# ── reports ──


def wished(*, dropping: bool = False) -> State:
    state = do(fleet(), PutWish("database", "db1", "shop", DatabaseSpec(charset="utf8mb4")))
    return do(state, DeleteWish("database", "db1", "shop", drop=True)) if dropping else state


def report(status: WishStatus | None, wish: int | None = 2) -> StatusUpdate:
    return StatusUpdate("database", "db1/shop", status, wish)


READY = WishStatus(phase="ready")


def test_a_report_changes_the_status_and_not_the_wish() -> None:
    document = get(do(wished(), RecordStatus((report(READY),))), "database", "db1/shop")
    assert (document.status, document.spec) == ({"phase": "ready"}, {"charset": "utf8mb4"})
    assert (document.revision, document.wish) == (3, 2)


@pytest.mark.parametrize(
    "update",
    [report(READY, 1), report(READY, 9), report(WishStatus()), StatusUpdate("database", "db1/none", READY, 2)],
    ids=["of an older wish", "of a wish to come", "nothing new", "of what is gone"],
)
def test_a_report_that_says_nothing_of_now_changes_nothing(update: StatusUpdate) -> None:
    assert RecordStatus((update,)).plan(wished(), NOW) == Plan(200)


def test_a_document_goes_when_it_was_dropped_as_asked() -> None:
    state = do(wished(dropping=True), RecordStatus((report(None, 3),)))
    assert state.get("database", "db1/shop") is None


def test_nothing_is_forgotten_because_an_agent_says_that_it_dropped_what_nobody_asked_it_to() -> None:
    assert RecordStatus((report(None, 2),)).plan(wished(), NOW) == Plan(200)
    assert RecordStatus((StatusUpdate("agent", "db1", None),)).plan(fleet(), NOW) == Plan(200)


def test_of_several_reports_about_one_document_the_last_stands() -> None:
    """An entry changes each document once."""
    failed = WishStatus(phase="failed", message="no")
    (change,) = RecordStatus((report(READY), report(failed))).plan(wished(), NOW).changes
    assert change.status == {"phase": "failed", "message": "no"}
    assert RecordStatus((report(READY), report(WishStatus()))).plan(wished(), NOW).changes == ()


def test_a_report_leaves_a_spec_of_a_newer_version_as_it_is() -> None:
    new = Change(kind="instance", id="db1", spec={"agent": "db1", "engine": "mariadb", "shard": 7})
    state = State.genesis(generation="g", primary="p1", now=NOW, changes=(new,))
    (change,) = RecordStatus((StatusUpdate("instance", "db1", InstanceStatus(state="up")),)).plan(state, NOW).changes
    assert change.spec == new.spec


def test_a_status_of_the_wrong_kind_is_a_mistake_of_ours() -> None:
    with pytest.raises(TypeError):
        RecordStatus((StatusUpdate("database", "db1/shop", InstanceStatus(), 2),)).plan(wished(), NOW)
    with pytest.raises(TypeError):
        put("agent", "db1", SPEC_NODE)
