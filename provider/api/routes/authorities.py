"""Certificate authorities and the certificates that they sign."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ConfigDict, Field

from provider.api import direct
from provider.api.access.auth import Principal
from provider.api.access.policy import Rule, needs
from provider.api.context import Context, context
from provider.api.reads import answer, flag, paging, reading
from provider.api.routes.resources import documented, parse
from provider.api.views import document_view, page, time_text
from provider.api.writes import commit, receive, render, to_primary
from provider.broker.endpoints import endpoints, untrusted
from provider.core import commands as c
from provider.core.documents import BrokerNode, Document
from provider.core.state import Answer, State
from provider.settings import AmqpsUrl, HttpsUrl
from provider.trust import pki
from provider.trust.authorities import authority_id, checked_authority, hosts_of, trusted
from provider.trust.news import recording
from shared.errors import Forbidden, Invalid, Refused

router = direct.router("authorities")
PEM_MAX = 20_000
NAMED_MAX = 10


class AuthorityBody(BaseModel):
    """An authority of the user's own; neither field: a new one is made."""

    model_config = ConfigDict(extra="forbid")

    certificate: str | None = Field(default=None, max_length=PEM_MAX, description="PEM")
    key: str | None = Field(default=None, max_length=PEM_MAX, repr=False, description="PEM, unencrypted; kept sealed")


class CertificateBody(BaseModel):
    model_config = ConfigDict(extra="forbid")

    csr: str = Field(max_length=PEM_MAX, description="PEM")
    url: HttpsUrl | None = Field(default=None, description="where the node is now, if it has moved")
    endpoints: tuple[AmqpsUrl, ...] | None = Field(default=None, min_length=1, max_length=4, description="its broker's")
    version: str | None = Field(default=None, max_length=64, description="that it runs now")
    broker: BrokerNode | None = Field(default=None, description="its own broker, as it is now")

    @property
    def news(self) -> dict[str, Any]:
        """What is said besides the request."""
        return self.model_dump(mode="json", exclude={"csr"}, exclude_none=True)


def authority_view(ctx: Context, state: State, authority: Document) -> dict[str, Any]:
    """An authority, and who still keeps it from the next step."""
    certificate = pki.read_certificate(authority.spec["certificate"])
    used_by = [
        node.id
        for node in state.of("node")
        if any(one["authority"] == authority.id for one in node.spec.get("certificates", ())[:1])
    ]
    status = {
        "name": certificate.name,
        "expires_at": time_text(int(certificate.not_after.timestamp() * 1000)),
        "days_left": round(certificate.days_left(datetime.now(UTC)), 1),
        "used_by": used_by,
        # Of all authorities together: trust is one bundle.
        "not_trusted_by": ctx.untrusting(state),
    }
    return {**document_view(authority), "status": status}


@router.get("/authorities")
@needs("viewer")
async def list_authorities(request: Request) -> Response:
    """Whom the cluster trusts: the authority that signs first."""
    ctx, state, _ = await reading(request)
    items = sorted((authority_view(ctx, state, one) for one in trusted(state)), key=lambda item: str(item["id"]))
    return answer(page(items, state.revision, *paging(request)))


@router.get("/authorities/{authority}")
@needs("viewer")
async def get_authority(request: Request, authority: str) -> Response:
    ctx, state, _ = await reading(request)
    return answer(authority_view(ctx, state, c.need(state, "authority", authority)))


@router.post("/authorities", openapi_extra=documented(AuthorityBody))
@needs("admin")
async def add_authority(request: Request) -> Response:
    """Begin to replace the authority: one more is trusted by all nodes and agents. As soon as all of them do, it signs,
    and the nodes renew their certificates. Then the old one can be deleted."""
    write = await receive(request)
    ctx: Context = request.app.state.context
    elsewhere = await to_primary(ctx, write)  # first: what is made here is made once
    if elsewhere is not None:
        return render(elsewhere)
    body = parse(write.body, AuthorityBody)
    if (body.certificate is None) != (body.key is None):
        raise Invalid("certificate and key belong together: give both, or neither to have a new authority made")
    if body.certificate is not None and body.key is not None:
        key, hosts = body.key, hosts_of(ctx.gateway.state)
        id_, certificate = await run_in_threadpool(checked_authority, body.certificate, key, hosts)
    else:
        certificate, key = pki.new_ca()
        id_ = authority_id(certificate)
    result = await commit(ctx, write, c.AddAuthority(id_, ctx.membership.authority(certificate, key, id_)))
    return render(result)


@router.post("/authorities/{authority}/sign")
@needs("admin")
async def sign_with(request: Request, authority: str) -> Response:
    """Have this authority sign from now on. Done by itself as soon as everybody trusts it; `?force=true` does not wait:
    who does not trust it yet is then cut off until told by hand."""
    write = await receive(request)
    ctx: Context = request.app.state.context
    elsewhere = await to_primary(ctx, write)
    if elsewhere is not None:
        return render(elsewhere)
    missing = ctx.untrusting(ctx.gateway.state)
    if missing and not flag(request, "force"):
        named = ", ".join(missing[:NAMED_MAX]) + (
            f" and {len(missing) - NAMED_MAX} more" if missing[NAMED_MAX:] else ""
        )
        raise Refused(f"not everybody trusts authority {authority} yet: {named}; ?force=true would cut them off")
    return render(await commit(ctx, write, c.SignWith(authority)))


@router.delete("/authorities/{authority}")
@needs("admin")
async def drop_authority(request: Request, authority: str) -> Response:
    """Trust an authority no more. Refused while it signs, or while a node or a broker still shows a certificate of it.
    A broker reads its files again every two minutes or so."""
    write = await receive(request)
    ctx: Context = request.app.state.context
    elsewhere = await to_primary(ctx, write)
    if elsewhere is not None:
        return render(elsewhere)
    state = ctx.gateway.state
    rest = "".join(one.spec["certificate"] for one in trusted(state) if one.id != authority)
    if rest and state.get("authority", authority) is not None and not flag(request, "force"):
        wrong = await run_in_threadpool(untrusted, endpoints(state), rest)
        if wrong:
            raise Refused(f"without authority {authority} these could not be trusted: {_some(wrong)}. Try again soon")
    return render(await commit(ctx, write, c.DropAuthority(authority)))


def _some(names: list[str]) -> str:
    more = len(names) - NAMED_MAX
    return ", ".join(names[:NAMED_MAX]) + (f" and {more} more" if more > 0 else "")


def _itself(_principal: Principal, _parameters: Mapping[str, Any]) -> Rule:
    """a node for itself; its token alone will do, since its certificate may have expired"""
    return "node:token"


@router.post("/nodes/{name}/certificate", openapi_extra=documented(CertificateBody))
@needs("node:token", by=_itself)
async def renew_certificate(request: Request, name: str) -> Response:
    """A new certificate for the node that asks, and what else is new about it: another address, another version. Nodes
    do this by themselves."""
    write = await receive(request)
    ctx = context(request)
    if write.principal.name != f"node:{name}":
        raise Forbidden("a node may have its own certificate renewed only")
    elsewhere = await to_primary(ctx, write)
    if elsewhere is not None:
        return render(elsewhere)
    state, body = ctx.gateway.state, parse(write.body, CertificateBody)
    if body.news and write.principal.role != "node":
        raise Forbidden("where a node is it says with its certificate: its token alone will not do for that")
    certificate, recorded = ctx.membership.renew(state, body.csr, name, body.url)
    result = await commit(ctx, write, recording(name, recorded, body.news))
    if not isinstance(result, Answer):
        return render(result)
    return answer({"certificate": certificate, "revision": result.revision})
