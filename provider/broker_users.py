"""A broker user for each agent, with the least that it needs: worked out from the state, made so on the broker.

The broker is disposable, so nothing is remembered here: what the broker has is compared with what the state says, and
the difference is mended. Users that are no agents' (the providers' own, an operator's) are left alone: ours carry a
tag.
"""

import re
import ssl
import threading
from base64 import b64encode
from collections.abc import Callable
from http.client import HTTPException
from json import dumps, loads
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import HTTPSHandler, Request, build_opener

from provider.core.state import State
from shared.backoff import Backoff
from shared.logs import log
from shared.messages import AGENTS_DOWN, AGENTS_UP, TO_ALL

TAG = "bellwether-agent"
SWEEP_S = 30.0
"""How often broker and state are compared although nothing has happened."""
TIMEOUT_S = 5.0


class ManagementError(Exception):
    """The management API could not be reached, or said no."""


class Management:
    """The few calls of RabbitMQ's management API that are needed. Blocking."""

    def __init__(self, url: str, username: str, password: str, tls: ssl.SSLContext) -> None:
        self._url = url.rstrip("/")
        self._authorization = "Basic " + b64encode(f"{username}:{password}".encode()).decode()
        self._opener = build_opener(HTTPSHandler(context=tls))

    def call(self, method: str, path: str, body: object = None) -> Any:
        """The answer's JSON, or None. A DELETE of what is not there is fine. Raises `ManagementError`."""
        data = dumps(body).encode() if body is not None else None
        headers = {"Authorization": self._authorization, "Content-Type": "application/json"}
        request = Request(f"{self._url}/api{path}", data, headers, method=method)  # noqa: S310 - https by settings
        try:
            with self._opener.open(request, timeout=TIMEOUT_S) as response:
                text = response.read()
                return loads(text) if text else None
        except HTTPError as error:
            if method == "DELETE" and error.code == 404:
                return None
            raise ManagementError(f"{method} {path}: {error.code} {error.reason}") from None
        except (URLError, OSError, HTTPException, ValueError) as error:
            raise ManagementError(f"{method} {path}: {error}") from None


def permissions(agent: str) -> dict[str, str]:
    """What an agent's user may touch: its own queues, the two exchanges (tried against RabbitMQ 3.10)."""
    own = rf"agent\.{re.escape(agent)}\..*"
    return {
        "configure": f"^{own}$",
        "write": rf"^({own}|{re.escape(AGENTS_UP)})$",
        "read": rf"^({own}|{re.escape(AGENTS_DOWN)})$",
    }


def topic_permissions(agent: str) -> dict[str, str]:
    """Which keys it may bind: its own and everybody's."""
    return {"exchange": AGENTS_DOWN, "write": "^$", "read": f"^({re.escape(agent)}|{TO_ALL})$"}


class BrokerUsers:
    """Keeps the broker's users as the state wants them, while this node is primary. One thread."""

    def __init__(self, *, node: str, vhost: str, management: Management, state: Callable[[], State]) -> None:
        self._node, self._vhost, self._management, self._state = node, quote(vhost, safe=""), management, state
        self._wake = threading.Event()
        self._stopping = False
        self._done = threading.Condition()
        self._ready: frozenset[str] = frozenset()
        self._thread = threading.Thread(target=self._run, name="broker-users", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping = True
        self._wake.set()
        self._thread.join(TIMEOUT_S)

    def look_again(self) -> None:
        """Something may have changed. Any thread."""
        self._wake.set()

    def wait_ready(self, agent: str, timeout_s: float) -> bool:
        """Waits until the broker knows this agent's user. Blocking."""
        with self._done:
            return self._done.wait_for(lambda: agent in self._ready, timeout_s)

    def _run(self) -> None:
        backoff = Backoff(first_s=0.5, longest_s=SWEEP_S)
        wait_s = 0.0
        while True:
            self._wake.wait(wait_s)
            if self._stopping:
                return
            self._wake.clear()
            wait_s = SWEEP_S
            state = self._state()
            if state.primary != self._node:
                continue
            try:
                self._reconcile({agent.id: str(agent.spec["broker_password_hash"]) for agent in state.of("agent")})
                backoff.reset()
            except ManagementError as error:
                wait_s = backoff.next_s()
                log(why=str(error)).warning("agents' broker users could not be brought up to date; trying again")

    def _reconcile(self, wanted: dict[str, str]) -> None:
        users = self._management.call("GET", "/users?columns=name,password_hash,tags")
        # Set last, so whoever has them has everything.
        limited = self._management.call("GET", f"/vhosts/{self._vhost}/topic-permissions")
        try:
            ours = {user["name"]: user["password_hash"] for user in users if TAG in user["tags"]}
            foreign = {user["name"] for user in users} - ours.keys()
            complete = {permission["user"] for permission in limited}
        except (KeyError, TypeError) as error:
            raise ManagementError(f"an answer that is not RabbitMQ's ({error!r}): is this its address?") from None
        for agent, hashed in wanted.items():
            if agent in foreign:
                log(agent=agent).error("the broker has a user of this name that is not ours: the agent cannot connect")
            elif ours.get(agent) != hashed or agent not in complete:
                self._put(agent, hashed)
        for agent in ours.keys() - wanted.keys():
            self._remove(agent)
        with self._done:
            self._ready = frozenset(wanted)
            self._done.notify_all()

    def _put(self, agent: str, hashed: str) -> None:
        name, vhost = quote(agent, safe=""), self._vhost
        self._management.call("PUT", f"/users/{name}", {"password_hash": hashed, "tags": TAG})
        self._management.call("PUT", f"/permissions/{vhost}/{name}", permissions(agent))
        self._management.call("PUT", f"/topic-permissions/{vhost}/{name}", topic_permissions(agent))
        log(agent=agent).info("broker user made")

    def _remove(self, agent: str) -> None:
        # Deleting the user ends its connections too.
        self._management.call("DELETE", f"/users/{quote(agent, safe='')}")
        log(agent=agent).info("broker user deleted")
