"""The application: routes, errors as problem documents, and the headers that every answer carries."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from functools import cache
from math import ceil
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from provider.api.access.policy import check_all, needs
from provider.api.context import Context
from provider.api.direct import HEAD, PREFIX, DirectApp, DirectRoute
from provider.api.http.source import client_address
from provider.api.record.noting import note_answer
from provider.api.routes import (
    audit,
    authorities,
    backups,
    cluster,
    events,
    failover,
    health,
    joining,
    maintenance,
    people,
    resources,
    standing,
    tokens,
)
from provider.api.views import problem, to_json
from shared.errors import (
    BellwetherError,
    Invalid,
    NotFound,
    OutcomeUnknown,
    TokenRefused,
    TooManyRequests,
    Unauthenticated,
)
from shared.logs import log
from shared.tokens import without_secrets
from shared.version import VERSION

_Scope = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
_Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


def stamp(ctx: Context) -> list[tuple[bytes, bytes]]:
    """The headers that every answer carries: who gives it, and from which state."""
    state = ctx.gateway.state
    return [
        (b"bellwether-node", ctx.node.encode()),
        (b"bellwether-role", b"primary" if state.primary == ctx.node else b"standby"),
        (b"bellwether-epoch", b"%d" % state.epoch),
        (b"bellwether-revision", b"%d" % state.revision),
    ]


def _parting(ctx: Context) -> tuple[tuple[bytes, bytes], ...]:
    """A node in maintenance ends each connection with an answer, so that its clients go elsewhere before it stops."""
    return ((b"connection", b"close"),) if ctx.in_maintenance else ()


class Stamp:
    """Puts on each answer who gave it, and from which state; answers where a bug left none. Plain ASGI: it costs
    microseconds."""

    def __init__(self, app: Callable[[_Scope, _Receive, _Send], Awaitable[None]], context: Context) -> None:
        self._app, self._context = app, context

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        traffic, loop = self._context.guard.traffic, asyncio.get_running_loop()
        if not traffic.counts(scope):
            await self._answer(_as_get(scope), receive, send)
            return
        traffic.began(loop.time())
        try:
            await self._answer(_as_get(scope), receive, send)
        finally:
            traffic.ended(loop.time())

    async def _answer(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        started = False

        async def stamped(message: MutableMapping[str, Any]) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message["headers"], *stamp(self._context), *_parting(self._context)]
            await send(message)

        try:
            if "\ufffd" in scope["path"]:  # what the server puts where it could not decode: two names would become one
                error = Invalid("the path is not UTF-8")
                note_answer(self._context, scope, error, error.status)
                await _render(error)(scope, receive, stamped)
                return
            await self._app(scope, receive, stamped)
        except ClientDisconnect:
            return  # it left before it had said everything: nobody is there to be told
        except asyncio.CancelledError:  # by the server, when this node ends and can wait no longer
            if not started:
                detail = "this node ends; what was asked may have been done: ask another with the same Idempotency-Key"
                await _render(OutcomeUnknown(detail))(scope, receive, stamped)
        except Exception as error:  # noqa: BLE001 - the last resort: a bug must not end the connection without a word
            log(path=scope["path"]).opt(exception=error).error("a request failed unexpectedly")
            if not started:
                await _render(BellwetherError("an internal error; the node's log has the details"))(
                    scope, receive, stamped
                )


def _as_get(scope: _Scope) -> _Scope:
    """HEAD is GET whose body the server leaves out."""
    return {**scope, "method": "GET", HEAD: True} if scope["method"] == "HEAD" else scope


def create_app(context: Context) -> FastAPI:
    """The API of one node. Raises `TypeError` for a route without a policy."""
    app = DirectApp(
        title="Bellwether",
        version=VERSION,
        description="A highly available control plane for fleets of database servers.",
        openapi_url=None,  # below, as a route with a policy like all the others
        docs_url=None,  # the page loads scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,  # to an address made of what the client says that our name is
    )
    app.state.context = context
    # Matched one by one in this order, so what is asked most often comes first; flat, since each level costs as much as
    # the route itself.
    for router in (resources.router, health.probes, health.root, cluster.router, events.router, failover.router):
        app.router.routes.extend(router.routes)
    for router in (
        joining.router,
        maintenance.router,
        tokens.router,
        people.router,
        audit.router,
        authorities.router,
        backups.router,
        standing.router,
    ):
        app.router.routes.extend(router.routes)
    # Probes also without the prefix: their paths stand in the configuration of proxies, some with it, some without.
    for route in health.probes.routes:
        assert isinstance(route, APIRoute)  # noqa: S101 - for the type checker
        path = route.path.removeprefix(PREFIX)
        if path not in {known.path for known in health.root.routes if isinstance(known, APIRoute)}:
            app.router.add_api_route(path, route.endpoint, include_in_schema=False, route_class_override=DirectRoute)

    @needs("open")
    async def openapi(_request: Request) -> Response:
        return Response(document(), headers={"Content-Type": "application/json"})

    document = cache(lambda: to_json(app.openapi()))
    app.router.add_api_route(
        f"{PREFIX}/openapi.json", openapi, include_in_schema=False, route_class_override=DirectRoute
    )
    check_all(app.routes)
    app.add_exception_handler(BellwetherError, _known)
    app.add_exception_handler(HTTPException, _framework)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_middleware(Stamp, context=context)
    return app


def _render(error: BellwetherError, status: int | None = None) -> Response:
    headers = {"Content-Type": "application/problem+json"}
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    if error.retryable:
        wait_s = error.retry_after_s if isinstance(error, TooManyRequests) else 1.0
        headers["Retry-After"] = str(max(1, ceil(wait_s)))
    return Response(to_json(problem(error, status)), status or error.status, headers)


def _refuse(request: Request, error: BellwetherError, status: int | None = None) -> Response:
    """The one place where an error becomes an answer, and is noted where it is a refusal."""
    error.detail = without_secrets(error.detail)  # it may quote the path, and somebody put a token into it
    if isinstance(error, TokenRefused):
        request.app.state.context.tokens_refused.note(error, client_address(request.scope))
    note_answer(request.app.state.context, request.scope, error, status or error.status)
    return _render(error, status)


async def _known(request: Request, error: Exception) -> Response:
    assert isinstance(error, BellwetherError)  # noqa: S101 - registered for this type alone
    return _refuse(request, error)


async def _framework(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for this type alone
    if error.status_code == 404:
        return _refuse(request, NotFound(f"there is no {request.url.path}"))
    if error.status_code == 405:
        response = _refuse(request, Invalid(f"{request.method} is not possible on {request.url.path}"), 405)
        response.headers["Allow"] = ", ".join(_methods(request))
        return response
    return _refuse(request, Invalid(str(error.detail)), error.status_code)


def _methods(request: Request) -> list[str]:
    """What may be done on this path. The router names what the first of its routes takes; each has one of its own."""
    scope = {"type": "http", "method": "", "path": request.scope["path"], "root_path": ""}
    routes = [route for route in request.app.routes if route.matches(dict(scope))[0] is not Match.NONE]
    found = {method for route in routes if isinstance(route, APIRoute) for method in route.methods or ()}
    return sorted(found | ({"HEAD"} if "GET" in found else set()))


async def _validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for this type alone
    first = error.errors()[0]
    return _refuse(request, Invalid(f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"))
