"""What `provider init` finds on its host: a RabbitMQ that was prepared for it, systemd and our unit."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from provider.cli.console import plain, read_secret
from provider.founding import Place
from provider.joining.host import Found, give_certificate
from provider.joining.steps import Steps
from shared.errors import BellwetherError, Refused

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
            password_file = password_file or self._administrator_s()
        if not endpoints or user is None:
            raise typer.BadParameter(
                "--broker-endpoint and --broker-user: only root on a host whose RabbitMQ broker-setup has prepared may "
                "leave out both"
            )
        password = read_secret(password_file, "BELLWETHER_BROKER_PASSWORD", "Broker password")
        return {"endpoints": list(endpoints), "management": management}, (user, password)

    def _administrator_s(self) -> Path:
        """The file with the administrator's password. Raises `Refused` where it is gone, as on a host that was another
        node before."""
        file = self._place.config.parent / "broker-admin.password"
        if not file.exists():
            raise Refused(
                f"{file} is not there, with the password of the broker's administrator. Have another one made, then "
                "the same command again: broker-setup --set-password"
            )
        return file

    def start(self) -> None:
        """Begins to run, where this host can do that by itself. Raises `Refused` where it cannot: what there is by then
        is whole, and is not made again."""
        steps, left = Steps(plain), ["systemctl enable --now bellwether-provider"]
        try:
            if self._own_broker:
                left.insert(0, "broker-setup certificate --now")
                give_certificate()
                steps.done("broker", "this host's RabbitMQ has the node's certificate")
                left.pop(0)
            if self._found.service is not None:
                steps.done("start", self._found.service.start())
                return
        except BellwetherError as error:
            raise Refused(
                f"{self._place.name} is made, but does not run yet: {error.detail}. Put that right, then only: "
                f"{'; '.join(left)}"
            ) from None
        plain(f"Next: provider run --config {self._place.config}")
