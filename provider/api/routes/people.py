"""People: users with passwords, and their sessions."""

import time
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import Request, Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from provider.api import direct
from provider.api.access.auth import Principal
from provider.api.access.passwords import LENGTH_MAX, checked
from provider.api.access.policy import HEADERS, Rule, may, needs
from provider.api.access.sessions import LIFETIME_S, begin, set_cookie
from provider.api.context import Context, context
from provider.api.http.source import client_address
from provider.api.reads import answer, paging, reading, shown
from provider.api.record.noting import CLAIMED, note_done
from provider.api.routes.resources import documented, parse
from provider.api.views import document_view, page, time_text
from provider.api.writes import commit, read_body, receive, render, respond, to_primary
from provider.core import commands as c
from provider.core.documents import Document, PersonRole, SessionSpec
from shared.errors import Forbidden, Invalid, Refused, TooManyRequests, Unauthenticated
from shared.logs import log

router = direct.router("people")
LOGIN_MAX_BYTES = 8192
Secret = Annotated[str, StringConstraints(max_length=LENGTH_MAX)]


class LoginBody(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=64)
    password: Secret


class UserBody(BaseModel):
    """Without `password` the one that the user has is kept."""

    model_config = ConfigDict(extra="forbid")

    role: PersonRole
    password: Secret | None = None


class PasswordBody(BaseModel):
    model_config = ConfigDict(extra="forbid")

    password: Secret
    old_password: Secret | None = Field(default=None, description="needed unless an administrator asks")


# ── users ──


def _own(principal: Principal, parameters: Mapping[str, Any]) -> Rule:
    """one's own; others' need admin"""
    return "viewer" if principal.name == f"user:{parameters['name']}" else "admin"


@router.get("/users")
@needs("admin")
async def list_users(request: Request) -> Response:
    """All users, without their passwords' hashes."""
    _, state, _ = await reading(request)
    items = (document_view(document) for document in state.of("user"))
    return answer(page(items, state.revision, *paging(request)))


@router.get("/users/{name}")
@needs("admin")
async def get_user(request: Request, name: str) -> Response:
    """One user."""
    _, state, _ = await reading(request)
    document = c.need(state, "user", name)
    return shown(document, document_view(document), request)


@router.put("/users/{name}", openapi_extra=documented(UserBody))
@needs("admin")
async def put_user(request: Request, name: str) -> Response:
    """Make a user, or change role or password. A change ends the user's sessions."""
    write = await receive(request)
    ctx = context(request)
    body = parse(write.body, UserBody)
    if body.password is not None:
        checked(body.password, name)
    elsewhere = await to_primary(ctx, write)
    if elsewhere is not None:
        return render(elsewhere)
    hashed = await ctx.passwords.hash(body.password, name) if body.password is not None else None
    return render(await commit(ctx, write, c.PutUser(name, body.role, hashed, write.when)))


@router.put("/users/{name}/password", openapi_extra=documented(PasswordBody))
@needs("viewer", by=_own)
async def put_password(request: Request, name: str) -> Response:
    """Change a password: one's own with the old one, or as an administrator anybody's. It ends the user's sessions."""
    write = await receive(request)
    ctx = context(request)
    body = parse(write.body, PasswordBody)
    checked(body.password, name)
    elsewhere = await to_primary(ctx, write)
    if elsewhere is not None:
        return render(elsewhere)
    user = c.need(ctx.gateway.state, "user", name)
    if not may(write.principal.role, "admin"):
        if body.old_password is None:
            raise Invalid("old_password: needed to change one's own password")
        if not await _is_password(ctx, name, body.old_password, user, write.source):
            raise Forbidden("the old password is wrong")
    hashed = await ctx.passwords.hash(body.password, name)
    return render(await commit(ctx, write, c.SetPassword(name, hashed, user.revision)))


@router.delete("/users/{name}")
@needs("admin")
async def delete_user(request: Request, name: str) -> Response:
    """Remove a user and end the user's sessions. Tokens that the user made stay good: revoke them, too."""
    return await respond(request, lambda write: c.DeleteUser(name, write.when))


@router.delete("/users/{name}/sessions")
@needs("viewer", by=_own)
async def end_sessions(request: Request, name: str) -> Response:
    """End all sessions of a user: one's own, or as an administrator anybody's."""
    return await respond(request, lambda _: c.EndSessions(name))


# ── sessions ──


@router.post("/login", openapi_extra=documented(LoginBody))
@needs("open")
async def login(request: Request) -> Response:
    """Begin a session with name and password. It works on every node, also while there is no primary."""
    ctx = context(request)
    # A form of somebody else's page cannot send this type: nobody is logged in without knowing.
    if request.scope[HEADERS].get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Invalid("Content-Type: expected application/json")
    body = parse(await read_body(request, LOGIN_MAX_BYTES), LoginBody)
    user = ctx.gateway.state.get("user", body.name)
    source = client_address(request.scope)
    if user is not None:
        request.scope[CLAIMED] = f"user:{user.id}"
    good = await _is_password(ctx, body.name, body.password, user, source)
    if not good or user is None or ctx.gateway.state.get("user", body.name) is not user:
        log(user=user.id if user is not None else None, source=source).warning("a login failed")
        raise Unauthenticated("name or password is wrong")
    session = begin(user, int(time.time() * 1000))
    token = session.text(ctx.vault)
    log(user=user.id, source=source).info("a session begins")
    note_done(ctx, request.scope, f"user:{user.id}", 200)
    given = {
        "token": token,
        "csrf": session.csrf(ctx.vault),
        "expires_at": time_text(session.expires_at),
        "user": user.id,
        "role": user.spec["role"],
    }
    return answer(given, 200, {"Cache-Control": "no-store", "Set-Cookie": set_cookie(token, LIFETIME_S)})


async def _is_password(ctx: Context, name: str, password: str, user: Document | None, source: str | None) -> bool:
    """Whether this is the password of `user` (None: of nobody). Raises `TooManyRequests` where it is not looked at."""
    address = source or "unknown"
    wait_s = ctx.throttle.attempt(name, address, time.monotonic())
    if wait_s > 0:
        again = time_text(int((time.time() + wait_s) * 1000))
        raise TooManyRequests(f"too many failed logins: try again after {again}", retry_after_s=wait_s)
    try:
        good = await ctx.passwords.matches(password, user.spec["password_hash"] if user is not None else None)
    except TooManyRequests:
        ctx.throttle.withdrawn(name, address)
        raise
    if good:
        ctx.throttle.succeeded(name, address)
    return good


@router.get("/session")
@needs("viewer")
async def get_session(request: Request) -> Response:
    """Who asks, and what they may do."""
    ctx, _, principal = await reading(request)
    session = principal.session
    given: dict[str, Any] = {
        "principal": principal.name,
        "role": principal.role,
        "scope": principal.scope,
        "user": session.user if session is not None else None,
        "expires_at": time_text(session.expires_at) if session is not None else None,
        "csrf": session.csrf(ctx.vault) if session is not None else None,
    }
    return answer(given, 200, {"Cache-Control": "no-store"})


@router.delete("/session")
@needs("viewer")
async def logout(request: Request) -> Response:
    """End the session that asks."""
    session = (await reading(request))[2].session
    if session is None:
        raise Refused("this is a token, not a session: DELETE /tokens/{id} revokes it")
    spec = SessionSpec(user=session.user, expires_at=session.expires_at)
    response = await respond(request, lambda _: c.EndSession(session.id, spec))
    if response.status_code == 204:
        response.headers["Set-Cookie"] = set_cookie("", 0)
    return response
