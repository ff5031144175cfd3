"""`provider broker`: the RabbitMQ on this host, one of the cluster's. For root, and for bellwether-broker.service."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from provider.broker.host.apply import Apply, apply_newest, read_wanted, record
from provider.broker.host.commands import BrokerAway
from provider.broker.host.local import LocalBroker
from provider.broker.host.wanted import FILE, STATUS, Wanted
from provider.cli.console import AsJson, application, plain, print_json, table
from provider.founding import INSTALLED_DATA
from shared.errors import Invalid, Refused

app = application("The RabbitMQ on this host, as one of the cluster's brokers.")
WantedFile = Annotated[Path, typer.Option("--file", help="What the daemon asks for.")]


def _local() -> LocalBroker:
    broker = LocalBroker(say=plain)
    if os.geteuid() != 0:
        raise Refused("only root may do this: RabbitMQ is another user's")
    if not broker.installed:
        raise Refused("there is no RabbitMQ on this host")
    return broker


@app.command()
def apply(file: WantedFile = INSTALLED_DATA / FILE) -> None:
    """Make this host's broker as the cluster wants it. Again does no harm."""
    broker = _local()

    def work() -> Wanted | None:
        made = apply_newest(lambda: read_wanted(file), Apply(broker, say=plain).run)
        if made is None:
            plain("The cluster does not administer the broker of this host: nothing to do.")
        return made

    record(work, software=lambda: broker.software)


@app.command()
def status(as_json: AsJson = False) -> None:
    """What this host's broker is, with whom, and what hinders it from being as the cluster wants it."""
    broker = _local()
    try:
        problem = json.loads(STATUS.read_text(encoding="utf-8"))["problem"]
    except FileNotFoundError:
        problem = None
    except (OSError, ValueError, KeyError) as error:
        raise Invalid(f"{STATUS} cannot be read: {error}") from None
    try:
        told = broker.look()
    except BrokerAway as error:
        noted = f"; what hindered `bellwether-broker` last: {problem}" if problem is not None else ""
        raise BrokerAway(f"{error.detail}: see `systemctl status rabbitmq-server`{noted}") from None
    if as_json:
        found = {"node": told.node, "version": told.version, "cluster": told.cluster, "running": told.seen}
        print_json({**found, "plugins": told.plugins, "problem": problem})
        return
    plain(f"{told.node}, RabbitMQ {told.version}")
    if not told.running:
        plain("  does not serve yet: it starts, or waits for others of its cluster (journalctl -u rabbitmq-server)")
    table([[node, "runs" if node in told.seen else "is not seen running"] for node in told.cluster])
    if problem is not None:
        plain(f"It is not as the cluster wants it: {problem}")


@app.command()
def leave(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Take this host's broker out of its cluster and EMPTY it: for a host whose node was removed, and did not do so
    itself."""
    broker = _local()
    if not yes:
        typer.confirm(
            "All that the broker of this host holds is deleted here, also what is not Bellwether's. Go on?", abort=True
        )
    broker.leave(everything=True)
