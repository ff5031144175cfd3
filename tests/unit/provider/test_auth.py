"""Who asks is known by the token alone; tokens that are unknown, expired, revoked or wrong all look alike."""

import time

import pytest

from provider.api.access.auth import Principal, authenticate, covers, newcomer
from provider.api.access.policy import Policy, Rule
from provider.core.commands import removed_key
from provider.core.entries import Change
from provider.core.state import State
from shared.errors import TOKEN_NOT_GOOD, Forbidden, TokenRefused, Unauthenticated
from shared.tokens import Token, new_token
from tests.support.history import accept_entry, commit_of, genesis

ROLES = ("viewer", "operator", "admin")
NOW_MS = int(time.time() * 1000)
TOKENS = {role: new_token(role) for role in (*ROLES, "agent", "node")}
EXPIRED = new_token("admin")
ONCE = new_token("agent", "fingerprint")


def _state() -> State:
    people = [
        Change(kind="token", id=token.id, spec={"role": role, "sha256": token.hashed})
        for role, token in TOKENS.items()
        if role in ROLES
    ]
    members = [
        Change(kind="agent", id="db1", spec={"token_sha256": TOKENS["agent"].hashed, "broker_password_hash": ""}),
        Change(kind="node", id="p2", spec={"token_sha256": TOKENS["node"].hashed, "url": ""}),
    ]
    over = {"role": "admin", "sha256": EXPIRED.hashed, "expires_at": NOW_MS - 1}
    once = {"role": "agent", "sha256": ONCE.hashed, "expires_at": NOW_MS + 10**9}
    rest = [Change(kind="token", id=EXPIRED.id, spec=over), Change(kind="token", id=ONCE.id, spec=once)]
    return accept_entry(genesis(), commit_of(*people, *members, *rest)).state


STATE = _state()


def header(token: Token) -> str:
    return f"Bearer {token.text()}"


NODE = header(Token("node", "p2", TOKENS["node"].secret))


@pytest.mark.parametrize("role", ROLES)
def test_a_token_stands_for_its_role(role: str) -> None:
    assert authenticate(STATE, header(TOKENS[role])) == Principal(f"token:{TOKENS[role].id}", role)
    assert authenticate(STATE, header(TOKENS[role]).replace("Bearer", "bearer")).role == role


def test_members_are_known_by_their_documents() -> None:
    assert authenticate(STATE, header(Token("agent", "db1", TOKENS["agent"].secret))) == Principal("agent:db1", "agent")
    assert authenticate(STATE, NODE, "p2") == Principal("node:p2", "node")


@pytest.mark.parametrize("shown", [None, "p1", ""])
def test_a_nodes_token_is_nearly_nothing_without_its_certificate(shown: str | None) -> None:
    principal = authenticate(STATE, NODE, shown)
    assert principal == Principal("node:p2", "node:token")
    Policy("node:token").check(principal, {})
    for rule in ("agent", "viewer", "admin", "node"):
        with pytest.raises(Forbidden):
            Policy(rule).check(principal, {})


NOBODY = {
    "nothing": None,
    "empty": "",
    "no token": "Bearer",
    "an empty token": "Bearer ",
    "another scheme": "Basic YTpi",
    "no scheme": TOKENS["admin"].text(),
    "unknown": header(new_token("admin")),
    "expired": header(EXPIRED),
    "one-time": header(ONCE),
    "a wrong secret": header(Token("admin", TOKENS["admin"].id, "0" * 64)),
    "another's secret": header(Token("admin", TOKENS["admin"].id, TOKENS["viewer"].secret)),
    "another's role": header(Token("admin", TOKENS["viewer"].id, TOKENS["viewer"].secret)),
    "an agent as a node": header(Token("node", "db1", TOKENS["agent"].secret)),
    "a node as an agent": header(Token("agent", "p2", TOKENS["node"].secret)),
    "an unknown node": header(Token("node", "p9", TOKENS["node"].secret)),
    "a token as an agent": header(Token("agent", TOKENS["admin"].id, TOKENS["admin"].secret)),
    "an unknown role": "Bearer bw.root.x.y",
    "too short": "Bearer bw.admin.x",
    "too long": "Bearer bw.admin.x.y.z.z",
    "not ASCII": "Bearer \xff",
}


@pytest.mark.parametrize("given", NOBODY.values(), ids=NOBODY.keys())
def test_everything_else_is_nobody(given: str | None) -> None:
    with pytest.raises(Unauthenticated) as error:
        authenticate(STATE, given)
    assert TOKENS["admin"].secret not in error.value.detail


