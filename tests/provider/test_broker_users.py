"""The broker's users follow from the state. The management API is a small one of our own, over real HTTPS."""

import base64
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

import pytest
import trustme
from localcluster.process import wait_until

from provider.broker.management import Management
from provider.broker.reconciler import SWEEP_S, BrokerUsers
from provider.broker.users import AGENT_TAG, NODE_TAG
from provider.core.entries import Change
from provider.core.state import State
from provider.trust.vault import Unsealable
from tests.support.fleets import agent_change, genesis

PATIENCE_S = 20.0
AUTHORITY = trustme.CA()


class Broker:
    """What the management API knows; `answer`, where it is set, is all that it says."""

    def __init__(self) -> None:
        self.users: dict[str, dict[str, Any]] = {"bellwether": {"password_hash": "p", "tags": ["administrator"]}}
        self.passwords = {"bellwether": "secret"}
        self.permissions: dict[str, dict[str, Any]] = {}
        self.exchanges: set[str] = set()
        self.topic_permissions: dict[str, dict[str, Any]] = {}
        self.vhosts = {"bellwether"}
        self.cut: list[str] = []
        self.answer: tuple[int, bytes] | None = None
        self.calls: list[str] = []
        broker = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Not to stderr."""

            def do(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                status, data = broker.serve(self.command, self.path, body, self.headers["Authorization"])
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_PUT = do_POST = do_DELETE = do  # noqa: N815

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        AUTHORITY.issue_cert("127.0.0.1").configure_cert(tls)
        self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.url = f"https://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def serve(self, method: str, path: str, body: bytes, authorization: str) -> tuple[int, bytes]:
        self.calls.append(f"{method} {path}")
        if self.answer is not None:
            return self.answer
        given = base64.b64decode(authorization.removeprefix("Basic ")).decode().partition(":")
        if self.passwords.get(given[0]) != given[2]:
            return 401, b""
        what, *rest = path.removeprefix("/api/").partition("?")[0].split("/")
        where = [unquote(part) for part in rest]
        if method == "GET":
            found = self._read(what, where)
            return (404, b"") if found is None else (200, json.dumps(found).encode())
        return (204 if self._change(method, what, where, json.loads(body) if body else None) else 404), b""

    def _read(self, what: str, where: list[str]) -> object:
        match what, where:
            case "users", []:
                return [{"name": name, **user} for name, user in self.users.items()]
            case "users", [name]:
                return {"name": name, **self.users[name]} if name in self.users else None
            case "permissions", []:
                return list(self.permissions.values())
            case "topic-permissions", []:
                return list(self.topic_permissions.values())
            case "vhosts", [name]:
                return {} if name in self.vhosts else None
        return {} if what == "whoami" else None

    def _change(self, method: str, what: str, where: list[str], body: Any) -> bool:
        match method, what, where:
            case "PUT", "vhosts", [name]:
                self.vhosts.add(name)
            case "PUT", "users", [name]:
                self.passwords[name] = body["password"]
                self.users[name] = {"password_hash": "p", "tags": body["tags"].split(",")}
            case "POST", "definitions", []:
                self._define(body)
            case "POST", "users", ["bulk-delete"]:
                for name in body["users"]:
                    self._forget(name)
            case "DELETE", "connections", ["username", name]:
                self.cut.append(name)
            case _:
                return False
        return True

    def _define(self, given: dict[str, Any]) -> None:
        self.exchanges |= {one["name"] for one in given.get("exchanges", ())}
        for user in given.get("users", ()):
            self.users[user["name"]] = {**user, "tags": user["tags"].split(",")}
        self.permissions |= {one["user"]: one for one in given.get("permissions", ())}
        topics = given.get("topic_permissions", ())
        assert {one["exchange"] for one in topics} <= self.exchanges, "RabbitMQ could not make these exchanges any more"
        self.topic_permissions |= {f"{one['user']} {one['exchange']}": one for one in topics}

    def _forget(self, name: str) -> None:
        self.users.pop(name)
        for kept in (self.permissions, self.topic_permissions):
            for key in [key for key, one in kept.items() if one["user"] == name]:
                del kept[key]


@pytest.fixture
def broker() -> Iterator[Broker]:
    broker = Broker()
    yield broker
    broker.close()


class Sight:
    """What the thread looks at."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.suspended: set[str] = set()
        self.credentials = [("bellwether", "secret")]
        self.sealed: list[str] = []
        """Why they cannot be opened yet, each time that they are asked for."""

    def opened(self) -> list[tuple[str, str]]:
        if self.sealed:
            raise Unsealable(self.sealed.pop(0))
        return self.credentials


