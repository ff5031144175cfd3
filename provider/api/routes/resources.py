"""Instances, and what is asked of them: databases and accounts. Settings."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeVar

from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from provider.api import direct
from provider.api.access.auth import Principal
from provider.api.access.policy import Rule, needs
from provider.api.context import context
from provider.api.http.limits import too_deep
from provider.api.reads import answer, choice, flag, paging, reading, shown
from provider.api.views import document_view, instance_view, page, rest
from provider.api.writes import Write, commit, receive, render, respond, to_primary
from provider.backup.review import unmanaged
from provider.core import commands as c
from provider.core.documents import AccountSpec, DatabaseSpec
from shared.errors import Invalid

router = direct.router()
Password = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^[^\x00]*$")]
T = TypeVar("T", bound=BaseModel)


class DatabaseBody(DatabaseSpec):
    """What a database should be like. What is left out stays as the server has it."""


class AccountBody(AccountSpec):
    """What an account should be like. Without `password` the one that it has is kept."""

    password: Password | None = None


class SettingBody(BaseModel):
    model_config = ConfigDict(extra="forbid")

    value: Any


def parse(body: bytes, model: type[T]) -> T:
    """The body as `model`. Raises `Invalid` with the field and what is wrong with it; the value is never repeated."""
    if too_deep(body):
        raise Invalid("body: arrays and objects are nested more than 64 levels deep")
    try:
        return model.model_validate_json(body or b"{}")
    except (ValidationError, ValueError, RecursionError) as error:
        if not isinstance(error, ValidationError):
            raise Invalid("body: not JSON that can be read") from None
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "body"
        raise Invalid(f"{where}: {first['msg']}") from None


def documented(model: type[BaseModel]) -> dict[str, Any]:
    """The request body for the OpenAPI document: the routes read bodies themselves, to forward them unchanged."""
    schema = model.model_json_schema(ref_template="{model}")
    content = {"application/json": {"schema": _inlined(schema, schema.pop("$defs", {}))}}
    return {"requestBody": {"required": True, "content": content}}


def _inlined(schema: Any, parts: dict[str, Any]) -> Any:
    """`schema` with each reference replaced by what it names: an operation cannot bring components of its own."""
    if isinstance(schema, list):
        return [_inlined(item, parts) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(parts[schema["$ref"]], parts)
    return {key: _inlined(value, parts) for key, value in schema.items()}


# ── instances ──


@router.get("/instances", tags=["instances"])
@needs("viewer")
async def list_instances(request: Request) -> Response:
    """What each agent looks after. Filters: `agent`, `state` (up, down, unknown)."""
    ctx, state, _ = await reading(request)
    wanted = choice(request, "state", ("up", "down", "unknown"))
    agent = request.query_params.get("agent")
    limit, after = paging(request)
    items = (
        instance_view(document, ctx.hub.view)
        for document in rest(state.of("instance"), after)
        if (wanted is None or document.status["state"] == wanted) and (agent is None or document.spec["agent"] == agent)
    )
    return answer(page(items, state.revision, limit, after))


@router.get("/instances/{instance}", tags=["instances"])
@needs("viewer")
async def get_instance(request: Request, instance: str) -> Response:
    """An instance, what its agent last reported, and what of that is in no wish (`status.unmanaged`)."""
    ctx, state, _ = await reading(request)
    document = c.need(state, "instance", instance)
    view = instance_view(document, ctx.hub.view)
    view["status"]["unmanaged"] = unmanaged(state, ctx.hub.view, document)
    return shown(document, view, request, live=True)


# ── databases and accounts ──


async def _list(request: Request, kind: Literal["database", "account"], instance: str) -> Response:
    _, state, _ = await reading(request)
    c.need(state, "instance", instance)
    limit, after = paging(request)
    items = (document_view(document) for document in rest(state.within(kind, instance), after))
    return answer(page(items, state.revision, limit, after))


async def _get(request: Request, kind: Literal["database", "account"], instance: str, name: str) -> Response:
    _, state, _ = await reading(request)
    document = c.need(state, kind, f"{instance}/{name}")
    return shown(document, document_view(document), request)


@router.get("/instances/{instance}/databases", tags=["databases"])
@needs("viewer")
async def list_databases(request: Request, instance: str) -> Response:
    return await _list(request, "database", instance)


@router.get("/instances/{instance}/databases/{name:path}", tags=["databases"])
@needs("viewer")
async def get_database(request: Request, instance: str, name: str) -> Response:
    return await _get(request, "database", instance, name)


@router.put("/instances/{instance}/databases/{name:path}", tags=["databases"], openapi_extra=documented(DatabaseBody))
@needs("operator")
async def put_database(request: Request, instance: str, name: str) -> Response:
    """Ask for a database. `status.phase` goes from `pending` to `ready`, or to `failed` with a message."""

    def make(write: Write) -> c.Command:
        body = parse(write.body, DatabaseBody)
        return c.PutWish("database", instance, name, DatabaseSpec(**body.model_dump()), write.when)

    return await respond(request, make)


@router.delete("/instances/{instance}/databases/{name:path}", tags=["databases"])
@needs("operator")
async def delete_database(request: Request, instance: str, name: str) -> Response:
    """Forget a database; with `?drop=true` its agent drops it, and all data in it, first."""
    drop = flag(request, "drop") or False
    return await respond(request, lambda write: c.DeleteWish("database", instance, name, drop, write.when))


@router.get("/instances/{instance}/accounts", tags=["accounts"])
@needs("viewer")
async def list_accounts(request: Request, instance: str) -> Response:
    return await _list(request, "account", instance)


@router.get("/instances/{instance}/accounts/{name:path}", tags=["accounts"])
@needs("viewer")
async def get_account(request: Request, instance: str, name: str) -> Response:
    return await _get(request, "account", instance, name)


@router.put("/instances/{instance}/accounts/{name:path}", tags=["accounts"], openapi_extra=documented(AccountBody))
@needs("operator")
async def put_account(request: Request, instance: str, name: str) -> Response:
    """Ask for an account with exactly these grants. The password is never shown again."""
    vault = context(request).vault

    def make(write: Write) -> c.Command:
        body = parse(write.body, AccountBody)
        sealed = vault.seal(body.password, f"{instance}/{name}") if body.password is not None else None
        spec = AccountSpec(host=body.host, grants=body.grants, password=sealed)
        return c.PutWish("account", instance, name, spec, write.when)

    return await respond(request, make)


@router.delete("/instances/{instance}/accounts/{name:path}", tags=["accounts"])
@needs("operator")
async def delete_account(request: Request, instance: str, name: str) -> Response:
    """Forget an account; with `?drop=true` its agent drops it first."""
    drop = flag(request, "drop") or False
    return await respond(request, lambda write: c.DeleteWish("account", instance, name, drop, write.when))


# ── settings ──


def _setting(_principal: Principal, parameters: Mapping[str, Any]) -> Rule:
    """keys that begin with `user.` or `rehearsal.`; the others need admin"""
    return "operator" if parameters["key"].startswith(c.FREE_SETTINGS) else "admin"


@router.get("/settings", tags=["settings"])
@needs("viewer")
async def list_settings(request: Request) -> Response:
    """Filter: `prefix`."""
    _, state, _ = await reading(request)
    prefix = request.query_params.get("prefix", "")
    limit, after = paging(request)
    documents = rest(state.of("setting"), after)
    items = (document_view(document) for document in documents if document.id.startswith(prefix))
    return answer(page(items, state.revision, limit, after))


@router.get("/settings/{key}", tags=["settings"])
@needs("viewer")
async def get_setting(request: Request, key: str) -> Response:
    _, state, _ = await reading(request)
    document = c.need(state, "setting", key)
    return shown(document, document_view(document), request)


@router.put("/settings/{key}", tags=["settings"], openapi_extra=documented(SettingBody))
@needs("operator", by=_setting)
async def put_setting(request: Request, key: str) -> Response:
    """Keys that begin with `user.` are free for your own use; the others are the cluster's, for administrators."""

    def make(write: Write) -> c.Command:
        return c.PutSetting(key, parse(write.body, SettingBody).value, write.when)

    if key == c.CERTIFICATE_HOSTS:
        return await _put_hosts(request, make)
    return await respond(request, make)


