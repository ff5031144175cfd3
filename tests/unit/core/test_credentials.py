"""The change of an agent's broker password, as the log has it."""

from provider.core.commands import RESTORED, RotateCredential, SwitchCredential, TellCredential
from provider.core.entries import Change
from provider.core.state import State
from tests.support.history import accept_entry, commit_of, genesis

HASH = "A" * 48


def start(**spec: object) -> State:
    content = {"token_sha256": "x", "broker_password_hash": "old", **spec}
    change = Change(kind="agent", id="db1", spec=content, status={"state": "online", "credential": 0})
    return accept_entry(genesis(), commit_of(change)).state


def after(state: State, command: RotateCredential | SwitchCredential | TellCredential) -> State:
    changes = command.plan(state, 1234).changes
    return accept_entry(state, commit_of(*changes)).state if changes else state


def spec(state: State) -> dict[str, object]:
    found = state.get("agent", "db1")
    assert found is not None
    return dict(found.spec)


def test_a_password_is_asked_for_then_taken_and_nothing_of_it_is_in_the_state_but_its_hash() -> None:
    asked = after(start(), RotateCredential("db1"))
    assert spec(asked)["wanted_credential"] == 1
    assert spec(asked)["broker_password_hash"] == "old"
    taken = spec(after(asked, SwitchCredential("db1", 1, HASH)))
    assert taken == {"token_sha256": "x", "broker_password_hash": HASH, "credential": 1, "credential_at": 1234}


def test_to_ask_twice_is_to_ask_once() -> None:
    asked = after(start(), RotateCredential("db1"))
    assert after(asked, RotateCredential("db1")) is asked
    # Taken, and not in use yet: the agent holds two passwords, a third would push out one that the broker knows.
    taken = after(asked, SwitchCredential("db1", 1, HASH))
    assert after(taken, RotateCredential("db1")) is taken


def test_what_nobody_asked_for_is_not_taken() -> None:
    state = start()
    assert after(state, SwitchCredential("db1", 1, HASH)) is state
    asked = after(state, RotateCredential("db1"))
    assert after(asked, SwitchCredential("db1", 2, HASH)) is asked


def test_an_agent_may_tell_a_newer_one_to_a_cluster_that_was_restored_and_to_no_other() -> None:
    asked = after(start(credential=1), RotateCredential("db1"))
    told = TellCredential("db1", 3, HASH)
    assert after(asked, told) is asked
    review = Change(kind="setting", id=RESTORED, spec={"value": {"ignored": []}})
    restored = accept_entry(asked, commit_of(review)).state
    assert after(restored, TellCredential("db1", 1, HASH)) is restored, "it knows that one"
    taken = spec(after(restored, told))
    assert taken == {"token_sha256": "x", "broker_password_hash": HASH, "credential": 3, "credential_at": 1234}
