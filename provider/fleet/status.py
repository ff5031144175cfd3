"""What is to be written down: where the state says something else than what an agent last said. Pure.

All that an agent says comes through here with each report, nearly always to find that nothing is new: so plain values
are compared first, and models are made only where they differ.
"""

from collections.abc import Iterator
from typing import Literal

from provider.core.commands import RegisterInstance, StatusUpdate
from provider.core.documents import AgentStatus, Document, InstanceSpec, InstanceStatus, WishStatus
from provider.core.state import State
from provider.fleet.follow import seen_status
from provider.fleet.view import AgentSeen
from shared import messages as m

_ENGINES = ("mariadb", "mysql", "postgresql")


def online(document: Document, seen: AgentSeen) -> Iterator[StatusUpdate]:
    """The agent in `document` is there, as `seen`."""
    said = {"state": "online", "version": seen.version, "endpoint": seen.endpoint, "epoch": seen.epoch}
    said |= seen_status(seen)
    if said != document.status:
        yield from _if_new(document, AgentStatus.model_validate(said))


def offline(state: State, document: Document, seen: AgentSeen | None) -> Iterator[StatusUpdate]:
    """The agent in `document` is silent: its instances may be up or not."""
    old = AgentStatus.model_validate(document.status)
    said = {"epoch": seen.epoch, **seen_status(seen)} if seen is not None else {}
    yield from _if_new(document, old.model_copy(update={"state": "offline", **said}))
    message = f"agent {document.id} is offline: this is the last that it said"
    for instance in state.within("instance", document.id):
        last = InstanceStatus.model_validate(instance.status)
        yield from _if_new(instance, last.model_copy(update={"state": "unknown", "message": message}))


def observed_instance(state: State, agent: str, observed: m.ObservedInstance) -> Iterator[StatusUpdate]:
    """An instance and what became of its wishes, as its agent sees them."""
    document = state.get("instance", observed.id)
    if document is None or document.spec["agent"] != agent:
        return
    yield from _instance(document, observed)
    for result in observed.database_results:
        yield from _wish(state.get("database", f"{observed.id}/{result.name}"), result)
    for result in observed.account_results:
        yield from _wish(state.get("account", f"{observed.id}/{result.name}"), result)


def unknown_instance(state: State, agent: str, observed: m.ObservedInstance) -> RegisterInstance | None:
    """The command that makes an instance known which the state does not have."""
    if state.get("instance", observed.id) is not None or observed.engine not in _ENGINES:
        return None
    spec = {
        "agent": agent,
        "engine": observed.engine,
        "host": observed.host,
        "port": observed.port,
        "socket": observed.socket,
    }
    return RegisterInstance(observed.id, InstanceSpec.model_validate(spec))


def agent_of(state: State, update: StatusUpdate) -> str | None:
    """Whose agent said what is in `update`."""
    if update.kind == "agent":
        return update.id
    instance = state.get("instance", update.id.partition("/")[0])
    return str(instance.spec["agent"]) if instance is not None else None


def _instance(document: Document, observed: m.ObservedInstance) -> Iterator[StatusUpdate]:
    old, up = document.status, observed.state == "up"
    said = {
        "state": observed.state,
        "message": observed.message,
        "version": observed.version or old.get("version"),
        "role": observed.role if up else old.get("role", "unknown"),
        "read_only": observed.read_only if up else old.get("read_only"),
    }
    if {name: value for name, value in said.items() if value is not None} != old:
        yield from _if_new(document, InstanceStatus.model_validate(said))


def _wish(document: Document | None, result: m.Result) -> Iterator[StatusUpdate]:
    if document is None or document.wish != result.version:
        return
    old = document.status
    if (old["phase"] == "held") != (result.phase == "held") and result.phase != "ready":
        return  # said before the agent heard that the wish is held, or is held no longer
    dropping = old["phase"] == "dropping"
    if result.phase == "dropped":
        if dropping:
            yield StatusUpdate(document.kind, document.id, None, document.wish)
        return
    phase: Literal["dropping", "ready", "failed", "held"] = "dropping" if dropping else result.phase
    if (phase, result.message) != (old["phase"], old.get("message")):
        yield from _if_new(document, WishStatus(phase=phase, message=result.message), wish=document.wish)


def _if_new(
    document: Document, status: AgentStatus | InstanceStatus | WishStatus, wish: int | None = None
) -> Iterator[StatusUpdate]:
    if status.model_dump(mode="json", exclude_none=True) != document.status:
        yield StatusUpdate(document.kind, document.id, status, wish)
