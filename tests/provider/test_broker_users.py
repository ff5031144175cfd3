"""The broker's users follow from the state. The management API is a small one of our own, over real HTTPS."""

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import pytest
import trustme
from localcluster.process import wait_until
from loguru import logger

from provider.broker_users import SWEEP_S, TAG, BrokerUsers, Management
from provider.core.state import State
from tests.support.fleets import agent_change, genesis

PATIENCE_S = 20.0
AUTHORITY = trustme.CA()


class Broker:
    """What the management API knows; `answer`, where it is set, is all that it says."""

    def __init__(self) -> None:
        self.users: dict[str, dict[str, str]] = {"bellwether": {"password_hash": "p", "tags": "administrator"}}
        self.permissions: dict[str, dict[str, str]] = {}
        self.topic_permissions: dict[str, dict[str, str]] = {}
        self.answer: tuple[int, bytes] | None = None
        self.calls: list[str] = []
        broker = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Not to stderr."""

            def do(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                status, data = broker.serve(self.command, self.path, body)
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_PUT = do_DELETE = do  # noqa: N815

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

    def serve(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        self.calls.append(f"{method} {path}")
        if self.answer is not None:
            return self.answer
        what, *rest = path.removeprefix("/api/").partition("?")[0].split("/")
        match method, what, [unquote(part) for part in rest]:
            case "GET", "users", []:
                return 200, json.dumps([{"name": name, **user} for name, user in self.users.items()]).encode()
            case "GET", "vhosts", ["bellwether", "topic-permissions"]:
                return 200, json.dumps([{"user": name} for name in self.topic_permissions]).encode()
            case "PUT", "users", [name]:
                self.users[name] = json.loads(body)
            case "PUT", "permissions", ["bellwether", name]:
                self.permissions[name] = json.loads(body)
            case "PUT", "topic-permissions", ["bellwether", name]:
                self.topic_permissions[name] = json.loads(body)
            case "DELETE", "users", [name]:
                for kept in (self.users, self.permissions, self.topic_permissions):
                    kept.pop(name, None)
            case _:
                return 404, b""
        return 204, b""


@pytest.fixture
def broker() -> Iterator[Broker]:
    broker = Broker()
    yield broker
    broker.close()


class Sight:
    """The state that the thread looks at."""

    def __init__(self, state: State) -> None:
        self.state = state


@pytest.fixture
def sight() -> Sight:
    return Sight(genesis(agent_change("db1"), agent_change("db2")))


@pytest.fixture
def users(broker: Broker, sight: Sight) -> Iterator[BrokerUsers]:
    tls = ssl.create_default_context()
    AUTHORITY.configure_trust(tls)
    management = Management(broker.url, "bellwether", "secret", tls)
    users = BrokerUsers(node="p1", vhost="bellwether", management=management, state=lambda: sight.state)
    yield users
    users.stop()


@pytest.fixture
def lines() -> Iterator[list[str]]:
    found: list[str] = []
    sink = logger.add(lambda message: found.append(str(message)), level="WARNING", format="{message} {extra}")
    yield found
    logger.remove(sink)


def until(condition: Callable[[], object], what: str) -> None:
    wait_until(condition, timeout_s=PATIENCE_S, what=what)


def agents(broker: Broker) -> set[str]:
    return {name for name, user in broker.users.items() if user["tags"] == TAG}


def test_each_agent_has_a_user_with_the_least_that_it_needs(broker: Broker, users: BrokerUsers) -> None:
    users.start()
    assert users.wait_ready("db1", PATIENCE_S)
    assert agents(broker) == {"db1", "db2"}
    assert broker.users["db1"]["password_hash"] == "y"
    assert broker.permissions["db1"]["configure"] == r"^agent\.db1\..*$"
    assert broker.topic_permissions["db1"] == {"exchange": "agents.down", "write": "^$", "read": "^(db1|all)$"}
    assert not users.wait_ready("db3", 0.01)


def test_who_is_enrolled_or_removed_later_is_seen_to_at_once(broker: Broker, users: BrokerUsers, sight: Sight) -> None:
    users.start()
    assert users.wait_ready("db2", PATIENCE_S)
    sight.state = genesis(agent_change("db2"), agent_change("db3"))
    users.look_again()
    assert users.wait_ready("db3", PATIENCE_S)
    assert agents(broker) == {"db2", "db3"}


def test_a_broker_that_lost_everything_has_it_again(broker: Broker, users: BrokerUsers) -> None:
    users.start()
    assert users.wait_ready("db1", PATIENCE_S)
    for kept in (broker.users, broker.permissions, broker.topic_permissions):
        kept.clear()
    users.look_again()  # which it does by itself, too, twice a minute
    until(lambda: set(broker.topic_permissions) == {"db1", "db2"}, "nobody is made again")
    assert SWEEP_S <= 30.0


def test_a_standby_changes_nothing(broker: Broker, users: BrokerUsers, sight: Sight) -> None:
    sight.state = State.genesis(generation="g", primary="p2", now=1)
    users.start()
    users.look_again()
    assert not users.wait_ready("db1", 0.1)
    assert broker.calls == []


def test_a_user_of_that_name_that_is_not_ours_is_left_alone_and_said(
    broker: Broker, users: BrokerUsers, lines: list[str]
) -> None:
    broker.users["db1"] = {"password_hash": "theirs", "tags": "monitoring"}
    users.start()
    assert users.wait_ready("db2", PATIENCE_S)
    assert broker.users["db1"] == {"password_hash": "theirs", "tags": "monitoring"}
    assert any("not ours" in line and "db1" in line for line in lines)


@pytest.mark.parametrize(
    "answer",
    [
        (401, b""),
        (500, b"oops"),
        (200, b"<html>"),
        (200, b'{"error": 1}'),
        (200, b'[{"name": 1}]'),
        (200, b"[1]"),
        (204, b""),
    ],
    ids=["401", "500", "HTML", "an error", "no tags", "numbers", "nothing"],
)
def test_whatever_the_management_api_says_it_is_asked_again_and_works_when_it_does(
    broker: Broker, users: BrokerUsers, lines: list[str], answer: tuple[int, bytes]
) -> None:
    broker.answer = answer
    users.start()
    until(lambda: lines, "nothing is said of it")
    assert "trying again" in lines[0]
    broker.answer = None
    users.look_again()
    assert users.wait_ready("db1", PATIENCE_S)
