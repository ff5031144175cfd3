"""Who still uses this node: what somebody waits for who wants to stop it without a client's noticing."""

from collections.abc import MutableMapping
from typing import Any

from provider.api.http.source import PEER

QUIET_S = 5.0
"""Without a request for this long, nobody is sent here any more: proxies look every second (deploy/haproxy), and
believe what they see twice. An idle connection of a node in maintenance is closed after as long."""
_PROBES = ("/health/", "/api/v1/health/", "/api/leader-check", "/metrics", "/api/v1/metrics")


class Traffic:
    """Requests of clients: not those of proxies and monitoring that only look how the node is, and not those of nodes.
    On the event loop only; times are the loop's (seconds)."""

    def __init__(self) -> None:
        self.under_way = 0
        self.last_s = float("-inf")
        """When the last request began or ended."""

    def counts(self, scope: MutableMapping[str, Any]) -> bool:
        """Whether this request is a client's."""
        return scope.get(PEER) is None and not scope["path"].startswith(_PROBES)

    def began(self, now_s: float) -> None:
        self.under_way += 1
        self.last_s = now_s

    def ended(self, now_s: float) -> None:
        self.under_way -= 1
        self.last_s = now_s
