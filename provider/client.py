"""Talking to providers as a client does: used by the commands."""

import json
import os
import ssl
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit
from uuid import uuid4

import httpx2

from provider.settings import LOOPBACK, Files, ProviderSettings
from shared.errors import BellwetherError, Invalid, OutcomeUnknown, Unavailable
from shared.files import read_text
from shared.tls import client_context

PREFIX = "/api/v1"
_DOTS = (".", "..")
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


class Broken(Unreachable):
    """The connection broke after the request went out: it may go on being done."""


def may_help(error: BellwetherError) -> bool:
    """Whether to ask for the same again, under the same key: nobody answered, the cluster cannot take it just now, or
    nobody knows whether it was done."""
    if isinstance(error, Problem):
        return error.answer_retryable or error.answer_code == OutcomeUnknown.code
    return isinstance(error, Unreachable)


class Client:
    """Asks each of `urls` in turn until one answers. Writes carry an idempotency key, so asking again is safe."""

    def __init__(
        self,
        urls: Sequence[str],
        *,
        token: str | None,
        tls: ssl.SSLContext,
        patience_s: float | None = None,
        certified: str | None = None,
    ) -> None:
        """With `patience_s` no step of a request takes longer. `certified`: the name or address that certificates must
        be for; else the one in the URL. Raises `Invalid` for what is no address, and for a token that no header can
        hold."""
        if token is not None and not (token.isascii() and token.isprintable() and token.strip()):
            raise Invalid("the token given is none: expected one line, bw.<role>.<id>.<secret>")
        headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
        self._urls = [checked_url(url) for url in urls]
        self._extensions = {"sni_hostname": certified} if certified is not None else {}
        self._http = httpx2.Client(
            verify=tls,
            headers=headers,
            timeout=httpx2.Timeout(patience_s or READ_S, connect=patience_s or CONNECT_S),
            trust_env=False,
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
                    method,
                    url + PREFIX + path,
                    content=content,
                    headers=sent,
                    params=parameters or {},
                    extensions=self._extensions,
                )
            except httpx2.TransportError as error:
                reasons.append(f"{url}: {error}")
                continue
            if response.is_success:
                return _content(response)
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
        silence_s: float | None = None,
    ) -> Generator[str, None, None]:
        """The answer's lines as they come, from the first URL that answers. It may be silent for `silence_s` seconds
        before it counts as broken, or for ever.

        Raises `Problem`, `Unreachable`, `Broken`.
        """
        headers = {**(headers or {}), **({"Accept": accept} if accept is not None else {})}
        for index, url in enumerate(self._urls):
            try:
                with self._http.stream(
                    method,
                    url + PREFIX + path,
                    json=body,
                    headers=headers,
                    timeout=httpx2.Timeout(silence_s, connect=CONNECT_S),
                    extensions=self._extensions,
                ) as response:
                    if not response.is_success:
                        response.read()
                        raise _problem(response)
                    yield from _lines(response.iter_bytes())
                    return
            except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
                if index + 1 == len(self._urls):
                    raise Unreachable(f"{url}: {error}") from None
            except httpx2.TransportError as error:
                raise Broken(f"{url}: {error or 'it is silent'}") from None

    def text(self, path: str) -> str:
        """A plain text answer of the first URL."""
        try:
            response = self._http.get(self._urls[0] + PREFIX + path, extensions=self._extensions)
        except httpx2.TransportError as error:
            raise Unreachable(f"{self._urls[0]}: {error}") from None
        if not response.is_success:
            raise _problem(response)
        return response.text

    def close(self) -> None:
        self._http.close()


def path(*parts: str) -> str:
    """A path of the API, each part quoted: none of them is more than one segment, or leads elsewhere."""
    quoted = (quote(part, safe="") for part in parts)
    return "/" + "/".join(part.replace(".", "%2E") if part in _DOTS else part for part in quoted)


