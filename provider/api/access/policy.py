"""Which role each route needs: said once, beside the route, and checked in one place before the endpoint runs.

    @router.get("/tokens")
    @needs("admin")
    async def list_tokens(request): ...

`DirectRoute` asks `admit` before it calls the endpoint; `create_app` refuses a route that says nothing.
"""

import hmac
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

from starlette.routing import BaseRoute
from starlette.types import Scope

from provider.api.access.auth import Principal, authenticate, newcomer, person
from provider.api.access.sessions import CSRF_HEADER, PREFIX, cookie_in, session_of
from provider.api.context import Context
from provider.api.http.limits import group
from provider.api.http.source import PEER, SOURCE, client_address
from provider.condition import without_maintenance
from provider.trust.authorities import peer_node
from shared.errors import Behind, Forbidden, TokenRefused, Unauthenticated

Rule = Literal["open", "viewer", "operator", "admin", "node", "node:token", "agent", "newcomer:node", "newcomer:agent"]
"""What a route asks for: a role (whoever ranks above it may, too), `node` (a provider itself, nobody else),
`node:token` (the same, but its token alone will do: its certificate may have expired), `agent` (an agent, or a viewer),
a one-time token that has not been used, or nothing at all."""
By = Callable[[Principal, Mapping[str, Any]], Rule]
"""From who asks, and the path's parameters. Its docstring stands in docs/ROLES.md."""
_RANK: Mapping[str, int] = {"agent": 0, "viewer": 1, "operator": 2, "admin": 3, "node": 3}

PRINCIPAL = "bellwether.principal"
"""Where in the scope the principal stands; None on an open route."""
HEADERS = "bellwether.headers"
"""Where in the scope the headers stand, decoded once: a dict by lower-case name."""
POLICY = "bellwether.policy"
"""Where in the scope the policy stands that let the request in."""
BELOW = "/api/v1"
_BEARER = "Bearer "
FORWARDED, CLIENT = "bellwether-forwarded", "bellwether-client"
BETWEEN_NODES = (FORWARDED, CLIENT)
"""The node that forwards a request, and the address of the client who asked it. Believed of members, who show their
certificate; from anybody else they are dropped before anybody looks at them."""
NEWS_WAIT_S = 5.0
NEWS_WAITING_MAX = 64
"""Requests whose token is not known here yet. More are not held: nobody has vouched for them."""
_MARK = "bellwether_policy"
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Policy:
    """What one endpoint asks for. Where it depends on who asks for what, `by` says so; `rule` is then the least."""

    rule: Rule
    by: By | None = None

    def check(self, principal: Principal, parameters: Mapping[str, Any]) -> None:
        """Raises `Forbidden` where this principal may not do it."""
        rule = self.rule if self.by is None else self.by(principal, parameters)
        if not may(principal.role, rule):
            raise Forbidden(f"this needs the role {rule}; the token given is for {principal.role}")


def may(role: str, rule: Rule) -> bool:
    """Whether a principal of that role may do what `rule` guards."""
    if rule == "open":
        return True
    if rule == "node:token":
        return role in ("node", "node:token")
    if rule == "node" or rule not in _RANK or role not in _RANK:
        return role == rule
    return _RANK[role] >= _RANK[rule]


def needs(rule: Rule, by: By | None = None) -> Callable[[F], F]:
    """Below each `@router.…`: who may call this endpoint."""
    if rule not in get_args(Rule):
        raise ValueError(f"there is no rule {rule!r}")

    def mark(endpoint: F) -> F:
        setattr(endpoint, _MARK, Policy(rule, by))
        return endpoint

    return mark


def policy_of(endpoint: object) -> Policy | None:
    """What `needs` said; None where it said nothing."""
    found = getattr(endpoint, _MARK, None)
    return found if isinstance(found, Policy) else None


def check_all(routes: Iterable[BaseRoute]) -> None:
    """Raises `TypeError` for a route that would be served without a policy."""
    for route in routes:
        if not isinstance(getattr(route, "policy", None), Policy):
            raise TypeError(f"{getattr(route, 'path', route)} has no policy: put @needs(…) below its @router.…")


