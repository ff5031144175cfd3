"""This host's broker begins anew, empty: where its cluster has lost its majority for good, nothing in it can be
forgotten or taken over any more (RabbitMQ's metadata itself needs a majority). As root.

All of it is done once for a log, and may be interrupted anywhere. Nothing is deleted: what it held is moved away.
"""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from provider.broker.host.commands import CommandFailed, Commands, as_user, handed, service
from provider.broker.host.facts import VHOST
from provider.broker.host.local import LocalBroker
from provider.broker.host.wanted import Anew, Wanted
from provider.broker.users import HASHING, exchanges

DIRECTORY = "set-aside"
"""In RabbitMQ's home; below it a directory for each log that was begun by force, named after it."""
BEGUN = "begun"
"""A file in such a directory: all that is done once is done."""


def begin_anew(broker: LocalBroker, wanted: Wanted, anew: Anew, say: Callable[[str], None] = lambda _: None) -> None:
    """Raises as `LocalBroker`'s methods do; called again it goes on. Nothing, where it was done."""
    assert wanted.cookie is not None  # noqa: S101 - `Wanted` sees to it
    aside = broker.place.home / DIRECTORY / anew.generation
    if (aside / BEGUN).exists():
        return
    _set_aside(broker, aside, say)
    broker.write_cookie(wanted.cookie)
    service("start")
    if wanted.begins:
        say("the broker of this host is empty: making the virtual host and its administrator")
        broker.replicate_metadata()
        _found(Commands(broker.place), broker.place.user, anew)
    as_user(broker.place.user, ["/bin/touch", str(aside / BEGUN)])


def _set_aside(broker: LocalBroker, aside: Path, say: Callable[[str], None]) -> None:
    if aside.exists():
        return
    user, part = broker.place.user, aside.with_name(f"{aside.name}.part")
    say(f"the broker of this host begins anew; what it held is set aside in {aside}")
    service("kill")  # without a majority it may never end in order
    service("stop")
    as_user(user, ["/bin/mkdir", "-p", str(part)])
    for path in sorted(broker.place.data.glob(f"{broker.expected_node()}*")):
        # Numbered: after an interruption in here the broker may have begun with nothing, and that is moved as well.
        as_user(user, ["/bin/mv", "--backup=numbered", "-T", str(path), str(part / path.name)])
    as_user(user, ["/bin/mv", "-T", str(part), str(aside)])


def _found(commands: Commands, user: str, anew: Anew) -> None:
    """What `provider init` finds on a broker that was prepared: the virtual host, and who administers it."""
    permission = {"user": anew.user, "vhost": VHOST, "configure": ".*", "write": ".*", "read": ".*"}
    account = {"name": anew.user, "password_hash": anew.password_hash, "hashing_algorithm": HASHING}
    definitions = {
        "vhosts": [{"name": VHOST}],
        "users": [{**account, "tags": "administrator"}],
        "permissions": [permission],
        **exchanges(VHOST),
    }
    with handed(user, {"definitions.json": json.dumps(definitions)}) as directory:
        commands.run("rabbitmqctl", "import_definitions", str(directory / "definitions.json"))
    with suppress(CommandFailed):  # RabbitMQ makes it by itself, unless it is told otherwise
        commands.run("rabbitmqctl", "delete_user", "guest")
