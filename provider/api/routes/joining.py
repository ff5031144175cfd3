"""How newcomers get in: nodes and agents, each with a one-time token."""

from dataclasses import replace
from typing import Annotated, Any

from fastapi import Request, Response
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from provider.api import direct
from provider.api.access.policy import needs
from provider.api.context import Context, context
from provider.api.reads import answer
from provider.api.routes.resources import documented, parse
from provider.api.writes import Write, commit, receive, render, to_primary
from provider.broker.host.facts import Facts, objections
from provider.core import commands as c
from provider.core.documents import (
    AgentSpec,
    BrokerNode,
    InstanceSpec,
    Label,
    Name,
    NodeSpec,
    Placement,
    SettingKey,
)
from provider.core.state import Answer, State
from provider.settings import AmqpsUrl, HttpsUrl, configuration
from provider.trust.authorities import bundle
from shared.errors import Refused
from shared.version import VERSION

router = direct.router("joining")
Hex256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class JoinBody(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Name
    url: HttpsUrl
    version: str = Field(max_length=64)
    csr: str = Field(max_length=10_000)
    public_key: Hex256 = Field(description="X25519, hex: the cluster's data keys are wrapped for it")
    token_sha256: Hex256 = Field(description="of the secret in the node's own token, hex")
    broker_password_hash: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9+/]{48}$")] = Field(
        description="of the password of the node's own broker user, as RabbitMQ keeps it"
    )
    endpoints: tuple[AmqpsUrl, ...] = Field(default=(), max_length=4, description="of the node's own broker, if any")
    broker: BrokerNode | None = Field(default=None, description="that broker, where it is to be one of the cluster's")
    labels: dict[Placement, Label] = Field(default_factory=dict, description="where the node is placed")
    settings: dict[SettingKey, Any] = Field(
        default_factory=dict, max_length=100, description="what it does not take over from the cluster; has to be alike"
    )
    clock_skew_s: float | None = Field(
        default=None, description="seconds that its clock is ahead of the cluster's, as it measured; negative: behind"
    )


class InstanceBody(BaseModel):
    model_config = ConfigDict(extra="forbid")

    id: Name
    engine: Annotated[str, StringConstraints(pattern="^(mariadb|mysql|postgresql)$")]
    host: str | None = Field(default=None, max_length=255)
    port: int | None = Field(default=None, ge=1, le=65535)
    socket: str | None = Field(default=None, max_length=255)


class EnrollBody(BaseModel):
    model_config = ConfigDict(extra="forbid")

    id: Name
    version: str = Field(max_length=64)
    token_sha256: str = Field(pattern="^[0-9a-f]{64}$", description="of the secret in the agent's own token")
    broker_password_hash: str = Field(
        pattern="^[A-Za-z0-9+/]{48}$", description="of its password on the broker, as RabbitMQ keeps it"
    )
    instances: tuple[InstanceBody, ...] = Field(default=(), max_length=100)


@router.get("/ca")
@needs("open")
async def ca(request: Request) -> Response:
    """The cluster's certificate authority. A newcomer compares it with the fingerprint in its token."""
    return PlainTextResponse(bundle(context(request).gateway.state), media_type="application/x-pem-file")


async def _newcomer(request: Request) -> tuple[Context, Write]:
    """A write that is authenticated by a one-time token alone. Raises `TooLarge`, `Invalid`.

    Without a key: what is answered holds secrets that are made for this answer alone.
    """
    write = await receive(request)
    return context(request), replace(write, key=None, when=c.ALWAYS)


