"""The few calls of RabbitMQ's management API that are needed, under whichever credential it accepts."""

import base64
import http.client
import ssl
from collections.abc import Callable, Sequence
from json import dumps, loads
from typing import Any
from urllib.parse import quote, urlsplit

from shared.errors import BellwetherError
from shared.logs import log

TIMEOUT_S = 30.0
"""For one call. A busy broker takes seconds to list tens of thousands of users."""
ADMINISTRATOR = "administrator"

Credential = tuple[str, str]
"""User name and password of an administrator of the broker."""


class ManagementError(Exception):
    """The management API could not be reached, or said no. `status`: the HTTP status, if there was an answer."""

    def __init__(self, text: str, status: int | None = None) -> None:
        super().__init__(text)
        self.status = status


class Management:
    """Blocking, and for one thread. One connection is kept open: a TLS handshake costs more than most calls.

    `tls` is asked for each connection: whom to trust changes. `credentials` gives what may be accepted, newest first.
    Where only an older one is, the newest is set on the broker: so a change of the password reaches a broker that was
    away, and one that was wiped and has its first password again.
    """

    def __init__(
        self, url: str, tls: Callable[[], ssl.SSLContext], credentials: Callable[[], Sequence[Credential]]
    ) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "localhost", parts.port
        self._path = parts.path.rstrip("/") + "/api"
        self._tls, self._credentials = tls, credentials
        self._connection: http.client.HTTPSConnection | None = None
        self._accepted: Credential | None = None
        self.calls = 0
        """Requests that were sent since the start."""

    def call(self, method: str, path: str, body: object = None) -> Any:
        """The answer's JSON, or None where it is empty. Raises `ManagementError`."""
        try:
            wanted = list(self._credentials())
        except BellwetherError as error:
            raise ManagementError(str(error)) from None
        if not wanted:
            raise ManagementError("no credential for the broker's management API is known")
        if self._accepted not in wanted or self._accepted != wanted[0]:
            self._accepted = self._settle(wanted)
        status, answer = self._send(method, path, body, self._accepted)
        if status == 401:  # changed meanwhile, here or there
            self._accepted = self._settle(wanted)
            status, answer = self._send(method, path, body, self._accepted)
        if status >= 300:
            raise ManagementError(f"{method} {path.partition('?')[0]}: {status} {_why(answer)}", status)
        return _json(answer) if answer else None

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _settle(self, wanted: Sequence[Credential]) -> Credential:
        """The newest credential, after it was made the broker's where only an older one is accepted."""
        newest = wanted[0]
        for credential in wanted:
            status, answer = self._send("GET", "/whoami", None, credential)
            if status == 200:
                break
            if status not in (401, 403):
                raise ManagementError(f"GET /whoami: {status} {_why(answer)}", status)
        else:
            raise ManagementError("the broker's management API accepts none of the known credentials (401)", 401)
        if credential == newest:
            return newest
        name, password = newest
        status, answer = self._send("GET", f"/users/{quote(name, safe='')}", None, credential)
        had = _json(answer).get("tags", []) if status == 200 else []
        tags = had if isinstance(had, list) else str(had).split(",")
        kept = ",".join(dict.fromkeys([ADMINISTRATOR, *(tag for tag in tags if tag)]))
        body = {"password": password, "tags": kept}
        status, answer = self._send("PUT", f"/users/{quote(name, safe='')}", body, credential)
        if status >= 300:
            raise ManagementError(f"PUT /users/{name}: {status} {_why(answer)}", status)
        log(user=name).info("the broker's administrator has the present password again")
        return newest

    def _send(self, method: str, path: str, body: object, credential: Credential) -> tuple[int, bytes]:
        username, password = credential
        headers = {
            "Authorization": "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode(),
            "Content-Type": "application/json",
        }
        data = dumps(body).encode() if body is not None else None
        for fresh in (self._connection is None, True):
            if fresh:
                self.close()
                self._connection = http.client.HTTPSConnection(
                    self._host, self._port, timeout=TIMEOUT_S, context=self._tls()
                )
            connection = self._connection
            assert connection is not None  # noqa: S101 - for the type checker
            self.calls += 1
            try:
                connection.request(method, self._path + path, data, headers)
                response = connection.getresponse()
                return response.status, response.read()
            except (OSError, http.client.HTTPException) as error:
                self.close()
                # A connection that was kept may have been closed by the broker meanwhile: once more, on a fresh one.
                # Every call here may be done twice.
                if fresh:
                    raise ManagementError(f"{method} {path.partition('?')[0]}: {error or repr(error)}") from None
        raise AssertionError("not reached")


def _json(data: bytes) -> Any:
    try:
        return loads(data)
    except (ValueError, RecursionError):
        raise ManagementError("an answer that is not JSON: is this the management API's address?") from None


def _why(answer: bytes) -> str:
    return " ".join(answer[:200].decode("utf-8", "replace").split())