@pytest.fixture
def sight() -> Sight:
    return Sight(genesis(agent_change("db1"), agent_change("db2")))


StartUsers = Callable[..., BrokerUsers]


@pytest.fixture
def start_users(broker: Broker, sight: Sight) -> Iterator[StartUsers]:
    made: list[BrokerUsers] = []

    def start(node: str = "p1") -> BrokerUsers:
        tls = ssl.create_default_context()
        AUTHORITY.configure_trust(tls)
        made.append(
            BrokerUsers(
                node=node,
                vhost="bellwether",
                management=Management(broker.url, lambda: tls, sight.opened),
                state=lambda: sight.state,
                suspended=lambda: sight.suspended,
            )
        )
        made[-1].start()
        return made[-1]

    yield start
    for users in made:
        users.stop()


def until(condition: Callable[[], object], what: str) -> None:
    wait_until(condition, timeout_s=PATIENCE_S, what=what)


def agents(broker: Broker) -> set[str]:
    return {name for name, user in broker.users.items() if user["tags"] == [AGENT_TAG]}


def node_change(name: str, password_hash: str) -> Change:
    return Change(kind="node", id=name, spec={"url": f"https://{name}:1", "broker_password_hash": password_hash})


def test_each_agent_has_a_user_with_the_least_that_it_needs(broker: Broker, start_users: StartUsers) -> None:
    users = start_users()
    assert users.wait_ready("db1", PATIENCE_S)
    assert agents(broker) == {"db1", "db2"}
    assert broker.users["db1"]["password_hash"] == "y"
    assert broker.users["db1"]["limits"] == {"max-connections": 4, "max-channels": 16}
    assert broker.permissions["db1"]["configure"] == r"^agent\.db1\..*$"
    limited = {"user": "db1", "vhost": "bellwether", "exchange": "agents.down", "write": "^$", "read": "^(db1|all)$"}
    assert broker.topic_permissions["db1 agents.down"] == limited
    limited |= {"exchange": "agents.up", "write": r"^([^.]*|[a-z_]+\.db1)$", "read": "^$"}
    assert broker.topic_permissions["db1 agents.up"] == limited
    assert users.has("db1", "y")
    assert not users.has("db1", "another")
    assert not users.wait_ready("db3", 0.01)


def test_a_credential_that_cannot_be_opened_yet_is_asked_for_again(
    broker: Broker, start_users: StartUsers, sight: Sight, lines: list[str]
) -> None:
    """The state may be here a moment before the key that seals what is in it."""
    sight.sealed = ["sealed with a key that is on its way"]
    assert start_users().wait_ready("db1", PATIENCE_S)
    assert any("on its way" in line for line in lines)


def test_a_node_with_a_password_of_its_own_has_a_user_that_administers_nothing(
    broker: Broker, start_users: StartUsers, sight: Sight
) -> None:
    sight.state = genesis(node_change("p2", "h2"))
    assert start_users().wait_ready("node.p2", PATIENCE_S)
    assert broker.users["node.p2"]["tags"] == [NODE_TAG]
    assert broker.permissions["node.p2"]["read"] == ".*"
    assert "node.p1" not in broker.users


def test_who_is_enrolled_or_removed_later_is_seen_to_at_once_and_alone(
    broker: Broker, start_users: StartUsers, sight: Sight
) -> None:
    users = start_users()
    assert users.wait_ready("db2", PATIENCE_S)
    broker.calls.clear()
    sight.state = genesis(agent_change("db2"), agent_change("db3"))
    users.look_again(["db1", "db3"])
    assert users.wait_ready("db3", PATIENCE_S)
    until(lambda: agents(broker) == {"db2", "db3"}, "db1 is still there")
    assert not any(call.startswith("GET /api/permissions") for call in broker.calls)
    until(lambda: "db1" in broker.cut, "a connection that was just being made is left open")


def test_who_is_suspended_is_off_the_broker_until_it_is_not(
    broker: Broker, start_users: StartUsers, sight: Sight
) -> None:
    users = start_users()
    assert users.wait_ready("db2", PATIENCE_S)
    sight.suspended = {"db1"}
    users.look_again(["db1"])
    until(lambda: agents(broker) == {"db2"}, "db1 is not suspended")
    users.look_again()
    users.look_again(["db2"])
    sight.suspended = set()
    users.look_again(["db1"])
    until(lambda: agents(broker) == {"db1", "db2"}, "db1 does not come back")