def test_whoever_has_not_the_secret_learns_nothing() -> None:
    reasons = set()
    for known in (*TOKENS.values(), EXPIRED, ONCE, new_token("admin")):
        with pytest.raises(TokenRefused) as error:
            authenticate(STATE, header(Token(known.role, known.id, "0" * 64)))
        reasons.add((error.value.detail, error.value.reason))
    assert len(reasons) == 1


def test_whoever_has_it_is_told_why_it_is_no_good() -> None:
    for token, reason in ((EXPIRED, "expired"), (ONCE, "wrong_kind")):
        with pytest.raises(TokenRefused) as error:
            authenticate(STATE, header(token))
        assert error.value.reason == reason


def test_a_node_that_was_given_up_is_told_so_and_nobody_else_under_its_name() -> None:
    token = new_token("node")
    value = {"at": 1, "token_sha256": token.hashed, "by": "p1", "before": 812}
    state = accept_entry(STATE, commit_of(Change(kind="setting", id=removed_key("p7"), spec={"value": value}))).state
    with pytest.raises(TokenRefused, match="p1 went on without p7") as error:
        authenticate(state, header(Token("node", "p7", token.secret)))
    assert error.value.reason == "given_up"
    with pytest.raises(TokenRefused) as error:
        authenticate(state, header(Token("node", "p7", "0" * 64)))
    assert (error.value.detail, error.value.reason) == (TOKEN_NOT_GOOD, "unknown")


@pytest.mark.parametrize(
    ("text", "kind", "reason"),
    [
        (header(ONCE), "node", "wrong_kind"),
        (header(TOKENS["admin"]), "agent", "wrong_kind"),
        (header(Token("agent", ONCE.id, "0" * 64)), "agent", "unknown"),
        (header(Token("node", ONCE.id, "0" * 64)), "node", "unknown"),
        (header(Token("agent", "db1", TOKENS["agent"].secret)), "agent", "unknown"),
        (header(Token("admin", ONCE.id, ONCE.secret)), "agent", "unknown"),
    ],
    ids=["another role", "an administrator", "a wrong secret", "a node", "an agent of the fleet", "a wrong role"],
)
def test_newcomers_with_another_token(text: str, kind: str, reason: str) -> None:
    with pytest.raises(TokenRefused) as error:
        newcomer(STATE, text, kind)
    assert error.value.reason == reason


def test_a_newcomer_with_a_good_one() -> None:
    assert newcomer(STATE, header(ONCE), "agent") == Principal(f"token:{ONCE.id}", "newcomer:agent")


@pytest.mark.parametrize(
    ("prefix", "path", "covered"),
    [
        ("/instances/db1", "/instances/db1", True),
        ("/instances/db1", "/instances/db1/databases/x", True),
        ("/instances/db1", "/instances/db10", False),
        ("/instances/db1", "/instances", False),
        ("/settings/user.app", "/settings/user.app", True),
        ("/settings/user.app", "/settings/user.app.x", False),
        ("/settings/user.app*", "/settings/user.app.x", True),
        ("/settings/user.app*", "/settings/user.ap", False),
        ("/settings/user.app*", "/settings/user.app/x", False),
    ],
)
def test_a_scope_ends_where_a_segment_ends(prefix: str, path: str, covered: bool) -> None:
    assert covers(prefix, path) is covered


def test_each_role_may_what_the_ones_below_it_may() -> None:
    order: list[Rule] = ["agent", "viewer", "operator", "admin"]
    for rank, role in enumerate(order):
        for needed in order[: rank + 1]:
            Policy(needed).check(Principal("x", role), {})
        for needed in order[rank + 1 :]:
            with pytest.raises(Forbidden, match=needed):
                Policy(needed).check(Principal("x", role), {})
    Policy("admin").check(Principal("x", "node"), {})


def test_what_is_for_nodes_is_for_nobody_else() -> None:
    Policy("node").check(Principal("node:p2", "node"), {})
    for role in ("agent", "viewer", "operator", "admin", "newcomer:node"):
        with pytest.raises(Forbidden):
            Policy("node").check(Principal("x", role), {})


def test_a_one_time_token_opens_one_door_only() -> None:
    rules: list[Rule] = ["viewer", "operator", "admin", "node", "agent", "newcomer:node"]
    Policy("newcomer:agent").check(Principal("token:x", "newcomer:agent"), {})
    for rule in rules:
        with pytest.raises(Forbidden):
            Policy(rule).check(Principal("token:x", "newcomer:agent"), {})
