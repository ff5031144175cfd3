"""Users and their sessions, on the real application: who gets in, for how long, and what ends it."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from provider.api.access.sessions import COOKIE, LIFETIME_S, PREFIX, Session, begin
from provider.api.access.throttle import PAIR, Throttle
from provider.core.commands import EndSession
from provider.core.documents import SessionSpec
from shared.tokens import new_token
from tests.support.apis import ApiNode, Said, later_ms

PASSWORD, OTHER = "correct horse battery", "another good password"
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiNode]:
    with ApiNode(tmp_path_factory.mktemp("p1")) as node:
        yield node


@pytest.fixture
def p1(running: ApiNode) -> Iterator[ApiNode]:
    """With users ann (viewer), otto (operator) and ada (admin)."""
    running.context.throttle = Throttle()
    for name, role in (("ann", "viewer"), ("otto", "operator"), ("ada", "admin")):
        assert running.ask("PUT", f"/users/{name}", {"role": role, "password": PASSWORD}).status == 201
    yield running
    for user in running.state.of("user"):
        running.ask("DELETE", f"/users/{user.id}")


def login(node: ApiNode, name: str, password: str = PASSWORD, **options: Any) -> Said:
    return node.ask("POST", "/login", {"name": name, "password": password}, token=None, **options)


def session(node: ApiNode, name: str, password: str = PASSWORD) -> str:
    said = login(node, name, password)
    assert said.status == 200, said
    return str(said.json["token"])


def works(node: ApiNode, token: str) -> bool:
    status = node.ask("GET", "/cluster", token=token).status
    assert status in (200, 401)
    return status == 200


# ── users ──


def test_a_user_is_shown_without_the_password(p1: ApiNode) -> None:
    for said in (p1.ask("GET", "/users/ann"), p1.ask("GET", "/users"), p1.ask("GET", "/events?after=1&follow=false")):
        assert said.status == 200
        assert b"argon2" not in said.body
        assert PASSWORD.encode() not in said.body
    document = p1.state.get("user", "ann")
    assert document is not None
    assert document.spec["password_hash"].startswith("$argon2id$")
    assert p1.ask("GET", "/users/ann").json["spec"]["role"] == "viewer"


@pytest.mark.parametrize(
    ("name", "body", "status"),
    [
        ("new", {"role": "viewer"}, 422),
        ("new", {"role": "root", "password": PASSWORD}, 422),
        ("new", {"role": "viewer", "password": "too short"}, 422),
        ("New", {"role": "viewer", "password": PASSWORD}, 422),
        ("a-very-long-name", {"role": "viewer", "password": "A-Very-Long-Name"}, 422),
        ("ann", {"role": "viewer"}, 200),
        ("ann.smith@example.org", {"role": "viewer", "password": PASSWORD}, 201),
    ],
)
def test_what_makes_a_user(p1: ApiNode, name: str, body: object, status: int) -> None:
    assert p1.ask("PUT", f"/users/{name}", body).status == status


def test_preconditions_count_for_users_too(p1: ApiNode) -> None:
    assert p1.ask("PUT", "/users/ann", {"role": "admin"}, headers={"If-None-Match": "*"}).status == 412
    assert p1.ask("DELETE", "/users/ann", headers={"If-Match": '"1"'}).status == 412


# ── sessions ──


def test_a_session_has_the_users_role_and_says_when_it_ends(p1: ApiNode) -> None:
    said = login(p1, "otto")
    assert said.json["token"].startswith(PREFIX)
    assert (said.json["user"], said.json["role"]) == ("otto", "operator")
    assert said.headers["cache-control"] == "no-store"
    token = said.json["token"]
    assert p1.ask("PUT", "/settings/user.x", {"value": 1}, token=token).status in (200, 201)
    assert p1.ask("GET", "/tokens", token=token).code == "forbidden"
    shown = p1.ask("GET", "/session", token=token).json
    assert (shown["principal"], shown["role"], shown["csrf"]) == ("user:otto", "operator", said.json["csrf"])
    assert shown["expires_at"] == said.json["expires_at"]


@pytest.mark.parametrize(("name", "password"), [("ann", OTHER), ("nobody", PASSWORD), ("ann", ""), ("", PASSWORD)])
def test_a_login_that_is_not_good(p1: ApiNode, name: str, password: str) -> None:
    said = login(p1, name, password)
    assert (said.status, said.json["detail"]) == (401, "name or password is wrong")


def test_a_form_of_another_page_logs_nobody_in(p1: ApiNode) -> None:
    said = login(p1, "ann", headers={"Content-Type": "text/plain"})
    assert said.status == 422
    assert "set-cookie" not in said.headers


def test_what_ends_a_session(p1: ApiNode) -> None:
    for end in (
        ("DELETE", "/users/ann/sessions", None),
        ("PUT", "/users/ann", {"role": "operator"}),
        ("PUT", "/users/ann/password", {"password": OTHER}),
        ("DELETE", "/users/ann", None),
    ):
        p1.ask("PUT", "/users/ann", {"role": "viewer", "password": PASSWORD})
        token, others = session(p1, "ann"), session(p1, "otto")
        assert works(p1, token)
        assert p1.ask(*end).status in (200, 204), end
        assert not works(p1, token), end
        assert works(p1, others)
    assert p1.ask("PUT", "/users/ann", {"role": "viewer", "password": PASSWORD}).status == 201
    assert not works(p1, token), "another user of that name is another one"


def test_logging_out_ends_one_session_of_several(p1: ApiNode) -> None:
    one, other = session(p1, "ann"), session(p1, "ann")
    said = p1.ask("DELETE", "/session", token=one)
    assert said.status == 204
    assert "Max-Age=0" in said.headers["set-cookie"]
    assert not works(p1, one)
    assert works(p1, other)
    assert p1.ask("DELETE", "/session").code == "refused", "a token is revoked, not logged out"


def test_a_session_ends_with_its_time(p1: ApiNode) -> None:
    user = p1.state.get("user", "ann")
    assert user is not None
    assert works(p1, begin(user, later_ms(-LIFETIME_S + 60)).text(p1.vault))
    assert not works(p1, begin(user, later_ms(-LIFETIME_S - 1)).text(p1.vault))


def test_a_session_that_was_altered_is_none(p1: ApiNode) -> None:
    token = session(p1, "ann")
    payload, signature = token.removeprefix(PREFIX).split(".")
    user = p1.state.get("user", "ada")
    assert user is not None
    forged = Session("0" * 32, "ada", user.wish, later_ms(60)).text(p1.vault)
    for bad in (
        f"{PREFIX}{payload}.{'0' * 64}",
        f"{PREFIX}{payload}.",
        f"{PREFIX}{payload}",
        f"{PREFIX}.{signature}",
        PREFIX,
        f"{PREFIX}{forged.removeprefix(PREFIX).split('.')[0]}.{signature}",
        token + "0",
        PREFIX + "x" * 2000,
        f"{PREFIX}é.{signature}".encode().decode("latin-1"),
    ):
        assert not works(p1, bad), bad
    assert works(p1, token)


def test_ended_sessions_are_forgotten_when_their_time_is_over(p1: ApiNode) -> None:
    p1.commit(EndSession("old", SessionSpec(user="ann", expires_at=1)))
    assert p1.state.get("session", "old") is not None
    p1.ask("DELETE", "/session", token=session(p1, "ann"))
    assert p1.state.get("session", "old") is None


# ── passwords ──


def test_people_change_their_own_password_with_the_old_one(p1: ApiNode) -> None:
    token = session(p1, "ann")
    where = "/users/ann/password"
    assert p1.ask("PUT", where, {"password": OTHER}, token=token).status == 422
    assert p1.ask("PUT", where, {"password": OTHER, "old_password": OTHER}, token=token).code == "forbidden"
    assert p1.ask("PUT", where, {"password": "short", "old_password": PASSWORD}, token=token).status == 422
    assert p1.ask("PUT", where, {"password": OTHER, "old_password": PASSWORD}, token=token).status == 200
    assert not works(p1, token)
    assert login(p1, "ann").status == 401
    assert login(p1, "ann", OTHER).status == 200


def test_nobody_changes_what_is_somebody_elses(p1: ApiNode) -> None:
    token = session(p1, "otto")
    body = {"password": OTHER, "old_password": PASSWORD}
    assert p1.ask("PUT", "/users/ann/password", body, token=token).code == "forbidden"
    assert p1.ask("DELETE", "/users/ann/sessions", token=token).code == "forbidden"
    assert p1.ask("DELETE", "/users/otto/sessions", token=token).status == 204
    admin = session(p1, "ada")
    assert p1.ask("DELETE", "/users/ann/sessions", token=admin).status == 204
    assert p1.ask("PUT", "/users/ann/password", {"password": OTHER}, token=admin).status == 200
    assert p1.ask("PUT", "/users/nobody/password", {"password": OTHER}, token=admin).status == 404


# ── cookies ──


def test_a_browser_reads_with_its_cookie_and_writes_with_a_header_too(p1: ApiNode) -> None:
    said = login(p1, "otto")
    given = said.headers["set-cookie"]
    for attribute in ("Path=/", "Secure", "HttpOnly", "SameSite=Strict", f"Max-Age={LIFETIME_S}"):
        assert attribute in given.split("; ")
    assert "Domain" not in given
    cookie = {"Cookie": f"theme=dark; {COOKIE}={said.json['token']}; x=y"}
    assert p1.ask("GET", "/cluster", token=None, headers=cookie).status == 200

    def put(**headers: str) -> Said:
        return p1.ask("PUT", "/settings/user.c", {"value": 1}, token=None, headers={**cookie, **headers})

    assert put().code == "forbidden"
    assert put(**{"Bellwether-Csrf": "0" * 64}).code == "forbidden"
    assert put(**{"Bellwether-Csrf": login(p1, "otto").json["csrf"]}).code == "forbidden", "that of another session"
    assert put(**{"Bellwether-Csrf": said.json["csrf"]}).status in (200, 201)
    assert p1.ask("DELETE", "/session", token=None, headers=cookie).code == "forbidden"
    out = p1.ask("DELETE", "/session", token=None, headers={**cookie, "Bellwether-Csrf": said.json["csrf"]})
    assert out.status == 204
    assert p1.ask("GET", "/cluster", token=None, headers=cookie).status == 401
    assert put(**{"Bellwether-Csrf": said.json["csrf"]}).status == 401


@pytest.mark.parametrize("cookie", ["", COOKIE, f"{COOKIE}=", f"{COOKIE}=nonsense", "other=x", f"{COOKIE}={PREFIX}x.y"])
def test_cookies_that_are_no_session(p1: ApiNode, cookie: str) -> None:
    for method in ("GET", "DELETE"):
        assert p1.ask(method, "/session", token=None, headers={"Cookie": cookie}).status == 401


def test_a_token_in_the_header_counts_and_the_cookie_beside_it_does_not(p1: ApiNode) -> None:
    cookie = {"Cookie": f"{COOKIE}={session(p1, 'ada')}"}
    assert p1.ask("GET", "/cluster", token=new_token("admin").text(), headers=cookie).status == 401


# ── guessing ──


def test_whoever_guesses_waits_and_others_do_not(p1: ApiNode) -> None:
    evil, home = "203.0.113.9", "192.0.2.1"
    for _ in range(PAIR.free):
        assert login(p1, "ann", OTHER, source=evil).status == 401
    said = login(p1, "ann", PASSWORD, source=evil)
    assert (said.status, said.code) == (429, "too_many_requests")
    assert 1 <= int(said.headers["retry-after"]) <= 2
    assert "try again after" in said.json["detail"]
    assert login(p1, "ann", source=home).status == 200
    assert login(p1, "otto", source=evil).status == 200


def test_old_passwords_cannot_be_guessed_either(p1: ApiNode) -> None:
    token = session(p1, "ann")
    body = {"password": OTHER, "old_password": "wrong wrong wrong"}
    statuses = [p1.ask("PUT", "/users/ann/password", body, token=token).status for _ in range(PAIR.free + 1)]
    assert statuses == [403] * PAIR.free + [429]


def test_no_file_of_the_node_holds_a_password(p1: ApiNode, running: ApiNode) -> None:
    login(p1, "ann")
    login(p1, "ann", OTHER)
    found = [path for path in Path(running.settings.data_dir).parent.rglob("*") if path.is_file()]
    assert found
    for path in found:
        content = path.read_bytes()
        assert PASSWORD.encode() not in content
        assert json.dumps(PASSWORD).encode() not in content


# ── what a login costs ──


@contextmanager
def hashes(node: ApiNode) -> Iterator[list[str]]:
    """The hashes that passwords are compared with by the node's own hasher, within this block."""
    hasher = node.context.passwords._hasher
    compared: list[str] = []

    class Counting:
        def verify(self, hashed: str, password: bytes) -> bool:
            compared.append(hashed)
            return bool(hasher.verify(hashed, password))

        def __getattr__(self, name: str) -> Any:
            return getattr(hasher, name)

    node.context.passwords._hasher = Counting()  # type: ignore[assignment]
    try:
        yield compared
    finally:
        node.context.passwords._hasher = hasher


