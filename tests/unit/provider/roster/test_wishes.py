"""Wishes: who is told, which results count, and what is recorded of instances."""

from provider.core.documents import InstanceStatus, WishStatus
from provider.core.entries import Change
from provider.fleet.desired import desired_for
from provider.fleet.instructions import Record, Register, SendDesired
from provider.fleet.roster import RESEND_S
from shared import messages as m
from tests.support.rosters import Fleet, agent, change, database, hello, instance, observed, pulse


def test_a_burst_of_writes_becomes_a_few_messages_and_the_last_one_is_sent(fleet: Fleet) -> None:
    sent = [fleet.commit(database(f"db1/d{number}")) for number in range(50)]
    assert sum(len(one) for one in sent) <= 1
    assert fleet.due(RESEND_S) == [SendDesired("db1")]
    assert fleet.due(10) == []


def test_only_the_agent_concerned_is_told(fleet: Fleet) -> None:
    fleet.commit(agent("db2"), instance("db2", "db2"))
    fleet.hear("db2", hello(observed("db2")))
    fleet.wait(1.0)
    assert fleet.commit(database("db2/shop")) == [SendDesired("db2")]
    fleet.wait(1.0)
    assert fleet.commit(Change(kind="database", id="db2/shop")) == [SendDesired("db2")]
    assert fleet.commit(Change(kind="setting", id="user.x", spec={"value": 1})) == []


def report(*results: m.Result) -> m.Report:
    return m.Report(revision=1, instances=(observed(database_results=results),))


def test_a_result_counts_for_the_wish_that_it_speaks_of(fleet: Fleet) -> None:
    fleet.commit(database("db1/shop"))
    old = fleet.get("database", "db1/shop").wish
    fleet.commit(change("database", "db1/shop", {"charset": "latin1"}, WishStatus()))
    fleet.hear("db1", report(m.Result(name="shop", version=old, phase="ready")))
    assert fleet.status("database", "db1/shop") == {"phase": "pending"}, "that was the wish before"
    new = fleet.get("database", "db1/shop").wish
    fleet.hear("db1", report(m.Result(name="shop", version=new, phase="failed", message="no such charset")))
    assert fleet.status("database", "db1/shop") == {"phase": "failed", "message": "no such charset"}
    assert fleet.get("database", "db1/shop").wish == new, "a status is no wish"
    fleet.recorded.clear()
    fleet.hear("db1", report(m.Result(name="shop", version=new, phase="failed", message="no such charset")))
    fleet.hear("db1", report(m.Result(name="other", version=new, phase="ready")))
    assert fleet.recorded == []


def test_what_is_dropped_goes_only_where_that_was_asked(fleet: Fleet) -> None:
    fleet.commit(database("db1/shop", "ready"))
    wish = fleet.get("database", "db1/shop").wish
    fleet.hear("db1", report(m.Result(name="shop", version=wish, phase="dropped")))
    assert fleet.status("database", "db1/shop") == {"phase": "ready"}

    fleet.commit(database("db1/shop", "dropping"))
    wish = fleet.get("database", "db1/shop").wish
    fleet.hear("db1", report(m.Result(name="shop", version=wish, phase="failed", message="in use")))
    assert fleet.status("database", "db1/shop") == {"phase": "dropping", "message": "in use"}
    fleet.hear("db1", report(m.Result(name="shop", version=wish, phase="dropped")))
    assert fleet.state.get("database", "db1/shop") is None


def test_what_could_not_be_recorded_is_tried_again_later_and_not_at_once(fleet: Fleet) -> None:
    fleet.commits = False
    down = fleet.hear("db1", hello(observed(state="down", message="gone")))
    (record,) = [one for one in down if isinstance(one, Record)]
    assert fleet.hear("db1", pulse(revision=1)) == [], "it is on its way"
    assert fleet.roster.recorded(record.updates, ok=False) == []
    fleet.commits = True
    fleet.wait(1.0)
    assert fleet.status("instance", "db1")["state"] == "down"


# ── instances ──


def test_an_instance_that_is_not_known_is_made_known_once(fleet: Fleet) -> None:
    said = fleet.hear("db1", hello(observed(), observed("db1b", port=3307)))
    (register,) = [one for one in said if isinstance(one, Register)]
    assert (register.command.id, register.command.spec.agent, register.command.spec.port) == ("db1b", "db1", 3307)
    again = fleet.hear("db1", hello(observed(), observed("db1b", port=3307)))
    assert not [one for one in again if isinstance(one, Register)], "it is on its way"
    fleet.roster.registered("db1b")
    refused = fleet.hear("db1", hello(observed(), observed("db1b", port=3307)))
    assert [one for one in refused if isinstance(one, Register)], "the level decides, not the edge"


def test_an_instance_of_another_agent_and_one_of_no_engine_are_not_believed(fleet: Fleet) -> None:
    fleet.commit(agent("db2"), instance("db2", "db2"))
    said = fleet.hear("db1", hello(observed(), observed("db2", state="down"), observed("x", engine="oracle")))
    assert not [one for one in said if isinstance(one, Register)]
    assert fleet.status("instance", "db2") == InstanceStatus().model_dump(exclude_none=True)


def test_the_desired_state_is_all_of_it_with_passwords_opened(fleet: Fleet) -> None:
    fleet.commit(agent("db2"), instance("db1b", "db1"), instance("db2", "db2"))
    fleet.commit(
        database("db1/shop"),
        database("db1/old", "dropping"),
        database("db2/other"),
        change("account", "db1b/ann", {"host": "%", "grants": [], "password": "sealed"}, WishStatus()),
    )
    desired = desired_for(fleet.state, "db1", lambda sealed, context: f"{context} opened {sealed}")
    assert desired.revision == fleet.state.revision
    one, two = desired.instances
    assert [(d.name, d.drop) for d in one.databases] == [("old", True), ("shop", False)]
    assert (two.id, two.databases, two.accounts[0].password) == ("db1b", (), "db1b/ann opened sealed")
    assert desired_for(fleet.state, "nobody", lambda *_: "").instances == ()
