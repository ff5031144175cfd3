"""Routes that read their requests themselves."""

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from fastapi.routing import APIRoute
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

from provider.api import described, schemas
from provider.api.access.policy import Policy, admit, policy_of

PREFIX = "/api/v1"
HEAD = "bellwether.head"
"""In the scope of a HEAD request, which is answered wherever GET is; to the routes it is one. The server leaves out the
body. (Not by the routes' methods: the OpenAPI document would have each operation twice.)"""
_PROBLEM_REF = {"$ref": "#/components/schemas/Problem"}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    "default": {
        "description": "It was not done: a problem document (RFC 9457) says why.",
        "content": {"application/problem+json": {"schema": _PROBLEM_REF}},
    }
}
PROBLEM_SCHEMA: Mapping[str, Any] = {
    "title": "Problem",
    "type": "object",
    "required": ["type", "title", "status", "detail", "code", "retryable"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": {"type": "string", "description": "What happened, why, and what to do. For people."},
        "code": {"type": "string", "description": "Stable. For programs."},
        "retryable": {"type": "boolean", "description": "Whether the same request may succeed later."},
    },
}
BEARER_SCHEME: Mapping[str, Any] = {
    "type": "http",
    "scheme": "bearer",
    "description": "A token: `bw.<role>.<id>.<secret>`.",
}


class DirectRoute(APIRoute):
    """Checks the endpoint's policy, then calls it with the request and the path's parameters, nothing in between.

    Our endpoints take the body as bytes, to forward it unchanged, and have no dependencies to be solved; FastAPI still
    describes them in the OpenAPI document.
    """

    def __init__(self, path: str, endpoint: Any, **options: Any) -> None:
        self.policy = policy = policy_of(endpoint)
        extra = {**_described(policy), **(options.pop("openapi_extra", None) or {})}
        responses = {**_RESPONSES, **(options.pop("responses", None) or {})}
        super().__init__(path, endpoint, openapi_extra=extra, responses=responses, **options)

        async def serve(scope: Scope, receive: Receive, send: Send) -> None:
            if policy is None:  # `create_app` has refused it
                raise TypeError(f"{path} has no policy")
            await admit(policy, scope)
            response: Response = await endpoint(Request(scope, receive), **scope["path_params"])
            if HEAD in scope and isinstance(response, StreamingResponse):
                response = Response(status_code=response.status_code, headers=dict(response.headers))
                del response.headers["content-length"]  # nobody has counted
            await response(scope, receive, send)

        self.app = serve


def _described(policy: Policy | None) -> dict[str, Any]:
    """The policy for the OpenAPI document."""
    if policy is None:
        return {}
    return {"security": [] if policy.rule == "open" else [{"bearer": []}], "x-role": policy.rule}


class DirectApp(FastAPI):
    """FastAPI without the layers that serve what we do not use: dependencies, uploads, telemetry.

    They took as long as the rest of a write. What is left turns exceptions into answers.
    """

    def build_middleware_stack(self) -> ASGIApp:
        app: ASGIApp = ExceptionMiddleware(_ByPath(self.router), handlers=self.exception_handlers)
        for cls, args, kwargs in reversed(self.user_middleware):
            app = cls(app, *args, **kwargs)
        return app

    def openapi(self) -> dict[str, Any]:
        """The document, with what all operations share. Made once."""
        schema = super().openapi()
        components = schema.setdefault("components", {})
        components.setdefault("securitySchemes", {})["bearer"] = BEARER_SCHEME
        components["schemas"] = {**schemas.components(), "Problem": PROBLEM_SCHEMA}
        for path, operations in schema["paths"].items():
            for method, operation in operations.items():
                described.describe(method, path.removeprefix(PREFIX), operation)
        return schema


class _ByPath:
    """Looks up a path without parameters at once. The router tries route by route: for a probe that cost more than all
    the rest."""

    def __init__(self, router: APIRouter) -> None:
        self._router = router
        self._routes: dict[tuple[str, str], DirectRoute] = {}
        for route in router.routes:
            if isinstance(route, DirectRoute) and "{" not in route.path:
                for method in route.methods or ():
                    if _chosen(router, method, route.path) is route:
                        self._routes[method, route.path] = route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._routes.get((scope["method"], scope["path"]))
        if route is None:
            await self._router(scope, receive, send)
            return
        scope["path_params"] = {}
        await route.app(scope, receive, send)


def _chosen(router: APIRouter, method: str, path: str) -> object:
    """The route that the router itself would take."""
    scope = {"type": "http", "method": method, "path": path, "root_path": ""}
    return next((route for route in router.routes if route.matches(dict(scope))[0] is Match.FULL), None)


def router(tag: str | None = None, *, prefix: str = PREFIX) -> APIRouter:
    """A router for one part of the API."""
    return APIRouter(prefix=prefix, route_class=DirectRoute, tags=[tag] if tag is not None else None)