@pytest.mark.parametrize(
    "password", ["wrong", "", "x" * 256, "\u00e9" * 256, PASSWORD + " "], ids=["wrong", "none", "long", "wide", "near"]
)
def test_it_costs_as_much_for_somebody_as_for_nobody(p1: ApiNode, password: str) -> None:
    """One hash with the same parameters, and the same answer: nobody learns who is a user."""
    with hashes(p1) as compared:
        answers = [login(p1, name, password) for name in ("ann", "nobody", "ANN", "ada", "' or 1=1", "\u0430nn")]
    assert {(said.status, said.body) for said in answers} == {(401, answers[0].body)}
    assert len(compared) == len(answers)
    assert len({hashed.rpartition("$")[0].rpartition("$")[0] for hashed in compared}) == 1, "the parameters differ"
    with hashes(p1) as compared:
        session(p1, "ann")
    assert len(compared) == 1


def test_what_is_refused_before_costs_nothing(p1: ApiNode) -> None:
    with hashes(p1) as compared:
        assert login(p1, "ann", "x" * 257).status == login(p1, "nobody", "x" * 257).status == 422
        assert login(p1, "x" * 65).status == 422
        assert compared == []
        for name in ("ann", "nobody"):
            answers = [login(p1, name, "wrong", source="192.0.2.77") for _ in range(PAIR.free)]
            assert [said.status for said in answers] == [401] * PAIR.free
        assert len(compared) == 2 * PAIR.free
        for name in ("ann", "nobody"):
            shut_out(p1, name, "192.0.2.77")
            assert login(p1, name, "wrong", source="192.0.2.77").status == 429
        assert login(p1, "ann", PASSWORD, source="192.0.2.77").status == 429, "the right one is not looked at, either"
        assert len(compared) == 2 * PAIR.free


def shut_out(node: ApiNode, name: str, address: str) -> None:
    """More failures, each after the wait that it takes, until the next would have to wait for ten minutes."""
    throttle, now_s = node.context.throttle, time.monotonic()
    while (wait_s := throttle.attempt(name, address, now_s)) < 600:
        now_s += wait_s
