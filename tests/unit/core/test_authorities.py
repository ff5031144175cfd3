"""An authority is replaced without a moment in which anything that is in use is not trusted."""

from typing import Any

import pytest

from provider.core import documents as docs
from provider.core.commands import (
    AddAuthority,
    Command,
    DropAuthority,
    RenewCertificate,
    SignWith,
    put,
    signing,
)
from provider.core.entries import Commit, Entry
from provider.core.state import Accepted, State, step
from shared.errors import Conflict, Refusal, Refused

NOW = 1_700_000_000_000
NODE = docs.NodeSpec(url="https://p1", endpoints=(), version="1", token_sha256="x", public_key="00")


def authority(*, signs: bool = False) -> docs.AuthoritySpec:
    return docs.AuthoritySpec(certificate="PEM", key="sealed", signs=signs)


def certificate(authority_id: str, sha256: str) -> docs.CertificateSpec:
    return docs.CertificateSpec(sha256=sha256, key_sha256="k", authority=authority_id, expires_at=NOW)


def cluster() -> State:
    """One node, whose certificate is of the one authority."""
    node = NODE.model_copy(update={"certificates": (certificate("old", "1"),)})
    changes = (put("node", "p1", node), put("authority", "old", authority(signs=True)))
    return State.genesis(generation="g", primary="p1", now=NOW, changes=changes)


def do(state: State, command: Command) -> State:
    plan, seq = command.plan(state, NOW), state.revision + 1
    commit = Commit(principal="ann", action="", status=plan.status, target=plan.target, changes=plan.changes)
    outcome = step(state, Entry(id="e", generation="g", epoch=1, seq=seq, node="p1", at=NOW + seq, commits=(commit,)))
    assert isinstance(outcome, Accepted)
    return outcome.state


def refused(state: State, command: Command, type_: type[Refusal], about: str) -> None:
    with pytest.raises(type_, match=about):
        command.plan(state, NOW)


def good(state: State) -> list[Any]:
    node = state.get("node", "p1")
    assert node is not None
    return [one["sha256"] for one in node.spec["certificates"]]


def test_an_authority_is_replaced() -> None:
    state = do(cluster(), AddAuthority("new", authority()))
    assert signing(state).id == "old", "it is trusted first, and signs later"
    state = do(state, SignWith("new"))
    assert signing(state).id == "new"
    refused(state, DropAuthority("old"), Refused, "in use by p1")
    state = do(state, RenewCertificate("p1", certificate("new", "2")))
    state = do(state, DropAuthority("old"))
    assert [one.id for one in state.of("authority")] == ["new"]


def test_one_authority_after_the_other() -> None:
    state = do(cluster(), AddAuthority("new", authority()))
    refused(state, AddAuthority("newer", authority()), Refused, "new has not begun to sign")
    refused(state, AddAuthority("old", authority()), Conflict, "already")
    state = do(do(state, SignWith("new")), AddAuthority("newer", authority()))
    state = do(state, SignWith("newer"))
    refused(state, AddAuthority("fourth", authority()), Refused, "the most there may be")


def test_one_that_signs_is_not_dropped() -> None:
    refused(cluster(), DropAuthority("old"), Refused, "signs the cluster's certificates")
    state = do(do(cluster(), AddAuthority("new", authority())), DropAuthority("new"))
    assert signing(state).id == "old", "one that was added by mistake goes again"


def test_to_sign_with_the_one_that_signs_changes_nothing() -> None:
    assert SignWith("old").plan(cluster(), NOW).changes == ()


def test_the_certificate_before_the_last_stays_good() -> None:
    state = do(cluster(), RenewCertificate("p1", certificate("old", "2")))
    assert good(state) == ["2", "1"]
    assert good(do(state, RenewCertificate("p1", certificate("old", "3")))) == ["3", "2"]


def test_a_certificate_of_an_authority_that_signs_no_more_is_not_recorded() -> None:
    state = do(do(cluster(), AddAuthority("new", authority())), SignWith("new"))
    refused(state, RenewCertificate("p1", certificate("old", "2")), Conflict, "ask again")
