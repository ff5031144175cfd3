"""Routes that read their requests themselves."""

from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.routing import APIRoute
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

PREFIX = "/api/v1"


class DirectRoute(APIRoute):
    """Calls the endpoint with the request and the path's parameters, nothing in between.

    Our endpoints take the body as bytes, to forward it unchanged, and have no dependencies to be solved; FastAPI still
    describes them in the OpenAPI document.
    """

    def __init__(self, path: str, endpoint: Any, **options: Any) -> None:
        super().__init__(path, endpoint, **options)

        async def serve(scope: Scope, receive: Receive, send: Send) -> None:
            response: Response = await endpoint(Request(scope, receive), **scope["path_params"])
            await response(scope, receive, send)

        self.app = serve


class DirectApp(FastAPI):
    """FastAPI without the layers that serve what we do not use: dependencies, uploads, telemetry.

    They took as long as the rest of a write. What is left turns exceptions into answers.
    """

    def build_middleware_stack(self) -> ASGIApp:
        app: ASGIApp = ExceptionMiddleware(self.router, handlers=self.exception_handlers)
        for cls, args, kwargs in reversed(self.user_middleware):
            app = cls(app, *args, **kwargs)
        return app


def router(tag: str | None = None, *, prefix: str = PREFIX) -> APIRouter:
    """A router for one part of the API."""
    return APIRouter(prefix=prefix, route_class=DirectRoute, tags=[tag] if tag is not None else None)