def checked_url(text: str) -> str:
    """A provider's address, without a slash at its end. Raises `Invalid`: a token is not sent anywhere unencrypted."""
    try:
        parts = urlsplit(text)
        good = parts.scheme == "https" and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        good = False
    if not good or not text.isascii() or not text.isprintable():
        raise Invalid(f"{text[:200]!r} is no provider's address; expected https://host:port")
    return text.rstrip("/")


def _lines(pieces: Iterable[bytes]) -> Iterator[str]:
    """Lines that end with LF and nothing else: what is told may hold other characters that end lines to some."""
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n") if b"\n" in piece else (rest + piece,)
        yield from (line.decode() for line in lines)
    if rest:
        yield rest.decode()


def _content(response: httpx2.Response) -> Any:
    try:
        return response.json() if response.content else None
    except ValueError:
        raise _unexpected(response) from None


def _problem(response: httpx2.Response) -> Problem:
    try:
        content = response.json()
        return Problem(content["detail"], content["code"], response.status_code, content["retryable"])
    except (ValueError, KeyError, TypeError):
        return _unexpected(response)


def _unexpected(response: httpx2.Response) -> Problem:
    detail = f"unexpected answer {response.status_code} from {response.url.host}: is it a provider's address?"
    return Problem(detail, "internal", 500, False)


def local(settings: ProviderSettings, files: Files) -> Client:
    """A client for the daemon on this very host: with this node's own token, and the certificate without which that
    token is worth nothing. It asks where that daemon listens, not at its URL: the URL's name may be a load balancer's,
    and nothing here may wait for DNS."""
    return as_node([_here(settings.api.listen)], files, certified=LOOPBACK)


def _here(listen: str) -> str:
    """The URL at which this host reaches who listens on `listen` (address:port; without an address on all of them)."""
    host, _, port = listen.rpartition(":")
    host = {"": LOOPBACK, "0.0.0.0": LOOPBACK, "::": "::1"}.get(host.strip("[]"), host.strip("[]"))  # noqa: S104
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


def as_node(
    urls: Sequence[str], files: Files, *, patience_s: float | None = None, certified: str | None = None
) -> Client:
    """A client that speaks for this node."""
    token = read_text(files.node_token).strip()
    tls = _trusting(files.ca, files.certificate, files.key)
    return Client(urls, token=token, tls=tls, patience_s=patience_s, certified=certified)


def with_token(urls: Sequence[str], token: str, ca: Path) -> Client:
    """A client for whoever has that token."""
    return Client(urls, token=token, tls=_trusting(ca))


def from_environment() -> Client:
    """For `bellwether`: BELLWETHER_API (URLs, comma-separated), BELLWETHER_CA (file), BELLWETHER_TOKEN or _TOKEN_FILE.

    Raises `Unreachable` where something is missing, `Invalid` where it cannot be used.
    """
    urls = [checked_url(url.strip()) for url in os.environ.get("BELLWETHER_API", "").split(",") if url.strip()]
    ca = os.environ.get("BELLWETHER_CA")
    missing = [name for name, value in (("BELLWETHER_API", urls), ("BELLWETHER_CA", ca)) if not value]
    token, file = os.environ.get("BELLWETHER_TOKEN"), os.environ.get("BELLWETHER_TOKEN_FILE")
    if token is None and file is not None:
        token = read_text(Path(file)).strip()
    if token is None:
        missing.append("BELLWETHER_TOKEN_FILE")
    if missing or ca is None:
        raise Unreachable(f"set {', '.join(missing)} in the environment")
    return Client(urls, token=token, tls=_trusting(Path(ca)))


def _trusting(ca: Path, *own: Path) -> ssl.SSLContext:
    """Raises `Invalid`, naming the file: the TLS library does not."""
    for file in (ca, *own):
        read_text(file)
    try:
        return client_context(ca, *own)
    except OSError as error:
        raise Invalid(f"{', '.join(map(str, (ca, *own)))} cannot be used: {error}") from None
