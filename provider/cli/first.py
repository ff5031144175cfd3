"""What `provider init` finds on its host: a RabbitMQ that was prepared for it, systemd and our unit."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from provider.cli.console import plain, read_secret
from provider.founding import Place
from provider.joining.host import Found, give_certificate
from provider.joining.steps import Steps

ADMINISTRATOR = "bellwether-admin"
"""The broker's user whom `broker-setup`, or the appliance's first boot, made."""


class FirstHost:
    """The host of a cluster's first node. One thread, as root where there is anything to find."""

    def __init__(self, found: Found, place: Place) -> None:
        self._found, self._place = found, place
        self._own_broker = False

    def check(self) -> None:
        """Raises a `BellwetherError` where this host cannot become a provider, before anything is changed on it."""
        self._place.must_be_new()
        self._place.check()
        if self._found.service is not None:
            self._found.service.must_rest()

    def broker(
        self, endpoints: Sequence[str], management: str | None, user: str | None, password_file: Path | None
    ) -> tuple[dict[str, Any], tuple[str, str]]:
        """The broker's settings, and with which user and password it is administered: as they were given, else those of
        this host's own. Raises `typer.BadParameter` where they are neither."""
        if not endpoints and user is None and self._found.broker is not None:
            self._own_broker = True
            endpoints, user = self._found.endpoints, ADMINISTRATOR
            management = management or self._found.management
            password_file = password_file or self._place.config.parent / "broker-admin.password"
        if not endpoints or user is None:
            raise typer.BadParameter(
                "--broker-endpoint and --broker-user: only root on a host whose RabbitMQ broker-setup has prepared may "
                "leave out both"
            )
        password = read_secret(password_file, "BELLWETHER_BROKER_PASSWORD", "Broker password")
        return {"endpoints": list(endpoints), "management": management}, (user, password)

    def start(self) -> None:
        """Begins to run, where this host can do that by itself."""
        steps = Steps(plain)
        if self._own_broker:
            give_certificate()
            steps.done("broker", "this host's RabbitMQ has the node's certificate")
        if self._found.service is None:
            plain(f"Next: provider run --config {self._place.config}")
        else:
            steps.done("start", self._found.service.start())
