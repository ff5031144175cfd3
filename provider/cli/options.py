"""Options that several commands of `provider` have."""

import os
from pathlib import Path
from typing import Annotated

import typer

from provider.cli.console import read_secret

_STORE_VARIABLE = "BELLWETHER_STORE_PASSWORD"

Name = Annotated[str, typer.Option(help="The node's name: letters a-z, digits, hyphens.")]
Url = Annotated[str, typer.Option(help="Where clients and other nodes reach it: https://host:port.")]
Listen = Annotated[str | None, typer.Option(help="address:port to listen on, if not those of the URL.")]
StoreUrl = Annotated[
    str | None, typer.Option(help="mysql+pymysql://user@host/database instead of SQLite in the data directory.")
]
StorePassword = Annotated[
    Path | None, typer.Option(help="Its password; else BELLWETHER_STORE_PASSWORD, where that is set.")
]
BrokerEndpoint = Annotated[
    list[str] | None,
    typer.Option(help="amqps://host:port; may be repeated. Else this host's own, where broker-setup has prepared it."),
]
BrokerUser = Annotated[str | None, typer.Option(help="A user of the broker who may administer its users.")]
BrokerPasswordFile = Annotated[Path | None, typer.Option(help="Else BELLWETHER_BROKER_PASSWORD or a prompt.")]
BrokerManagement = Annotated[str | None, typer.Option(help="https://host:port of the management API.")]
OwnBroker = Annotated[
    bool | None,
    typer.Option(help="Take over the RabbitMQ on this host, so that others can join it. Default: if set up for it."),
]


def store_password(url: str | None, file: Path | None) -> str | None:
    """The store's password. Raises `typer.BadParameter` where it stands in the URL: on the command line, `ps` shows it
    to everybody."""
    from provider.store import split_password

    if url is not None and split_password(url)[1] is not None:
        raise typer.BadParameter("a password is not given on the command line: use --store-password-file")
    if file is None and _STORE_VARIABLE not in os.environ:
        return None
    return read_secret(file, _STORE_VARIABLE, "Password of the store")
