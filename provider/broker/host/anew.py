"""This host's broker begins anew, empty: where its cluster has lost its majority for good, nothing in it can be
forgotten or taken over any more (RabbitMQ's metadata itself needs a majority). As root.

All of it is done once for a log, and may be interrupted anywhere. Nothing is deleted: what it held is moved away.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from provider.broker.host.commands import as_user, handed, service
from provider.broker.host.facts import VHOST
from provider.broker.host.local import LocalBroker
from provider.broker.host.wanted import Anew, Wanted
from provider.broker.users import HASHING, exchanges

DIRECTORY = "set-aside"
"""In RabbitMQ's home; below it a directory for each time that a broker began with nothing, named after the log."""
PART = ".part"
"""Behind the name of such a directory while it is being filled."""
BEGUN = "begun"
"""A file in such a directory: all that is done once is done."""


def begin_anew(broker: LocalBroker, wanted: Wanted, anew: Anew, say: Callable[[str], None] = lambda _: None) -> None:
    """Raises as `LocalBroker`'s methods do; called again it goes on. Nothing, where it was done."""
    assert wanted.cookie is not None  # noqa: S101 - `Wanted` sees to it
    aside = broker.place.home / DIRECTORY / anew.generation
    if (aside / BEGUN).exists():
        return
    if not aside.exists():
        say(f"the broker of this host begins anew; what it held is set aside in {aside}")
        set_aside(broker, aside)
    broker.write_cookie(wanted.cookie)
    service("start")
    if wanted.begins:
        say("the broker of this host is empty: making the virtual host and its administrator")
        broker.replicate_metadata()
        _found(broker, anew)
    as_user(broker.place.user, ["/bin/touch", str(aside / BEGUN)])


def set_aside(broker: LocalBroker, aside: Path, files: Mapping[str, str] | None = None) -> None:
    """Ends this host's broker and moves all that it holds to the directory `aside`, which appears when that is done,
    with these text files, which are there before anything else happens. The broker begins with nothing when it starts
    next. May be interrupted anywhere, and called again."""
    user, part = broker.place.user, aside.with_name(f"{aside.name}{PART}")
    as_user(user, ["/bin/mkdir", "-p", str(part)])
    with handed(user, files or {}) as given:
        for name in files or {}:
            as_user(user, ["/bin/cp", "--preserve=mode", str(given / name), str(part / f"{name}{PART}")])
            as_user(user, ["/bin/sync", str(part / f"{name}{PART}")])
            as_user(user, ["/bin/mv", "-T", str(part / f"{name}{PART}"), str(part / name)])
    service("kill")  # without a majority it may never end in order
    service("stop")
    for path in sorted(broker.place.data.glob(f"{broker.expected_node()}*")):
        # Numbered: after an interruption in here the broker may have begun with nothing, and that is moved as well.
        as_user(user, ["/bin/mv", "--backup=numbered", "-T", str(path), str(part / path.name)])
    as_user(user, ["/bin/mv", "-T", str(part), str(aside)])


def _found(broker: LocalBroker, anew: Anew) -> None:
    """What `provider init` finds on a broker that was prepared: the virtual host, and who administers it."""
    permission = {"user": anew.user, "vhost": VHOST, "configure": ".*", "write": ".*", "read": ".*"}
    account = {"name": anew.user, "password_hash": anew.password_hash, "hashing_algorithm": HASHING}
    definitions = {
        "vhosts": [{"name": VHOST}],
        "users": [{**account, "tags": "administrator"}],
        "permissions": [permission],
        **exchanges(VHOST),
    }
    with handed(broker.place.user, {"definitions.json": json.dumps(definitions)}) as directory:
        broker.define(directory / "definitions.json")
