"""The only broker of a cluster, where RabbitMQ cannot run the log any more: it begins again, empty. As root.

The broker is disposable: providers have on disk all that was acknowledged, and put the log back (provider/recovery).
Nothing is deleted: what it held is moved away. Users, their passwords, virtual hosts and exchanges stay.
"""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from provider.broker.host import foreign
from provider.broker.host.anew import BEGUN, DIRECTORY, PART, set_aside
from provider.broker.host.commands import BrokerAway, CommandFailed, as_user, service
from provider.broker.host.local import LocalBroker

KEPT = ("users", "vhosts", "permissions", "topic_permissions", "exchanges", "parameters", "policies")
"""Of RabbitMQ's definitions. Queues, and what is bound to them, are made by whoever uses them."""
DEFINITIONS = "definitions.json"
ROOM = 500 * 2**20
"""Bytes that have to be free: on a full disk RabbitMQ runs no streams, and to begin again would not help."""
OFTEN, OFTEN_S = 3, 3600.0
"""Where it has begun again so many times in so long (seconds), to do it once more is no help either."""


def wake_log(broker: LocalBroker, stream: str, say: Callable[[str], None] = lambda _: None) -> None:
    """Has this broker run the log, whose only copy it has and which it does not run: by starting the stream anew, then
    RabbitMQ, then with nothing.

    RabbitMQ's coordinator of streams may not survive that its broker is killed in its first seconds (seen with 4.0.5:
    `coordinator_unavailable`, for ever). Raises as `LocalBroker`'s methods do.
    """
    why = _unwilling(broker, stream)
    if why is None:
        return
    say(f"{why}: starting RabbitMQ anew")
    broker.restart()
    why = _unwilling(broker, stream)
    if why is None:
        return
    hindered = _hindered(broker, stream)
    if hindered is not None:
        raise BrokerAway(f"{why}; {hindered}")
    aside = broker.place.home / DIRECTORY / f"{stream}-{time.time():.0f}"
    say(f"{why}: the broker of this host begins again, empty; what it held is set aside in {aside}")
    set_aside(broker, aside, {DEFINITIONS: json.dumps(_kept(broker.definitions()))})
    go_on(broker, stream, say)


def go_on(broker: LocalBroker, stream: str, say: Callable[[str], None] = lambda _: None) -> None:
    """Ends what `wake_log` has begun and could not end. Nothing, where there is nothing to be ended."""
    for part in (broker.place.home / DIRECTORY).glob(f"{stream}-*{PART}"):
        if (part / DEFINITIONS).exists():
            set_aside(broker, part.with_name(part.name.removesuffix(PART)))
    for aside in _all(broker, stream):
        if (aside / BEGUN).exists() or not (aside / DEFINITIONS).exists():
            continue
        service("start")
        broker.replicate_metadata()
        broker.define(aside / DEFINITIONS)
        as_user(broker.place.user, ["/bin/touch", str(aside / BEGUN)])
        say("the broker of this host has its users and exchanges again; the provider puts the log back")


def _unwilling(broker: LocalBroker, stream: str) -> str | None:
    """Why it does not run the log; None: it does."""
    try:
        broker.wake_replica(stream)
    except (BrokerAway, CommandFailed) as error:
        return error.detail
    return None


def _hindered(broker: LocalBroker, stream: str) -> str | None:
    """Why it is not to begin again with nothing; None: it may."""
    if shutil.disk_usage(broker.place.home).free < ROOM:
        return f"less than {ROOM // 2**20} MB are free where {broker.place.home} is: make room"
    if sum(abs(time.time() - _begun_s(one)) < OFTEN_S for one in _all(broker, stream)) >= OFTEN:
        return f"it began again, empty, {OFTEN} times within an hour, and that did not help: see RabbitMQ's log"
    return foreign.in_the_way(broker.facts())


def _all(broker: LocalBroker, stream: str) -> list[Path]:
    """The directories of earlier times."""
    found = (broker.place.home / DIRECTORY).glob(f"{stream}-*")
    return [one for one in found if one.suffix != PART]


def _begun_s(aside: Path) -> int:
    """Unix seconds."""
    number = aside.name.rpartition("-")[2]
    return int(number) if number.isdecimal() else 0


def _kept(definitions: dict[str, Any]) -> dict[str, Any]:
    return {name: definitions[name] for name in KEPT if name in definitions}
