"""Commands on tokens, users and sessions: what each becomes, and every reason to refuse it."""

import pytest

from provider.core.commands import (
    Command,
    DeleteToken,
    DeleteUser,
    EndSession,
    EndSessions,
    EnrollAgent,
    Precondition,
    PutToken,
    PutUser,
    RecordTokenUses,
    ReissueAdministrator,
    SetPassword,
    TokenUse,
    put,
)
from provider.core.documents import SessionSpec, TokenSpec
from provider.core.state import State
from shared.errors import Conflict, Invalid, NotFound, StaleRevision, TokenRefused
from tests.support.commands import NOW, SPEC_AGENT, do, fleet, get, refusal, status_of, token


def test_tokens() -> None:
    assert status_of(fleet(), PutToken("new", token("admin"))) == 201
    refusal(fleet(), PutToken("join", token()), Conflict)
    assert status_of(fleet(), DeleteToken("join")) == 204
    refusal(fleet(), DeleteToken("new"), NotFound)


def test_a_new_token_takes_expired_ones_with_it_but_not_too_many_at_once() -> None:
    state = fleet()
    for number in range(3):
        state = do(state, PutToken(f"t{number}", token(expires_at=NOW + 1)))
    later = do(state, PutToken("new", token()), NOW + 2)
    assert [found.id for found in later.of("token")] == ["join", "new"]
    changes = tuple(put("token", f"t{n}", token(expires_at=0)) for n in range(1000))
    crowd = State.genesis(generation="g", primary="p1", now=NOW, changes=changes)
    assert len(PutToken("new", token()).plan(crowd, NOW).changes) == 101


@pytest.mark.parametrize(
    ("token_id", "now", "reason", "told"),
    [
        ("no such", NOW, "unknown", "needs a one-time agent token"),
        ("join", NOW, "wrong_kind", "for the role node"),
        ("enrol", NOW + 1, "expired", "has expired"),
        ("used", NOW, "used", "used before, by agent db7"),
        ("revoked", NOW, "revoked", "was revoked"),
    ],
)
def test_a_one_time_token_that_is_not_good(token_id: str, now: int, reason: str, told: str) -> None:
    """Whoever has got as far as here has shown its secret, and is told why."""
    state = do(do(fleet(), PutToken("used", token(expires_at=NOW + 9))), PutToken("revoked", token(expires_at=NOW + 9)))
    state = do(do(state, EnrollAgent("db7", "used", SPEC_AGENT)), DeleteToken("revoked"))
    with pytest.raises(TokenRefused, match=told) as error:
        EnrollAgent("db2", token_id, SPEC_AGENT).plan(state, now)
    assert (error.value.reason, error.value.token_id) == (reason, token_id)


def test_what_was_used_or_revoked_is_forgotten_with_its_time() -> None:
    state = do(fleet(), PutToken("used", token(expires_at=NOW + 9)))
    state = do(state, EnrollAgent("db7", "used", SPEC_AGENT))
    assert get(state, "token", "used").status == {"used_at": NOW, "used_by": "agent db7"}
    assert do(state, DeleteToken("used")).get("token", "used") is not None, "it stays what it is"
    assert do(state, PutToken("new", token()), NOW + 10).get("token", "used") is None
    for_ever = do(fleet(), PutToken("always", token()))
    assert do(for_ever, EnrollAgent("db7", "always", SPEC_AGENT)).get("token", "always") is None


def test_only_the_first_administrators_token_is_issued_anew() -> None:
    first = TokenSpec(role="admin", sha256="x", expires_at=None, administrator=True)
    state = do(do(fleet(), PutToken("mine", token("admin"))), PutToken("first", first))
    state = do(state, ReissueAdministrator("second", first))
    assert [found.id for found in state.of("token")] == ["enrol", "join", "mine", "second"]
    state = do(state, ReissueAdministrator("third", first))
    assert state.get("token", "second") is None
    refusal(state, ReissueAdministrator("third", first), Conflict)


def test_a_last_use_is_recorded_when_it_is_much_later_than_the_one_before() -> None:
    step_ms = 5 * 60 * 1000

    def use(at: int, source: str = "192.0.2.1") -> RecordTokenUses:
        return RecordTokenUses((TokenUse("join", at, source), TokenUse("gone", at, source)))

    state = do(fleet(), use(NOW))
    assert get(state, "token", "join").status == {"last_used_at": NOW, "last_used_from": "192.0.2.1"}
    assert get(state, "token", "join").wish == 1, "what was asked for is as it was"
    assert use(NOW + step_ms - 1).plan(state, NOW + step_ms).changes == ()
    assert use(NOW - 1).plan(state, NOW).changes == ()
    later = do(state, use(NOW + step_ms, "198.51.100.7"), NOW + step_ms)
    assert get(later, "token", "join").status["last_used_from"] == "198.51.100.7"
    ahead = do(state, use(NOW + 9 * step_ms), NOW + step_ms)
    assert get(ahead, "token", "join").status["last_used_at"] == NOW + step_ms, "a clock that is ahead proves nothing"
    both = RecordTokenUses((TokenUse("join", NOW + 2, "b"), TokenUse("join", NOW + 1, "a")))
    assert get(do(fleet(), both, NOW + 3), "token", "join").status["last_used_from"] == "b"


# ── people ──


def people() -> State:
    return do(fleet(), PutUser("ann", "viewer", "hash"))


def test_each_change_of_a_user_can_be_told_from_what_was() -> None:
    """Sessions name the revision (`wish`) that they were begun with."""
    state = people()
    changes: list[Command] = [
        PutUser("ann", "admin", None),
        PutUser("ann", "viewer", "another"),
        SetPassword("ann", "another"),
        EndSessions("ann"),
    ]
    for command in changes:
        assert get(do(state, command), "user", "ann").wish > get(state, "user", "ann").wish, command
    assert PutUser("ann", "viewer", None).plan(state, NOW).changes == ()
    again = do(do(state, DeleteUser("ann")), PutUser("ann", "viewer", "hash"))
    assert get(again, "user", "ann").wish > get(state, "user", "ann").wish


def test_reasons_not_to_change_a_user() -> None:
    state, old = people(), Precondition(revision=1)
    refusal(state, PutUser("Ann", "viewer", "hash"), Invalid, "user name")
    refusal(state, PutUser("bob", "viewer", None), Invalid, "a new user needs one")
    refusal(state, PutUser("ann", "admin", None, old), StaleRevision)
    refusal(state, PutUser("ann", "admin", None, Precondition(absent=True)), StaleRevision)
    refusal(state, DeleteUser("ann", old), StaleRevision)
    refusal(state, SetPassword("ann", "hash", checked=1), StaleRevision, "read it again")
    for command in (DeleteUser("bob"), SetPassword("bob", "hash"), EndSessions("bob")):
        refusal(state, command, NotFound)


def test_an_ended_session_is_remembered_until_it_would_have_ended() -> None:
    state = do(people(), EndSession("s1", SessionSpec(user="ann", expires_at=NOW + 1)))
    assert EndSession("s1", SessionSpec(user="ann", expires_at=NOW + 1)).plan(state, NOW).changes == ()
    state = do(state, EndSession("s2", SessionSpec(user="ann", expires_at=NOW + 5)), NOW + 2)
    assert [found.id for found in state.of("session")] == ["s2"]
