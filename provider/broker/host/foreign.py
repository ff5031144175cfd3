"""What a broker holds that is not Bellwether's: it is not ours to delete."""

import os
from pathlib import Path

from provider.broker.host.facts import DEFAULT_VHOST, VHOST, Facts
from shared.errors import Refused


def taking_over(known: Facts) -> Refused:
    """Why such a broker does not become a cluster's own."""
    return Refused(
        f"the RabbitMQ on this host holds {_shown(known)}, not Bellwether's own, and would be emptied when this "
        "node is removed from its cluster. With --no-own-broker it is used without being taken over; further nodes "
        "use it too. Several brokers need an empty one on each host"
    )


def must_be_ours(known: Facts | None, data: Path) -> None:
    """Raises `Refused` where a broker that is to be emptied holds anything else. `known` is None where it does not run:
    then its directory `data` tells."""
    if not (on_disk(data) if known is None else known.foreign):
        return
    what = "virtual hosts or queues" if known is None else _shown(known)
    raise Refused(
        f"the RabbitMQ on this host holds {what}, not Bellwether's own: it is left as it is, though its node was "
        "removed from the cluster. Move them elsewhere and delete them here, and it leaves by itself; or "
        "`provider broker leave`, as root on this host, deletes all that it holds"
    )


def in_the_way(known: Facts) -> str | None:
    """Why a broker that runs is not to begin again with nothing: what others have in it would be away."""
    if not known.foreign:
        return None
    return (
        f"the RabbitMQ on this host holds {_shown(known)}, not Bellwether's own, and so does not begin again empty by "
        "itself: move them elsewhere and delete them here, and it does"
    )


def _shown(known: Facts) -> str:
    return ", ".join(known.foreign)


def on_disk(data: Path) -> bool:
    """Whether the data directory of a broker that does not run looks as if others had virtual hosts or queues there.
    What is in it is believed as little as its owner: nothing of it is told."""
    for vhost in data.glob("msg_stores/vhosts/*/.vhost"):
        name = _read(vhost)
        if name not in (VHOST, DEFAULT_VHOST) or (name == DEFAULT_VHOST and any(vhost.parent.glob("queues/*"))):
            return True
    if any(queue.is_dir() for queue in data.glob("quorum/*/*")):  # Bellwether has none
        return True
    return any(not stream.name.startswith(f"{VHOST}_") for stream in data.glob("stream/*"))


def _read(path: Path) -> str:
    """Its first bytes; nothing where it is no file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return os.read(descriptor, 1024).decode("utf-8", "replace").strip()
    except OSError:
        return ""
    finally:
        os.close(descriptor)