@router.post("/join", openapi_extra=documented(JoinBody))
@needs("newcomer:node")
async def join(request: Request) -> Response:
    """Make a new node a member. It sends no secret and gets none: it made its own, and can open the data keys in the
    state that it fetches next, since they are wrapped for it."""
    ctx, write = await _newcomer(request)
    body = parse(write.body, JoinBody)
    elsewhere = await to_primary(ctx, write)
    if elsewhere is not None:
        return render(elsewhere)
    state = ctx.gateway.state
    own_broker = own_broker_of(state, body)
    certificate, recorded = ctx.membership.sign(
        state, body.csr, body.name, body.url, own_broker.host if own_broker is not None else None
    )
    command = c.JoinNode(
        body.name,
        write.principal.id,
        _spec(ctx, state, body, own_broker).model_copy(update={"certificates": (recorded,)}),
        ctx.vault.wrapped_for(body.public_key),
        says={**body.settings, "version": body.version},
        cluster={**configuration(ctx.settings), "version": VERSION},
        clock_skew_s=body.clock_skew_s,
    )
    result = await commit(ctx, write, command)
    if not isinstance(result, Answer):
        return render(result)
    given = ctx.membership.given_to_node(state, certificate, body.url, own_broker=own_broker is not None)
    shown = {"revision": result.revision, "generation": state.generation, "own_broker": own_broker is not None}
    return answer({**given, **shown}, 201)


def _spec(ctx: Context, state: State, body: JoinBody, own_broker: BrokerNode | None) -> NodeSpec:
    broker = ctx.settings.broker
    kept = body.endpoints if own_broker is not None or body.broker is None else ()
    said: dict[str, Any] = {
        "url": body.url,
        "endpoints": kept or broker.endpoints,
        "version": body.version,
        "token_sha256": body.token_sha256,
        "public_key": body.public_key,
        "certificates": (),
    }
    if broker.management is not None or state.get("credential", c.BROKER_ADMIN) is not None:
        said["broker_password_hash"] = body.broker_password_hash
    if own_broker is not None:
        said["broker"] = own_broker
    if body.labels:
        said["labels"] = body.labels
    return NodeSpec(**said)


def own_broker_of(state: State, body: JoinBody) -> BrokerNode | None:
    """The newcomer's own broker, where the cluster's are ours to administer, whether the primary has one or another
    member: then it is one of them, and one that could not be is refused before anything is changed. Raises
    `Refused`."""
    brokers = {
        node.id: BrokerNode.model_validate(node.spec["broker"]) for node in state.of("node") if "broker" in node.spec
    }
    if not brokers:
        return None
    if body.broker is None:
        if body.endpoints:
            raise Refused(
                "a broker of the newcomer's own has to be one with the cluster's, or it would have another log: run "
                "`provider join` as root on the host of that broker, or without --broker-endpoint"
            )
        return None
    own = Facts(body.broker.node, body.broker.version, body.broker.plugins, (body.broker.node,), ())
    problems = objections(own, [broker for name, broker in brokers.items() if name != body.name])
    if problems:
        raise Refused("; ".join(problems))
    return body.broker


@router.post("/enroll", openapi_extra=documented(EnrollBody))
@needs("newcomer:agent")
async def enroll(request: Request) -> Response:
    """Make a new agent and its instances known. It has made its secrets itself: none goes over the wire."""
    ctx, write = await _newcomer(request)
    body = parse(write.body, EnrollBody)
    if body.id in ctx.membership.broker_names(ctx.gateway.state):
        raise Refused(f"{body.id!r} is the providers' own name on the broker: choose another id")
    spec = AgentSpec(token_sha256=body.token_sha256, broker_password_hash=body.broker_password_hash)
    instances = tuple(
        (i.id, InstanceSpec.model_validate({**i.model_dump(exclude={"id"}), "agent": body.id})) for i in body.instances
    )
    result = await commit(ctx, write, c.EnrollAgent(body.id, write.principal.id, spec, instances))
    if not isinstance(result, Answer):
        return render(result)
    await ctx.broker_user_ready(body.id)
    advice = ctx.membership.advice(ctx.gateway.state).model_dump(mode="json")
    return answer({"username": body.id, "advice": advice}, 201)
