"""A node's maintenance: who may begin it, what it leaves alone, and what follows from it."""

import pytest

from provider.core import documents as docs
from provider.core.commands import (
    BeginMaintenance,
    Command,
    EndMaintenance,
    RenewCertificate,
    in_maintenance,
    put,
)
from provider.core.state import State
from shared.errors import NotFound, Refused
from tests.support.history import accept_entry, commit_of

AUTHORITY = docs.AuthoritySpec(certificate="PEM", key="sealed", signs=True)


def node(name: str) -> docs.NodeSpec:
    return docs.NodeSpec(
        url=f"https://{name}:8443", endpoints=(f"amqps://{name}:5671",), version="1", token_sha256="0", public_key="0"
    )


@pytest.fixture
def state() -> State:
    """p1 is primary; p2 is a standby."""
    changes = [put("node", name, node(name)) for name in ("p1", "p2")]
    return State.genesis(generation="g1", primary="p1", now=1, changes=(*changes, put("authority", "a1", AUTHORITY)))


def maintenance_of(state: State, name: str) -> object:
    document = state.get("node", name)
    assert document is not None
    assert in_maintenance(state, name) is ("maintenance" in document.spec)
    return document.spec.get("maintenance")


def done(state: State, command: Command, now: int = 1000) -> State:
    plan = command.plan(state, now)
    return accept_entry(state, commit_of(*plan.changes)).state if plan.changes else state


def test_a_standby_is_taken_out_and_put_back(state: State) -> None:
    out = done(state, BeginMaintenance("p2", "new disk"))
    assert maintenance_of(out, "p2") == {"reason": "new disk", "since": 1000}
    assert maintenance_of(out, "p1") is None
    back = done(out, EndMaintenance("p2"))
    assert maintenance_of(back, "p2") is None
    before, after = state.get("node", "p2"), back.get("node", "p2")
    assert before is not None
    assert after is not None
    assert after.spec == before.spec


def test_begun_again_it_keeps_its_beginning_and_takes_the_new_reason(state: State) -> None:
    begun = done(state, BeginMaintenance("p2"))
    assert maintenance_of(begun, "p2") == {"since": 1000}
    assert BeginMaintenance("p2").plan(begun, 2000).changes == ()
    again = done(begun, BeginMaintenance("p2", "and the other disk"), now=2000)
    assert maintenance_of(again, "p2") == {"reason": "and the other disk", "since": 1000}


def test_the_primary_is_refused_and_the_answer_says_what_to_do(state: State) -> None:
    with pytest.raises(Refused, match="make another node primary first"):
        BeginMaintenance("p1").plan(state, 1000)


def test_ended_where_there_is_none_nothing_changes(state: State) -> None:
    plan = EndMaintenance("p2").plan(state, 1000)
    assert (plan.status, plan.changes) == (204, ())


@pytest.mark.parametrize("command", [BeginMaintenance("p9"), EndMaintenance("p9")])
def test_an_unknown_node_is_not_found(state: State, command: Command) -> None:
    with pytest.raises(NotFound):
        command.plan(state, 1000)


def test_a_certificate_that_is_renewed_meanwhile_does_not_end_it(state: State) -> None:
    begun = done(state, BeginMaintenance("p2", "new disk"))
    given = docs.CertificateSpec(sha256="1", key_sha256="2", authority="a1", expires_at=1)
    assert maintenance_of(done(begun, RenewCertificate("p2", given)), "p2") == {"reason": "new disk", "since": 1000}
