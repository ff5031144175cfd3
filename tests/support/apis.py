"""A provider's API in this process: the real application on the real engine and store; log and broker in memory.

with ApiNode(tmp_path) as p1:
    p1.ask("GET", "/cluster").json
"""

import asyncio
import ssl
import threading
import time
from collections.abc import Coroutine, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import httpx2
from fastapi import FastAPI

from provider import founding
from provider.api.access.refused import TokensRefused
from provider.api.app import create_app
from provider.api.context import Context
from provider.api.forward import Forwarder
from provider.api.gateway import Gateway, Signal
from provider.api.http.guard import Guard
from provider.api.http.source import PEER
from provider.api.record.refusals import Refusals
from provider.api.record.telling import Telling
from provider.core import documents as docs
from provider.core.commands import Command, put
from provider.core.commands.base import Plan
from provider.core.state import Answer, State
from provider.fleet.hub import Hub
from provider.metrics import metrics_of, render
from provider.trust.membership import Membership
from provider.trust.vault import Vault, data_keys, new_private_key, public_key
from shared.bus import Topology
from shared.messages import NodePulse
from shared.tls import client_context
from tests.support.engines import PATIENCE_S, Host
from tests.support.memory_bus import MemoryBroker, MemoryLink
from tests.support.memory_log import MemoryLogStream

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Said:
    """An answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    cookies: Mapping[str, str]

    @property
    def json(self) -> Any:
        return httpx2.Response(self.status, content=self.body).json()

    @property
    def code(self) -> str:
        """The problem's code."""
        return str(self.json["code"])


class ApiNode:
    """A cluster of one node, made by `provider init` and asked without a network. `admin` is its first token."""

    def __init__(self, directory: Path, *, name: str = "p1") -> None:
        self.name = name
        place = founding.Place(directory / "provider.toml", name, "https://127.0.0.1:1")
        broker = {"endpoints": ["amqps://127.0.0.1:1"], "username": "bellwether", "management": None}
        self.admin = founding.init(place, broker, ("bellwether", "secret"))
        self.settings, self.files = place.settings(broker), place.files
        with closing(place.open_store()) as store:
            self._seed, _ = store.load()
        self._directory = directory
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="api-loop", daemon=True)

    def __enter__(self) -> "ApiNode":
        self._thread.start()
        self.host = Host(self.name, MemoryLogStream(), self._directory, seed=self._seed)
        private = self.files.secrets_key.read_text(encoding="ascii")
        self.vault = Vault(data_keys(self._seed.of("key"), self.name, private))
        self.membership = Membership(self.settings, self.files, self.vault)
        self.hub = self._hub()
        self.context = self.run(self._context())
        self.telling = Telling(self.context)
        self.app: FastAPI = create_app(self.context)
        self.host.on_change.append(self.context.gateway.changed.notify)
        self.host.listeners.append(self.context.gateway.results)
        self.host.start()
        self.host.caught_up()
        return self

    def __exit__(self, *_: object) -> None:
        self.host.log.open()
        self.host.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_S)
        self._loop.close()

    @property
    def state(self) -> State:
        return self.host.engine.state

    @property
    def certificate(self) -> bytes:
        """The node's own, DER: what it shows when it speaks to others."""
        return ssl.PEM_cert_to_DER_cert(self.files.certificate.read_text(encoding="ascii"))

    def commit(self, command: Command) -> Answer:
        """What the cluster itself would do: no request, no principal."""
        return self.host.answer(self.host.submit(command))

    def run(self, story: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine on the node's event loop."""
        return asyncio.run_coroutine_threadsafe(story, self._loop).result(PATIENCE_S)

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        token: str | None = "",
        headers: Mapping[str, str] | None = None,
        source: str = "192.0.2.1",
        peer: bytes | None = None,
    ) -> Said:
        """A request to a path below /api/v1 (or a whole one). As the administrator, or with `token`, or with none; over
        a connection that shows the certificate `peer` (DER), or none."""
        sent = dict(headers or {})
        if token is not None:
            sent["Authorization"] = f"Bearer {token or self.admin}"
        return self.run(self._ask(method, path, body, sent, source, peer))

    async def _ask(
        self, method: str, path: str, body: object, headers: Mapping[str, str], source: str, peer: bytes | None
    ) -> Said:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await self.app({**scope, PEER: peer}, receive, send)

        transport = httpx2.ASGITransport(app, client=(source, 1))
        url = path if path.startswith(("/api/", "/health", "/metrics")) else f"/api/v1{path}"
        async with httpx2.AsyncClient(transport=transport, base_url=self.settings.url) as client:
            answer = await client.request(
                method, url, json=body, headers=[(name, value.encode("latin-1")) for name, value in headers.items()]
            )
        return Said(answer.status_code, answer.headers, answer.content, dict(answer.cookies))

    def _hub(self) -> Hub:
        broker = MemoryBroker()

        def link(topology: Topology, up: Any, down: Any) -> MemoryLink:
            return MemoryLink(broker, name=uuid4().hex, topology=topology, on_up=up, on_down=down)

        return Hub(
            node=self.name,
            username="bellwether",
            state=self._seed,
            make_link=link,
            submit=lambda _command, ended: ended(False),
            advice=self.membership.advice,
            unseal=self.vault.unseal,
            pulse=lambda: NodePulse(
                role="primary", state="active", reason=None, version="0", revision=1, digest="", started=""
            ),
            on_change=lambda: None,
            on_refused=lambda _refused: None,
        )

    async def _context(self) -> Context:
        loop = asyncio.get_running_loop()
        guard, refused = Guard(self.settings.api), TokensRefused()
        refusals = Refusals(self.name)
        registry = metrics_of(self.name, self.host.engine, self.hub, self.membership, guard, refusals.counts, refused)
        return Context(
            settings=self.settings,
            gateway=Gateway(self.host.engine, loop),
            hub=self.hub,
            heard=Signal(loop),
            vault=self.vault,
            membership=self.membership,
            past=self.host.store,
            history=self.host.store.history,
            oldest_history=self.host.store.oldest_history,
            broker_user_ready=_at_once,
            forwarder=Forwarder(node=self.name, tls=lambda: client_context(self.files.ca), timeout_s=1.0),
            guard=guard,
            refusals=refusals,
            metrics=lambda: render(registry),
            tokens_refused=refused,
            untrusting=lambda _state: [],
        )


async def _at_once(_agent: str) -> None:
    return None


def later_ms(seconds: float) -> int:
    """Unix milliseconds, so many seconds from now."""
    return int((time.time() + seconds) * 1000)


@dataclass(frozen=True)
class Members:
    """These nodes, each with a broker of its own; `p1` is one already, and is given one."""

    numbers: tuple[int, ...]

    def plan(self, state: State, now: int) -> Plan:
        first = state.of("node")[0]
        changes = []
        for number in self.numbers:
            broker = docs.BrokerNode(node=f"rabbit@p{number}", version="4.0.5", address=f"10.0.0.{number}")
            said = {"url": f"https://p{number}:1", "public_key": public_key(new_private_key())} if number > 1 else {}
            spec = docs.NodeSpec.model_validate({**first.spec, **said, "broker": broker})
            changes.append(put("node", f"p{number}", spec))
        return Plan(200, None, tuple(changes))
