"""Connections to the broker, as this node's own user."""

from collections.abc import Callable
from urllib.parse import urlsplit

from provider.broker.endpoints import endpoints
from provider.core.state import State
from provider.settings import Files, ProviderSettings
from shared.backoff import Backoff
from shared.bus import AnyTopology, Credentials, Link
from shared.rabbitmq import RabbitLink

RETRY_S = 1.0
"""Longest pause before a provider tries its broker again: writes wait for it, and there are few of us."""
HOME_AFTER_S = 2.0
"""A node whose own broker was away returns to it soon: its own is there as long as its host is."""
_TURNED_AWAY = ("ACCESS_REFUSED", "INTERNAL_ERROR")
"""How RabbitMQ begins its reason where user or password is not good (AMQP reply code 403), and where it failed itself
(541), as with a stream of which its copy does not run."""


class Links:
    """Makes links: to this node's own broker, and while that is away to the other members'. `on_turned_away` is called
    on a link's thread when the broker does not let this node in, or cannot serve it; `state` is the newest durable
    state. Any thread."""

    def __init__(
        self, settings: ProviderSettings, files: Files, on_turned_away: Callable[[], None], state: Callable[[], State]
    ) -> None:
        broker = settings.broker
        password = files.broker_password.read_text(encoding="utf-8").strip()
        self._name, self._broker = settings.name, broker
        self._credentials = Credentials(broker.username, password, str(files.ca), broker.vhost)
        self._on_turned_away, self._state = on_turned_away, state
        local = broker.management is not None and urlsplit(broker.management).hostname in ("127.0.0.1", "localhost")
        port = urlsplit(broker.endpoints[0]).port
        self._within = [f"amqps://127.0.0.1:{port}"] if local and port is not None else []

    def _endpoints(self) -> list[str]:
        """Brokers of several members are one cluster: all have the same log. Where this host has its own, that is also
        reached from within the host: after the host's address has changed, its certificate is for the old one still."""
        return list(dict.fromkeys([*self._broker.endpoints, *endpoints(self._state()), *self._within]))

    def make(
        self,
        name: str,
        topology: AnyTopology,
        on_up: Callable[[str], None] | None = None,
        on_down: Callable[[str], None] | None = None,
    ) -> Link:
        """One link, not started. See `RabbitLink`."""

        def down(reason: str) -> None:
            if on_down is not None:
                on_down(reason)
            if any(one in reason for one in _TURNED_AWAY):
                self._on_turned_away()

        return RabbitLink(
            name=f"{self._name}-{name}",
            endpoints=self._endpoints,
            credentials=self._credentials,
            topology=topology,
            on_up=on_up,
            on_down=down,
            heartbeat_s=self._broker.heartbeat_s,
            backoff=Backoff(longest_s=RETRY_S),
            home_after_s=HOME_AFTER_S,
        )
