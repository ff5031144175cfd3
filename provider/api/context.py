"""Everything that a request handler may use. Made once, by `provider.daemon`."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from fastapi import Request

from provider.api.access.passwords import Passwords
from provider.api.access.refused import TokensRefused
from provider.api.access.throttle import Throttle
from provider.api.access.uses import Uses
from provider.api.forward import Forwarder
from provider.api.gateway import Gateway, Signal
from provider.api.http.guard import Guard
from provider.api.record.refusals import Refusals
from provider.core.commands import in_maintenance
from provider.core.state import State
from provider.fleet.hub import Hub
from provider.recovery.offered import Offered
from provider.settings import ProviderSettings
from provider.store import HistoryRow, Store
from provider.trust.membership import Membership
from provider.trust.vault import Vault


@dataclass(slots=True)
class Context:
    settings: ProviderSettings
    gateway: Gateway
    hub: Hub
    heard: Signal
    """Notified whenever `hub.view` is another."""
    vault: Vault
    membership: Membership
    past: Store
    """For what was: its history."""
    history: Callable[[int, int], list[HistoryRow]]
    oldest_history: Callable[[], int | None]
    broker_user_ready: Callable[[str], Awaitable[None]]
    """Waits until the broker knows the user of a new agent; see `provider.broker.reconciler`."""
    forwarder: Forwarder
    guard: Guard
    refusals: Refusals
    metrics: Callable[[], bytes]
    untrusting: Callable[[State], list[str]]
    """Nodes and agents that do not trust yet what is to be trusted; see `provider.trust.authorities`."""
    own_broker_problem: Callable[[], str | None] = lambda: None
    """Why root on this host cannot be told what its broker is to be, or has not made it so."""
    uses: Uses = field(default_factory=Uses)
    """When tokens were used."""
    passwords: Passwords = field(default_factory=Passwords)
    throttle: Throttle = field(default_factory=Throttle)
    """Of logins. On the event loop only."""
    tokens_refused: TokensRefused = field(default_factory=TokensRefused)
    strangers: int = 0
    """Requests that wait until their token is known here; see `provider.api.access.policy`."""
    audit_turn: asyncio.Semaphore = field(default_factory=partial(asyncio.Semaphore, 1))
    offered: Offered = field(default_factory=Offered)
    """States that were handed out lately."""
    ending: bool = False
    """This node is about to end: nothing that lasts is begun any more."""

    @property
    def node(self) -> str:
        return self.settings.name

    @property
    def is_primary(self) -> bool:
        return self.gateway.state.primary == self.node

    @property
    def in_maintenance(self) -> bool:
        """Of this node. It answers all it is asked, and asks clients to go elsewhere."""
        return in_maintenance(self.gateway.state, self.node)


def context(request: Request) -> Context:
    """The context of the application that serves `request`."""
    found: Any = request.app.state.context
    assert isinstance(found, Context)  # noqa: S101 - for the type checker
    return found
