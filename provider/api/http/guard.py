"""What the server keeps in mind about its clients, to hold each to its limits. On the event loop only."""

import resource
from collections import Counter

from provider.api.http.limits import Buckets, Connections, Networks, Patience, Place, group
from provider.api.http.traffic import Traffic
from provider.settings import ApiSettings
from shared.errors import TooManyRequests
from shared.logs import log

DESCRIPTORS_KEPT = 256
"""Of the process's file descriptors, for everything but the API's connections: store, log, broker, other nodes."""


class Guard:
    """The limits of one node, and how often each was met."""

    def __init__(self, api: ApiSettings) -> None:
        self.api = api
        self.connections = Connections(api.connections_per_client, api.connections_max)
        self.patience = Patience(
            head_s=api.head_timeout_s,
            body_grace_s=api.body_grace_s,
            body_min_bytes_per_s=api.body_min_bytes_per_s,
            idle_s=api.idle_timeout_s,
            unread_s=api.unread_timeout_s,
        )
        self.proxies = Networks(api.trusted_proxies)
        self.traffic = Traffic()
        self.refused: Counter[str] = Counter()
        """Connections that were refused or ended early, by reason."""
        self.limited: Counter[str] = Counter()
        """Requests that met a limit, by what there was too much of."""
        self._requests = Buckets(api.requests_per_s, api.requests_burst)
        self._strangers = Buckets(api.unauthenticated_per_s, api.unauthenticated_burst)
        self._streams: Counter[str] = Counter()

    def fit(self) -> None:
        """Raises the process's limit of file descriptors to what the connections need; where that is not allowed, there
        are fewer connections."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = self.api.connections_max + DESCRIPTORS_KEPT
        if soft != resource.RLIM_INFINITY and soft < wanted:
            soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        if soft != resource.RLIM_INFINITY and soft < wanted:
            self.connections.in_all = max(1, min(self.api.connections_max, soft - DESCRIPTORS_KEPT))
            log(descriptors=soft, connections=self.connections.in_all).warning(
                "fewer connections than connections_max: this process may not open enough files (LimitNOFILE=)"
            )

    def enter(self, address: str) -> Place:
        """A place for a new connection. That of a trusted proxy is many clients', so it is not counted alone."""
        return self.connections.enter(None if address in self.proxies else group(address))

    def check_request(self, client: str, now_s: float) -> None:
        """`client`: a principal's name, or an address. Raises `TooManyRequests`."""
        if not self._requests.take(client, now_s):
            self.limited["requests"] += 1
            raise TooManyRequests(
                f"more than {self.api.requests_per_s:g} requests a second ({self.api.requests_burst} at once) from one "
                "client; api.requests_per_s in provider.toml is this limit"
            )

    def check_stranger(self, address: str, now_s: float) -> None:
        """Somebody at `address` could not say who they are. Raises `TooManyRequests` where that is not the first time.
        Whoever can, from the same address, is not held back."""
        if not self._strangers.take(group(address), now_s):
            self.limited["unauthenticated"] += 1
            raise TooManyRequests(
                f"more than {self.api.unauthenticated_per_s:g} requests a second without a good token from one "
                "address; api.unauthenticated_per_s in provider.toml is this limit"
            )

    def open_stream(self, client: str) -> None:
        """Raises `TooManyRequests`. Each that is opened must be closed."""
        for open_now, limit, name in (
            (self._streams.total(), self.api.streams_max, "streams_max"),
            (self._streams[client], self.api.streams_per_client, "streams_per_client"),
        ):
            if open_now >= limit:
                self.limited[name] += 1
                whose = "on this node" if name == "streams_max" else "for this token"
                raise TooManyRequests(
                    f"{open_now} event streams are open {whose}, the most it serves: close one or try another node; "
                    f"api.{name} in provider.toml is this limit"
                )
        self._streams[client] += 1

    def close_stream(self, client: str) -> None:
        self._streams[client] -= 1
        if not self._streams[client]:
            del self._streams[client]
