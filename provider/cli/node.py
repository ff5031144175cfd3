"""`provider`: makes and runs a node of the control plane."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from provider.cli import adopt, authorities, backup, broker, maintenance
from provider.cli.access import tokens, users
from provider.cli.console import (
    DEFAULT_CONFIG,
    AsJson,
    Config,
    application,
    daemon,
    entry,
    plain,
    print_json,
    read_secret,
)
from provider.cli.nodes import placements
from provider.cli.options import (
    BrokerEndpoint,
    BrokerManagement,
    BrokerPasswordFile,
    BrokerUser,
    Listen,
    Name,
    OwnBroker,
    StorePassword,
    StoreUrl,
    Url,
    store_password,
)
from provider.cli.restore import restore
from provider.cli.show import show_status
from provider.settings import Files, common_settings, load_settings
from shared.files import read_text, write_atomically

if TYPE_CHECKING:
    from provider.founding import Authority

app = application("A node of the control plane: make it, run it, look at it.")
app.add_typer(tokens, name="token")
app.add_typer(users, name="user")
app.add_typer(authorities.app, name="ca")
app.add_typer(maintenance.app, name="maintenance")
app.add_typer(broker.app, name="broker")
app.add_typer(backup.app, name="backup")
app.add_typer(adopt.app, name="adopt")

app.command()(restore)


@app.command()
def init(
    name: Name,
    url: Url,
    config: Config = DEFAULT_CONFIG,
    broker_endpoint: BrokerEndpoint = None,
    broker_user: BrokerUser = None,
    broker_password_file: BrokerPasswordFile = None,
    broker_management: BrokerManagement = None,
    admin_token_file: Annotated[Path | None, typer.Option(help="Where the administrator's token goes.")] = None,
    listen: Listen = None,
    store_url: StoreUrl = None,
    store_password_file: StorePassword = None,
    ca_certificate: Annotated[
        Path | None, typer.Option(help="A certificate authority of your own (PEM); else a new one is made.")
    ] = None,
    ca_key: Annotated[Path | None, typer.Option(help="Its private key (PEM, unencrypted). Kept sealed.")] = None,
    own_broker: OwnBroker = None,
    log_max_mb: Annotated[
        int, typer.Option(min=200, help="The log keeps so much at most. Cannot be changed later.")
    ] = 2000,
    log_max_days: Annotated[int, typer.Option(min=1, help="And no longer than this. Cannot be changed later.")] = 14,
) -> None:
    """Make a new cluster of one node: certificate authority, configuration, administrator's token.

    Run as root on an appliance, or where install-provider was, it needs to be told nothing about the broker, and starts
    the daemon."""
    from provider.cli.first import FirstHost
    from provider.founding import Place
    from provider.founding import init as found
    from provider.joining.host import find, found_broker
    from provider.joining.steps import Steps

    place = Place(config, name, url, listen, store_url, store_password(store_url, store_password_file))
    host = FirstHost(find(place, Steps(), own_broker=None), place)
    host.check()
    broker, administrator = host.broker(broker_endpoint or (), broker_management, broker_user, broker_password_file)
    own = found_broker(place, wanted=own_broker, note=plain)
    sizes = {"max_bytes": log_max_mb * 1_000_000, "max_age_s": log_max_days * 86_400}
    admin_token = found(place, broker, administrator, read_authority(ca_certificate, ca_key), own, sizes)
    plain(f"{name} is the first node of a new cluster; its files are in {config.parent}.")
    if admin_token_file is not None:
        write_atomically(admin_token_file, admin_token + "\n")
        plain(f"The administrator's token is in {admin_token_file}.")
    else:
        plain("The administrator's token, shown this once:")
        plain(admin_token)
    host.start()


@app.command()
def join(
    cluster: Annotated[str, typer.Argument(metavar="URL", help="Any provider of the cluster: https://host:port.")],
    name: Name,
    url: Url,
    config: Config = DEFAULT_CONFIG,
    token_file: Annotated[
        Path | None, typer.Option(help="The one-time token; else BELLWETHER_TOKEN or a prompt.")
    ] = None,
    broker_endpoint: Annotated[list[str] | None, typer.Option(help="This node's own broker, if it has one.")] = None,
    broker_management: Annotated[str | None, typer.Option(help="Its management API.")] = None,
    listen: Listen = None,
    store_url: StoreUrl = None,
    store_password_file: StorePassword = None,
    label: Annotated[
        list[str] | None, typer.Option(help="host=NAME or zone=NAME: what it can be lost with. May be repeated.")
    ] = None,
    settings_file: Annotated[
        Path | None,
        typer.Option(
            "--settings", help="TOML as in provider.toml, of what all nodes share; else as the cluster has it."
        ),
    ] = None,
    own_broker: Annotated[
        bool | None,
        typer.Option(help="Make the RabbitMQ on this host one of the cluster's. Default: where one is set up for it."),
    ] = None,
) -> None:
    """Make this host a standby of a cluster, with a one-time token (`provider token create --role node`).

    Run as root on a host with RabbitMQ, this makes its broker one of the cluster's and starts the daemon. Interrupted,
    it is repeated: the same command, the same token."""
    from provider.founding import Place
    from provider.joining.host import find
    from provider.joining.join import Wishes
    from provider.joining.join import join as become
    from provider.joining.steps import Steps

    token = read_secret(token_file, "BELLWETHER_TOKEN", "Join token")
    place = Place(config, name, url, listen, store_url, store_password(store_url, store_password_file))
    steps = Steps(plain)
    host = find(place, steps, own_broker=own_broker)
    wishes = Wishes(
        endpoints=broker_endpoint or host.endpoints,
        management=broker_management or host.management,
        labels=placements(label or []),
        settings=common_settings(settings_file) if settings_file is not None else {},
    )
    become(place, cluster, token, wishes, steps=steps, host=host)
    plain(f"{name} is a member of the cluster at {cluster}; its files are in {config.parent}.")
    if host.service is None:
        plain(f"Next: provider run --config {config}")


@app.command()
def run(config: Config = DEFAULT_CONFIG) -> None:
    """Run the daemon in the foreground. SIGTERM ends it."""
    settings = load_settings(config)
    from shared.logs import configure

    configure(settings.log_level, node=settings.name)
    from provider.starting import run as run_daemon

    run_daemon(settings, Files(config))


@app.command()
def status(config: Config = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """This node, the cluster, the log, the agents, at a glance."""
    with daemon(config) as (settings, client):
        cluster = client.get("/cluster")
        if as_json:
            print_json({"node": settings.name, **cluster})
            return
        show_status(settings.name, cluster)


def read_authority(certificate: Path | None, key: Path | None) -> "Authority | None":
    """The authority that a user brings. Both files or none: exit code 2."""
    from provider.founding import Authority

    if (certificate is None) != (key is None):
        raise typer.BadParameter("--ca-certificate and --ca-key belong together")
    if certificate is None or key is None:
        return None
    return Authority(read_text(certificate), read_text(key))


main = entry(app)