async def admit(policy: Policy, scope: Scope) -> None:
    """Lets a request pass: puts headers and principal into its scope. Raises `Unauthenticated`, `Forbidden`, `Behind`,
    `TooManyRequests`.

    A token that was made on another node a moment ago may not have arrived here. Where the client says which revision
    it has seen (`Bellwether-Min-Revision`), this node first gets as far, as it would for a read.
    """
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    scope[HEADERS], scope[POLICY] = headers, policy
    ctx: Context = scope["app"].state.context
    ours = _from_node(ctx, scope, headers)  # another node holds its own clients to their limits
    if policy.rule == "open":
        scope[PRINCIPAL] = None
        if not ours:
            ctx.guard.check_request(group(client_address(scope)), time.monotonic())
        return
    try:
        if "authorization" not in headers and "cookie" in headers:
            _from_cookie(ctx, scope["method"], headers)
        principal = await _identify(policy, ctx, headers, scope.get(PEER))
    except Unauthenticated:
        ctx.guard.check_stranger(client_address(scope), time.monotonic())
        raise
    scope[PRINCIPAL] = principal  # first: a refusal is noted with who was refused
    if not ours:
        ctx.guard.check_request(principal.name, time.monotonic())
    path: str = scope["path"]
    if not principal.reaches(path.removeprefix(BELOW)):
        raise Forbidden(f"this token is for {', '.join(principal.scope or ())} only")
    policy.check(principal, scope["path_params"])
    if principal.recorded is not None and not ours:  # the node that forwards has noted it
        ctx.uses.note(principal.recorded.id, client_address(scope))


def _from_node(ctx: Context, scope: Scope, headers: dict[str, str]) -> bool:
    """Whether a member asks. What only members may say is dropped where it comes from anybody else."""
    if peer_node(ctx.gateway.state, scope.get(PEER)) is None:
        for name in BETWEEN_NODES:
            headers.pop(name, None)
        return False
    if CLIENT in headers:
        scope[SOURCE] = headers[CLIENT]
    return True


async def _identify(policy: Policy, ctx: Context, headers: Mapping[str, str], peer: bytes | None) -> Principal:
    """Who asks, once this node has heard of them. Raises `Unauthenticated`, `Behind`."""
    try:
        return identify(policy, ctx, headers, peer_node(ctx.gateway.state, peer))
    except Unauthenticated:
        if not await _news(ctx, headers):
            raise
        return identify(policy, ctx, headers, peer_node(ctx.gateway.state, peer))


def identify(policy: Policy, ctx: Context, headers: Mapping[str, str], node: str | None) -> Principal:
    """Who asks, as of now. Raises `Unauthenticated`."""
    if policy.rule in ("newcomer:node", "newcomer:agent"):
        return newcomer(ctx.gateway.state, headers.get("authorization"), policy.rule.partition(":")[2])
    authorization = headers.get("authorization")
    if authorization is not None and authorization.startswith(PREFIX, len(_BEARER)):
        return person(ctx.gateway.state, authorization, ctx.vault)
    try:
        return authenticate(ctx.gateway.state, authorization, node)
    except TokenRefused as error:
        raise _of_this_node(ctx, error) from None


def _of_this_node(ctx: Context, error: TokenRefused) -> TokenRefused:
    """Whoever asks a node that was removed in that node's own name, as the commands on its host do, is told so. It
    says so to anybody at /health/ready."""
    here = without_maintenance(ctx.gateway.engine, ctx.node)
    if error.token_id != ctx.node or here.state != "removed":
        return error
    return TokenRefused(str(here.reason), reason=error.reason, token_id=error.token_id)


def still_good(scope: Scope) -> bool:
    """Whether a request that goes on for long would still be let in: its token may have been revoked, or be over."""
    policy: Policy = scope[POLICY]
    ctx: Context = scope["app"].state.context
    try:
        node = peer_node(ctx.gateway.state, scope.get(PEER))
        policy.check(identify(policy, ctx, scope[HEADERS], node), scope["path_params"])
    except (Unauthenticated, Forbidden):
        return False
    return True


def _from_cookie(ctx: Context, method: str, headers: dict[str, str]) -> None:
    """A browser's session, as if it had come as a bearer token: so it is forwarded, too. Raises `Unauthenticated`, or
    `Forbidden` for a write that a page of somebody else's could have made the browser send."""
    token = cookie_in(headers["cookie"])
    if token is None:
        return
    if method not in ("GET", "HEAD"):
        said = headers.get(CSRF_HEADER.lower(), "")
        if not hmac.compare_digest(said.encode(), session_of(token, ctx.vault).csrf(ctx.vault).encode()):
            raise Forbidden(f"a write with a cookie needs the header {CSRF_HEADER}, with what /login answered as csrf")
    headers["authorization"] = _BEARER + token


async def _news(ctx: Context, headers: Mapping[str, str]) -> bool:
    """Waits for the revision that the client has seen, if this node has not; whether it is worth another look.
    Raises `Behind`."""
    wanted = headers.get("bellwether-min-revision", "")
    if not wanted.isdecimal() or len(wanted) > 18 or "authorization" not in headers:
        return False
    if int(wanted) <= ctx.gateway.state.revision:
        return True  # perhaps only since it was looked at
    if ctx.strangers >= NEWS_WAITING_MAX:
        return False
    ctx.strangers += 1
    try:
        await ctx.gateway.reach(int(wanted), NEWS_WAIT_S)
    except Behind as error:
        raise Behind(f"{error.detail}. The token may be one that this node has not heard of yet") from None
    finally:
        ctx.strangers -= 1
    return True
