"""Talking to providers as a client does: used by the commands."""

import json
import os
import ssl
from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from uuid import uuid4

import httpx2

from provider.settings import Files, ProviderSettings
from shared.errors import BellwetherError, Unavailable
from shared.tls import client_context

PREFIX = "/api/v1"
CONNECT_S = 3.0
READ_S = 30.0
_TRIED_ELSEWHERE = {"no_primary", "log_unavailable", "behind", "disk_full"}


class Problem(BellwetherError):
    """What a provider answered instead of doing it. The class attributes of the tree, for this answer."""

    def __init__(self, detail: str, code: str, status: int, retryable: bool) -> None:
        super().__init__(detail)
        self.answer_code, self.answer_status, self.answer_retryable = code, status, retryable


class Unreachable(Unavailable):
    code = "unreachable"


class Client:
    """Asks each of `urls` in turn until one answers. Writes carry an idempotency key, so asking again is safe."""

    def __init__(self, urls: Sequence[str], *, token: str | None, tls: ssl.SSLContext) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
        self._urls = [url.rstrip("/") for url in urls]
        self._http = httpx2.Client(
            verify=tls, headers=headers, timeout=httpx2.Timeout(READ_S, connect=CONNECT_S), trust_env=False
        )

    def get(self, path: str, **parameters: str) -> Any:
        return self.request("GET", path, parameters=parameters)

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        parameters: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
    ) -> Any:
        """The answer's JSON (None for 204). Raises `Problem` or `Unreachable`."""
        content = json.dumps(body).encode() if body is not None else None
        sent = {**(headers or {})}
        if method != "GET":
            sent.setdefault("Idempotency-Key", uuid4().hex)
        if content is not None:
            sent["Content-Type"] = "application/json"
        reasons: list[str] = []
        last: Problem | None = None
        for url in self._urls:
            try:
                response = self._http.request(
                    method, url + PREFIX + path, content=content, headers=sent, params=parameters or {}
                )
            except httpx2.TransportError as error:
                reasons.append(f"{url}: {error}")
                continue
            if response.is_success:
                return response.json() if response.content else None
            last = _problem(response)
            if last.answer_code not in _TRIED_ELSEWHERE:
                raise last
        if last is not None:
            raise last
        raise Unreachable("; ".join(reasons))

    def lines(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        accept: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> Iterator[str]:
        """The answer's lines as they come, from the first URL that answers."""
        headers = {**(headers or {}), **({"Accept": accept} if accept is not None else {})}
        for index, url in enumerate(self._urls):
            try:
                with self._http.stream(
                    method,
                    url + PREFIX + path,
                    json=body,
                    headers=headers,
                    timeout=httpx2.Timeout(None, connect=CONNECT_S),
                ) as response:
                    if not response.is_success:
                        response.read()
                        raise _problem(response)
                    yield from _lines(response.iter_bytes())
                    return
            except httpx2.ConnectError as error:
                if index + 1 == len(self._urls):
                    raise Unreachable(f"{url}: {error}") from None
            except httpx2.TransportError as error:
                raise Unreachable(f"{url}: the connection broke ({error})") from None

    def text(self, path: str) -> str:
        """A plain text answer of the first URL."""
        try:
            response = self._http.get(self._urls[0] + PREFIX + path)
        except httpx2.TransportError as error:
            raise Unreachable(f"{self._urls[0]}: {error}") from None
        if not response.is_success:
            raise _problem(response)
        return response.text

    def close(self) -> None:
        self._http.close()


def _lines(pieces: Iterable[bytes]) -> Iterator[str]:
    """Lines that end with LF and nothing else: what is told may hold other characters that end lines to some."""
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n") if b"\n" in piece else (rest + piece,)
        yield from (line.decode() for line in lines)
    if rest:
        yield rest.decode()


def _problem(response: httpx2.Response) -> Problem:
    try:
        content = response.json()
        return Problem(content["detail"], content["code"], response.status_code, content["retryable"])
    except (ValueError, KeyError, TypeError):
        return Problem(f"unexpected answer {response.status_code} from {response.url.host}", "internal", 500, False)


def local(settings: ProviderSettings, files: Files) -> Client:
    """A client for the daemon on this very host: with this node's own token, and the certificate without which that
    token is worth nothing."""
    return as_node([settings.url], files)


def as_node(urls: Sequence[str], files: Files) -> Client:
    """A client that speaks for this node."""
    token = files.node_token.read_text(encoding="ascii").strip()
    return Client(urls, token=token, tls=client_context(files.ca, files.certificate, files.key))


def from_environment() -> Client:
    """For `bellwether`: BELLWETHER_API (URLs, comma-separated), BELLWETHER_CA (file), BELLWETHER_TOKEN or _TOKEN_FILE.

    Raises `Unreachable` where something is missing.
    """
    missing = [name for name in ("BELLWETHER_API", "BELLWETHER_CA") if not os.environ.get(name)]
    token, file = os.environ.get("BELLWETHER_TOKEN"), os.environ.get("BELLWETHER_TOKEN_FILE")
    if token is None and file is not None:
        with open(file, encoding="ascii") as content:  # noqa: PTH123
            token = content.read().strip()
    if token is None:
        missing.append("BELLWETHER_TOKEN_FILE")
    if missing:
        raise Unreachable(f"set {', '.join(missing)} in the environment")
    urls = [url.strip() for url in os.environ["BELLWETHER_API"].split(",") if url.strip()]
    return Client(urls, token=token, tls=client_context(os.environ["BELLWETHER_CA"]))
