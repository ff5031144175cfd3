"""Tokens: of programs and people, and those that let a node or an agent in once."""

import time
from typing import Any, Literal

from fastapi import Request, Response
from pydantic import BaseModel, ConfigDict, Field

from provider.api import direct
from provider.api.access.policy import needs
from provider.api.context import Context, context
from provider.api.reads import answer, paging, reading
from provider.api.routes.resources import documented, parse
from provider.api.views import document_view, page
from provider.api.writes import Write, commit, receive, render, respond, to_primary
from provider.core import commands as c
from provider.core.documents import Document, Label, ScopePath, TokenSpec
from provider.core.state import Answer
from shared.errors import Invalid
from shared.tokens import Token, new_token

router = direct.router("tokens")
ONE_TIME_TTL_S = 3600
TTL_MAX_S = 10 * 365 * 86400
NOT_KEPT = {"Cache-Control": "no-store"}


class TokenBody(BaseModel):
    model_config = ConfigDict(extra="forbid")

    role: Literal["admin", "operator", "viewer", "node", "agent"]
    ttl_s: int | None = Field(default=None, ge=1, le=TTL_MAX_S)
    name: Label | None = Field(default=None, description="what it is for, in words")
    scope: tuple[ScopePath, ...] | None = Field(
        default=None, min_length=1, max_length=32, description="paths below /api/v1 that it is good for, with all below"
    )


class UseBody(BaseModel):
    model_config = ConfigDict(extra="forbid")

    id: str = Field(max_length=64)
    at: int = Field(ge=0, le=2**63 - 1, description="Unix milliseconds")
    source: str | None = Field(default=None, max_length=64)


class UsesBody(BaseModel):
    model_config = ConfigDict(extra="forbid")

    uses: tuple[UseBody, ...] = Field(max_length=c.USES_MAX)


def token_view(ctx: Context, document: Document) -> dict[str, Any]:
    """A token, with what this node knows of its last use."""
    at, source = ctx.uses.last(document)
    status = {**document.status, "last_used_at": at, "last_used_from": source}
    return {**document_view(document), "status": status}


@router.get("/tokens")
@needs("admin")
async def list_tokens(request: Request) -> Response:
    """All tokens, without their secrets."""
    ctx, state, _ = await reading(request)
    items = (token_view(ctx, document) for document in state.of("token"))
    return answer(page(items, state.revision, *paging(request)))


@router.get("/tokens/{token}")
@needs("admin")
async def get_token(request: Request, token: str) -> Response:
    """One token. When it was last used is known to some minutes only."""
    ctx, state, _ = await reading(request)
    return answer(token_view(ctx, c.need(state, "token", token)))


@router.post("/tokens", openapi_extra=documented(TokenBody))
@needs("admin")
async def create_token(request: Request) -> Response:
    """A new token, shown this once. `node` and `agent` tokens work once, for an hour unless `ttl_s` says otherwise."""
    write = await receive(request)
    ctx = context(request)
    body = parse(write.body, TokenBody)
    one_time = body.role in c.ONE_TIME
    if one_time and body.scope is not None:
        raise Invalid("scope: a one-time token lets somebody in, and nothing else")
    token = new_token(body.role, ctx.membership.ca_fingerprint(ctx.gateway.state) if one_time else None)
    ttl_s = body.ttl_s if body.ttl_s is not None else ONE_TIME_TTL_S if one_time else None
    spec = TokenSpec(
        role=body.role,
        sha256=token.hashed,
        expires_at=int((time.time() + ttl_s) * 1000) if ttl_s is not None else None,
        name=body.name,
        scope=body.scope,
        created_by=write.principal.name,
    )
    return await _created(ctx, write, token, c.PutToken(token.id, spec))


@router.post("/tokens/administrator")
@needs("node")
async def reissue_administrator(request: Request) -> Response:
    """A new first administrator's token in place of the one that was lost. Only a node itself may ask, and whoever has
    its files: root on a provider."""
    write = await receive(request)
    token = new_token("admin")
    spec = TokenSpec(
        role="admin", sha256=token.hashed, expires_at=None, created_by=write.principal.name, administrator=True
    )
    return await _created(context(request), write, token, c.ReissueAdministrator(token.id, spec))


async def _created(ctx: Context, write: Write, token: Token, command: c.Command) -> Response:
    result = await commit(ctx, write, command)
    if not isinstance(result, Answer) or result.document is None:
        response = render(result)
        response.headers.update(NOT_KEPT)
        return response
    # Another id: the same key again. The secret is shown once only.
    shown = token.text() if result.document.id == token.id else None
    return answer({**document_view(result.document), "token": shown}, result.status, NOT_KEPT)


@router.post("/tokens/uses", openapi_extra=documented(UsesBody))
@needs("node")
async def report_uses(request: Request) -> Response:
    """When a standby saw tokens used. The primary records it with what it saw itself."""
    write = await receive(request)
    ctx = context(request)
    body = parse(write.body, UsesBody)
    elsewhere = await to_primary(ctx, write)
    if elsewhere is not None:
        return render(elsewhere)
    ctx.uses.heard(c.TokenUse(use.id, use.at, use.source) for use in body.uses)
    return Response(status_code=204)


@router.delete("/tokens/{token}")
@needs("admin")
async def delete_token(request: Request, token: str) -> Response:
    """Revoke a token at once."""
    return await respond(request, lambda w: c.DeleteToken(token, w.when))
