"""The least client of the HTTPS API: one request, one connection, nothing hidden."""

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from shared.tls import client_context


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON. Raises `ValueError` where it is none."""
        return json.loads(self.body)

    @property
    def code(self) -> str | None:
        """The `code` of a problem; None where the answer is none."""
        is_problem = self.headers.get("content-type", "").startswith("application/problem+json")
        return self.json["code"] if is_problem else None


class Api:
    """One node's API. `url` is the node's, `ca` the cluster's CA certificate, `token` a bearer token or None;
    `certificate` the PEM files of a client certificate and its key.

    Any number of threads may use one. Raises `OSError` (or `http.client.HTTPException`) where the node does not answer
    in `timeout_s` seconds.
    """

    def __init__(
        self,
        url: str,
        *,
        ca: Path,
        token: str | None = None,
        timeout_s: float = 10.0,
        certificate: tuple[Path, Path] | None = None,
    ) -> None:
        self.url = url
        self._ca = ca
        self._token = token
        self._timeout_s = timeout_s
        self._certificate = certificate

    def request(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Answer:
        """`path` is below `/api/v1`, save that of `/health…`, `/metrics` and `/api/…`. `body` is sent as JSON; bytes as
        they are.
        """
        where = urlsplit(self.url)
        full = path if path.startswith(("/health", "/metrics", "/api/")) else f"/api/v1{path}"
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        sent = {} if self._token is None else {"Authorization": f"Bearer {self._token}"}
        if data is not None:
            sent["Content-Type"] = "application/json"
        connection = http.client.HTTPSConnection(
            where.hostname or "",
            where.port,
            timeout=self._timeout_s,
            context=client_context(self._ca, *(self._certificate or ())),
        )
        try:
            connection.request(method, full, body=data, headers=sent | dict(headers or {}))
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, found, answer.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        """Headers as keywords: `get("/cluster", Bellwether_Min_Revision="7")`."""
        return self.request("GET", path, headers=_names(headers))

    def put(self, path: str, body: Any, **headers: str) -> Answer:
        return self.request("PUT", path, body, _names(headers))

    def post(self, path: str, body: Any = None, **headers: str) -> Answer:
        return self.request("POST", path, body, _names(headers))

    def delete(self, path: str, **headers: str) -> Answer:
        return self.request("DELETE", path, headers=_names(headers))

    def is_up(self, path: str = "/health/ready") -> bool:
        """Whether `path` answers 200 now; a node that does not answer is not up."""
        try:
            return self.get(path).status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False

    def serves_reads(self) -> bool:
        """Whether it is ready, or would be if it were not in maintenance."""
        try:
            answer = self.get("/health/ready")
        except (OSError, http.client.HTTPException):
            return False
        return answer.status == http.client.OK or answer.json["status"] == "maintenance"


def _names(keywords: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in keywords.items()}