async def _put_hosts(request: Request, make: Callable[[Write], c.Command]) -> Response:
    """An authority that a user brought may not be allowed to sign for any host there is: found out here, or nobody
    would accept any node's next certificate."""
    write = await receive(request)
    ctx = context(request)
    elsewhere = await to_primary(ctx, write)
    if elsewhere is not None:
        return render(elsewhere)
    command, state = make(write), ctx.gateway.state
    command.plan(state, state.now)
    await run_in_threadpool(ctx.membership.try_hosts, state, parse(write.body, SettingBody).value)
    return render(await commit(ctx, write, command))


@router.delete("/settings/{key}", tags=["settings"])
@needs("operator", by=_setting)
async def delete_setting(request: Request, key: str) -> Response:
    return await respond(request, lambda write: c.DeleteSetting(key, write.when))


# ── tasks ──


@router.get("/tasks", tags=["tasks"])
@needs("viewer")
async def list_tasks(request: Request) -> Response:
    """Long work, its progress and its end. Filter: `phase` (pending, running, done, failed)."""
    _, state, _ = await reading(request)
    phase = choice(request, "phase", ("pending", "running", "done", "failed"))
    items = (document_view(document) for document in state.of("task") if phase in (None, document.status["phase"]))
    return answer(page(items, state.revision, *paging(request)))


@router.get("/tasks/{task}", tags=["tasks"])
@needs("viewer")
async def get_task(request: Request, task: str) -> Response:
    _, state, _ = await reading(request)
    document = c.need(state, "task", task)
    return shown(document, document_view(document), request)
