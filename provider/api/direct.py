"""Routes that read their requests themselves."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute

PREFIX = "/api/v1"


class DirectRoute(APIRoute):
    """Calls the endpoint with the request and the path's parameters, nothing in between.

    Our endpoints take the body as bytes, to forward it unchanged, and have no dependencies to be solved; FastAPI still
    describes them in the OpenAPI document.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        endpoint = self.endpoint

        async def handle(request: Request) -> Response:
            response: Response = await endpoint(request, **request.path_params)
            return response

        return handle


def router(tag: str | None = None, *, prefix: str = PREFIX) -> APIRouter:
    """A router for one part of the API."""
    return APIRouter(prefix=prefix, route_class=DirectRoute, tags=[tag] if tag is not None else None)
