"""The way of a read: answered from this node's own copy, also when log and primary are gone."""

from collections.abc import Mapping

from fastapi import Request, Response

from provider.api.access.auth import Principal
from provider.api.access.policy import HEADERS, PRINCIPAL
from provider.api.context import Context, context
from provider.api.views import to_json
from provider.core.documents import Document
from provider.core.state import State
from shared.errors import Invalid

LIMIT_DEFAULT = 100
LIMIT_MAX = 1000
WAIT_DEFAULT_S = 5.0
WAIT_MAX_S = 60.0


async def reading(request: Request) -> tuple[Context, State, Principal]:
    """The state to answer from, at least as new as `Bellwether-Min-Revision` asks, and who asks.

    Raises `Behind`, `Invalid`.
    """
    ctx = context(request)
    principal: Principal = request.scope[PRINCIPAL]
    headers: dict[str, str] = request.scope[HEADERS]
    wanted = headers.get("bellwether-min-revision")
    if wanted is not None:
        wait_s = _number("Bellwether-Wait", headers.get("bellwether-wait"), WAIT_DEFAULT_S)
        await ctx.gateway.reach(int(_number("Bellwether-Min-Revision", wanted, 0)), min(wait_s, WAIT_MAX_S))
    return ctx, ctx.gateway.state, principal


def paging(request: Request) -> tuple[int, str | None]:
    """`?limit=` (1 to 1000, default 100) and `?after=`. Raises `Invalid`."""
    text = request.query_params.get("limit")
    if text is None:
        return LIMIT_DEFAULT, request.query_params.get("after")
    if not text.isdecimal() or len(text) > 9 or not 1 <= int(text) <= LIMIT_MAX:
        raise Invalid(f"limit: expected a number from 1 to {LIMIT_MAX}")
    return int(text), request.query_params.get("after")


def flag(request: Request, name: str) -> bool | None:
    """A query parameter that is `true` or `false`; None where it is not given. Raises `Invalid`."""
    text = request.query_params.get(name)
    if text is None:
        return None
    if text.lower() not in ("true", "false", "1", "0"):
        raise Invalid(f"{name}: expected true or false")
    return text.lower() in ("true", "1")


def choice(request: Request, name: str, values: tuple[str, ...]) -> str | None:
    """A query parameter that is one of `values`; None where it is not given. Raises `Invalid`: a filter that can never
    match would be answered with "there are none"."""
    text = request.query_params.get(name)
    if text is not None and text not in values:
        raise Invalid(f"{name}: expected {', '.join(values)}")
    return text


def shown(document: Document, view: dict[str, object], request: Request, *, live: bool = False) -> Response:
    """One document, with its ETag; 304 where the client has it already. `live`: `view` also tells what this node hears
    meanwhile, of which the revision knows nothing, so the client never has it already."""
    etag = f'"{document.revision}"'
    if not live and _known(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers={"ETag": etag})
    return Response(to_json(view), 200, {"ETag": etag, "Content-Type": "application/json"})


def _known(header: str | None, etag: str) -> bool:
    """Whether `If-None-Match` names that ETag: alone, in a list, weakened by a proxy, or with `*`."""
    named = [one.strip() for one in (header or "").split(",")]
    return named == ["*"] or etag in [one.removeprefix("W/") for one in named]


def answer(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(to_json(value), status, {"Content-Type": "application/json", **(headers or {})})


def _number(name: str, text: str | None, default: float) -> float:
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e18:
        raise Invalid(f"{name}: expected a number, not {text[:80]!r}")
    return value
