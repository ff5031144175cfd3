"""Backups: what closes them and what is known of them; after a restore, what there is to be decided on."""

import time
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from provider.api import direct
from provider.api.access.auth import Principal
from provider.api.access.policy import Rule, needs
from provider.api.context import context
from provider.api.reads import answer, paging, reading
from provider.api.routes.resources import documented, parse
from provider.api.views import page, time_text
from provider.api.writes import Write, commit, receive, render, respond, to_primary
from provider.backup.review import review, to_adopt
from provider.backup.schedule import standing
from provider.core import commands as c
from provider.core.documents import Name
from provider.core.state import State
from shared.errors import Invalid

router = direct.router("backups")
Hex256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, le=2**63 - 1)]
Text = Annotated[str, StringConstraints(max_length=1500)]


class KeyBody(BaseModel):
    model_config = ConfigDict(extra="forbid")

    public: Hex256 = Field(description="X25519, hex: backups are closed for it")
    secret: Hex256 = Field(repr=False, description="that the key's file and the cluster share, hex")


class MadeBody(BaseModel):
    """Times are Unix ms."""

    model_config = ConfigDict(extra="forbid")

    name: Text
    where: Text
    node: Name
    at: Count
    epoch: Count
    revision: Count
    documents: Count
    size_bytes: Count
    sha256: Hex256


class BackupBody(BaseModel):
    model_config = ConfigDict(extra="forbid")

    made: MadeBody | None = None
    scheduled: bool = False
    failed: Text | None = Field(default=None, description="why it was not made")


class CredentialBody(BaseModel):
    model_config = ConfigDict(extra="forbid")

    number: Count
    broker_password_hash: str = Field(pattern="^[A-Za-z0-9+/]{48}$", repr=False, description="as RabbitMQ keeps it")


class ChosenBody(BaseModel):
    """Names; with neither list, all."""

    model_config = ConfigDict(extra="forbid")

    databases: tuple[Annotated[str, StringConstraints(max_length=200)], ...] | None = Field(
        default=None, max_length=c.ADOPTED_MAX
    )
    accounts: tuple[Annotated[str, StringConstraints(max_length=200)], ...] | None = Field(
        default=None, max_length=c.ADOPTED_MAX
    )

    @property
    def names(self) -> dict[c.WishKind, tuple[str, ...]] | None:
        if self.databases is None and self.accounts is None:
            return None
        return {"database": self.databases or (), "account": self.accounts or ()}


def backups_view(state: State, now_ms: int) -> dict[str, Any]:
    """`backup.schedule.standing`, with times for people."""
    found = standing(state, now_ms)
    for name in ("last", "scheduled", "failed"):
        if found[name] is not None:
            found[name] = {**found[name], "at": time_text(found[name]["at"])}
    if found["schedule"] is not None:
        due_at = found["schedule"]["due_at"] or None
        found["schedule"] = {**found["schedule"], "due_at": time_text(due_at)}
    return found


@router.get("/backups")
@needs("viewer")
async def get_backups(request: Request) -> Response:
    """When the last backup was made, where it is, when the next one is due, and for which recovery key."""
    _, state, _ = await reading(request)
    return answer({**backups_view(state, int(time.time() * 1000)), "restored": restored_view(state)})


def restored_view(state: State) -> dict[str, Any] | None:
    """From which backup this cluster was restored, until its review has ended."""
    known = c.restored(state)
    if known is None:
        return None
    backup = {**known["backup"], "at": time_text(known["backup"]["at"])}
    return {"at": time_text(known["at"]), "backup": backup, "forgotten": known["forgotten"]}


@router.post("/backups", openapi_extra=documented(BackupBody))
@needs("admin")
async def note_backup(request: Request) -> Response:
    """Note that a backup was made. `provider backup` does so."""

    def make(write: Write) -> c.Command:
        body = parse(write.body, BackupBody)
        if (body.made is None) == (body.failed is None):
            raise Invalid("either `made` tells of a backup, or `failed` says why there is none")
        made = body.made.model_dump() if body.made is not None else None
        return c.NoteBackup(made, body.scheduled, body.failed)

    return await respond(request, make)


@router.put("/backups/key", openapi_extra=documented(KeyBody))
@needs("admin")
async def put_key(request: Request) -> Response:
    """Close backups for another recovery key from now on. Older ones open with the one that they were made for."""
    vault = context(request).vault

    def make(write: Write) -> c.Command:
        body = parse(write.body, KeyBody)
        return c.PutRecoveryKey(body.public, vault.seal(body.secret, c.RECOVERY))

    return await respond(request, make)


# ── after a restore ──


def _own_credential(principal: Principal, parameters: Mapping[str, Any]) -> Rule:
    """an agent: its own, after a restore; else admin"""
    return "agent" if principal.name == f"agent:{parameters['agent']}" else "admin"


@router.put("/agents/{agent}/credential", openapi_extra=documented(CredentialBody))
@needs("agent", by=_own_credential)
async def tell_credential(request: Request, agent: str) -> Response:
    """After a restore: the agent says which broker password it has by now, where the backup knows an older one. Told at
    another time, or again, it changes nothing."""

    def make(write: Write) -> c.Command:
        body = parse(write.body, CredentialBody)
        return c.TellCredential(agent, body.number, body.broker_password_hash)

    return await respond(request, make)


@router.get("/adoption")
@needs("viewer")
async def get_adoption(request: Request) -> Response:
    """What is held, and what is on the servers and in no wish. Filter: `instance`."""
    ctx, state, _ = await reading(request)
    instance = request.query_params.get("instance")
    if instance is not None:
        c.need(state, "instance", instance)
    found = await run_in_threadpool(review, state, ctx.hub.view, instance)  # of all there is: it may take a second
    items = (item.shown() for item in found)
    limit, after = paging(request)
    return answer({**page(items, state.revision, limit, after), "restored": restored_view(state)})


@router.delete("/adoption")
@needs("admin")
async def end_review(request: Request) -> Response:
    """The review after a restore has ended. Refused while wishes are held; what is in no wish stays as it is."""
    return await respond(request, lambda _: c.EndReview())


@router.post("/instances/{instance}/adopt", openapi_extra=documented(ChosenBody))
@needs("operator")
async def adopt(request: Request, instance: str) -> Response:
    """Have the cluster wish what the server has. Nothing on the server is changed."""
    write = await receive(request)
    ctx = context(request)
    chosen = parse(write.body, ChosenBody)
    elsewhere = await to_primary(ctx, write)
    if elsewhere is not None:
        return render(elsewhere)
    state = ctx.gateway.state
    c.need(state, "instance", instance)
    adopted = await run_in_threadpool(to_adopt, state, ctx.hub.view, instance, chosen.names)
    return render(await commit(ctx, write, c.AdoptWishes(instance, adopted)))


@router.post("/instances/{instance}/release", openapi_extra=documented(ChosenBody))
@needs("operator")
async def release(request: Request, instance: str) -> Response:
    """Have the server made as held wishes say. This changes passwords, privileges and properties on the server."""
    return await respond(request, lambda w: c.ReleaseWishes(instance, parse(w.body, ChosenBody).names))


@router.post("/instances/{instance}/ignore", openapi_extra=documented(ChosenBody))
@needs("operator")
async def ignore(request: Request, instance: str) -> Response:
    """Speak no more of these, which are on the server and in no wish. They stay as they are."""
    return await respond(request, lambda w: c.IgnoreUnmanaged(instance, parse(w.body, ChosenBody).names or {}))