def test_a_broker_that_lost_everything_has_it_again(broker: Broker, start_users: StartUsers) -> None:
    users = start_users()
    assert users.wait_ready("db1", PATIENCE_S)
    for kept in (broker.users, broker.permissions, broker.topic_permissions):
        kept.clear()
    broker.vhosts.clear()
    users.look_again()  # which it does by itself, too, twice a minute
    until(lambda: len(broker.topic_permissions) == 4, "nobody is made again")
    assert broker.vhosts == {"bellwether"}
    assert SWEEP_S <= 30.0


def _more_rights(broker: Broker) -> None:
    broker.permissions["db1"]["read"] = ".*"


def _another_topic(broker: Broker) -> None:
    broker.topic_permissions["db1 agents.down"]["read"] = ".*"


def _administrator(broker: Broker) -> None:
    broker.users["db1"]["tags"].append("administrator")


def _elsewhere(broker: Broker) -> None:
    broker.permissions["another"] = broker.permissions["db1"] | {"vhost": "/"}


def _no_limits(broker: Broker) -> None:
    broker.users["db1"]["limits"] = {}


def _half_made(broker: Broker) -> None:
    del broker.topic_permissions["db1 agents.up"]


@pytest.mark.parametrize(
    "tamper",
    [_more_rights, _another_topic, _administrator, _elsewhere, _no_limits, _half_made],
    ids=lambda f: f.__name__,
)
def test_rights_that_are_not_ours_are_taken_back_and_the_others_left_alone(
    broker: Broker, start_users: StartUsers, tamper: Callable[[Broker], None]
) -> None:
    users = start_users()
    assert users.wait_ready("db1", PATIENCE_S)
    assert users.wait_ready("db2", PATIENCE_S)

    def everything() -> str:
        return json.dumps([broker.users, broker.permissions, broker.topic_permissions], sort_keys=True)

    good = everything()
    untouched = broker.users["db2"]
    tamper(broker)
    users.look_again()
    until(lambda: everything() == good, "it is not mended")
    assert broker.users["db2"] is untouched


def test_a_standby_changes_nothing(broker: Broker, start_users: StartUsers, sight: Sight) -> None:
    users = start_users("p2")
    users.look_again()
    users.look_again(["db1"])
    assert not users.wait_ready("db1", 0.1)
    assert broker.calls == []


def test_a_standby_that_is_refused_makes_its_own_user_and_no_other(
    broker: Broker, start_users: StartUsers, sight: Sight
) -> None:
    sight.state = genesis(agent_change("db1"), node_change("p1", "h1"), node_change("p2", "h2"))
    broker.vhosts.clear()
    start_users("p2").refused()
    until(lambda: "node.p2" in broker.users, "it is locked out")
    assert broker.users.keys() == {"bellwether", "node.p2"}
    assert broker.vhosts == {"bellwether"}


def test_a_password_that_the_broker_does_not_know_yet_becomes_its_own(
    broker: Broker, start_users: StartUsers, sight: Sight
) -> None:
    broker.users["bellwether"]["tags"] = ["administrator", "policymaker"]
    sight.credentials = [("bellwether", "newest"), ("bellwether", "older"), ("bellwether", "secret")]
    assert start_users().wait_ready("db1", PATIENCE_S)
    assert broker.passwords["bellwether"] == "newest"
    assert broker.users["bellwether"]["tags"] == ["administrator", "policymaker"]


def test_a_user_of_that_name_that_is_not_ours_is_left_alone_and_said_once(
    broker: Broker, start_users: StartUsers, lines: list[str]
) -> None:
    broker.users["db1"] = {"password_hash": "theirs", "tags": ["monitoring"]}
    users = start_users()
    assert users.wait_ready("db2", PATIENCE_S)
    users.look_again(["db1"])
    until(lambda: "GET /api/users/db1" in broker.calls, "it is not looked at")
    assert broker.users["db1"] == {"password_hash": "theirs", "tags": ["monitoring"]}
    assert len([line for line in lines if "not ours" in line and "db1" in line]) == 1


@pytest.mark.parametrize(
    "answer",
    [
        (401, b""),
        (500, b"oops"),
        (200, b"<html>"),
        (200, b'{"error": 1}'),
        (200, b'[{"name": 1}]'),
        (200, b"[1]"),
        (200, b"[" * 100_000),
        (204, b""),
    ],
    ids=["401", "500", "HTML", "an error", "no tags", "numbers", "deep", "nothing"],
)
def test_whatever_the_management_api_says_it_is_asked_again_and_works_when_it_does(
    broker: Broker, start_users: StartUsers, lines: list[str], answer: tuple[int, bytes]
) -> None:
    broker.answer = answer
    users = start_users()
    until(lambda: lines, "nothing is said of it")
    assert "trying again" in lines[0]
    broker.answer = None
    users.look_again()
    assert users.wait_ready("db1", PATIENCE_S)
