"""Taking a write to the primary: the same request, under the same token and the same idempotency key.

A node that forwards adds nothing that the primary would have to believe: the primary checks the client's token itself.
"""

import asyncio
import ssl
from dataclasses import dataclass

import httpx2

FORWARDED = "Bellwether-Forwarded"
"""Names the node that forwarded. Whoever receives it and is not primary says so instead of passing it on."""
_REQUEST_HEADERS = ("authorization", "content-type", "idempotency-key", "if-match", "if-none-match")
_RESPONSE_HEADERS = ("content-type", "etag", "location", "retry-after")
REVISION = "Bellwether-Revision"


@dataclass(frozen=True, slots=True)
class Forwarded:
    """The primary's answer. `revision` is the state that it answered from."""

    status: int
    headers: dict[str, str]
    body: bytes
    revision: int


class NotSent(Exception):
    """The request did not reach the primary: nothing was done."""


class NotAnswered(Exception):
    """The request was sent, and there is no answer: it may have been done."""


class Forwarder:
    """One pool of connections to the other nodes."""

    def __init__(self, *, node: str, tls: ssl.SSLContext, timeout_s: float) -> None:
        self._node = node
        # Idle connections go before the server's side ends them (75 s): a request must not meet a closing one.
        limits = httpx2.Limits(max_connections=256, max_keepalive_connections=256, keepalive_expiry=30)
        timeout = httpx2.Timeout(timeout_s, connect=1.0)
        self._client = httpx2.AsyncClient(verify=tls, limits=limits, timeout=timeout, trust_env=False)

    async def send(self, url: str, *, method: str, target: str, headers: dict[str, str], body: bytes) -> Forwarded:
        """Raises `NotSent` or `NotAnswered`. `target` is path and query as the client sent them."""
        kept = {name: headers[name] for name in _REQUEST_HEADERS if name in headers}
        try:
            response = await self._client.request(
                method, url + target, content=body, headers={**kept, FORWARDED: self._node}
            )
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout) as error:
            raise NotSent(str(error)) from None
        except (httpx2.TransportError, asyncio.IncompleteReadError) as error:
            raise NotAnswered(str(error)) from None
        return Forwarded(
            status=response.status_code,
            headers={name: response.headers[name] for name in _RESPONSE_HEADERS if name in response.headers},
            body=response.content,
            revision=int(response.headers.get(REVISION, 0)),
        )

    async def close(self) -> None:
        await self._client.aclose()
