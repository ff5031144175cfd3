"""`provider restore`: a cluster again, out of a backup."""

from provider.cli.backup import Backup, Endpoint, OpenedWith, RecoveryFile, opened_backup, opening_of
from provider.cli.console import DEFAULT_CONFIG, Config, plain
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


def restore(
    file: Backup,
    name: Name,
    url: Url,
    config: Config = DEFAULT_CONFIG,
    recovery_key_file: RecoveryFile = None,
    passphrase_file: OpenedWith = None,
    broker_endpoint: BrokerEndpoint = None,
    broker_user: BrokerUser = None,
    broker_password_file: BrokerPasswordFile = None,
    broker_management: BrokerManagement = None,
    listen: Listen = None,
    store_url: StoreUrl = None,
    store_password_file: StorePassword = None,
    own_broker: OwnBroker = None,
    endpoint: Endpoint = None,
) -> None:
    """Make this host the primary, and only node, of the cluster in a backup. For when no provider is left.

    The broker's options are those of `provider init`. Nothing on a database server is changed by it: what differs
    between backup and servers waits for you (`provider adopt list`)."""
    from provider.backup import container
    from provider.backup.content import read_content
    from provider.backup.restore import must_be_readable
    from provider.backup.restore import restore as restore_cluster
    from provider.cli.first import FirstHost
    from provider.founding import Place
    from provider.joining.host import find, found_broker
    from provider.joining.steps import Steps

    steps = Steps(plain)
    place = Place(config, name, url, listen, store_url, store_password(store_url, store_password_file))
    host = FirstHost(find(place, Steps(), own_broker=None), place)
    host.check()
    broker, administrator = host.broker(broker_endpoint or (), broker_management, broker_user, broker_password_file)
    own = found_broker(place, wanted=own_broker, note=steps.note)
    with opened_backup(file, config, endpoint) as (source, shown):
        head, _ = container.verify(source)
        must_be_readable(head)
        steps.done("file", f"{shown} is whole: made {_time(head.at)} by {head.node}, version {head.version}")
        source.seek(0)
        content = read_content(container.read(source, opening_of(recovery_key_file, passphrase_file)))
    steps.done("open", f"revision {head.revision}, epoch {head.epoch}, {head.documents} documents")
    state, told = restore_cluster(place, content, head, broker, administrator, own)
    steps.done("restore", f"{name} begins log {state.generation} at epoch {state.epoch}, revision {state.revision}")
    plain(f"{name} is the primary and only node of cluster {head.cluster}; its files are in {config.parent}.")
    if told.gone:
        plain(f"No members any more, their names never come back: {', '.join(told.gone)}.")
    plain(f"{told.held} databases and accounts of {told.agents} agents are held until their servers are seen to match.")
    if told.forgotten:
        plain(f"They were being dropped, and are left alone now: {', '.join(told.forgotten)}.")
    plain("What was revoked since the backup is good again: look through `provider token list`, `provider user list`.")
    host.start()
    _next(told.agents)


def _next(agents: int) -> None:
    if agents:
        plain("Agents come by themselves where this host has an address that they know; on the others:")
        plain("  agent advise URL")
    plain("Then: provider adopt list")


def _time(at_ms: int) -> str:
    from provider.api.views import time_text

    return str(time_text(at_ms))
