"""What is to be done on this host so that its broker is as wanted. Pure.

One step at a time: each is planned on what is seen after the one before it, so an interruption anywhere loses nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from provider.broker.host.wanted import Wanted


@dataclass(frozen=True, slots=True)
class Seen:
    """Of the brokers, from this host."""

    own: str
    cluster: frozenset[str]
    """Every broker of its cluster, itself too."""
    running: frozenset[str]
    replicas: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """By stream, the brokers that hold a copy."""
    empty: bool = False
    """It holds no queue and no stream."""
    asleep: frozenset[str] = frozenset()
    """Streams of which this broker holds a copy that it does not count among those that run."""


@dataclass(frozen=True, slots=True)
class Leave:
    """Out of the cluster, and emptied."""


@dataclass(frozen=True, slots=True)
class Join:
    """To the others again: this broker was emptied behind our back, or its joining was interrupted."""


@dataclass(frozen=True, slots=True)
class CutOff:
    """A removed broker that does not leave by itself: end its connection. It has not got the new cookie."""

    node: str


@dataclass(frozen=True, slots=True)
class Forget:
    node: str


@dataclass(frozen=True, slots=True)
class DropReplica:
    stream: str
    node: str


@dataclass(frozen=True, slots=True)
class AddReplica:
    stream: str


@dataclass(frozen=True, slots=True)
class WakeReplica:
    """This broker's copy does not run: nobody can read the log here. `alone`: nor anywhere else."""

    stream: str
    alone: bool


Step = Leave | Join | CutOff | Forget | DropReplica | AddReplica | WakeReplica


def next_step(wanted: Wanted, seen: Seen, *, patient: bool) -> Step | str | None:
    """The next step; None: all is as wanted; a sentence: what has to be waited for, or cannot be done from here.

    `patient`: a removed broker that still runs may leave by itself, as it does when its host is well.
    """
    if not wanted.member:
        return Leave() if seen.cluster != {seen.own} or not seen.empty else None
    if wanted.others and seen.cluster == {seen.own} and seen.empty and not wanted.begins:
        return Join()
    for node in sorted(seen.cluster & set(wanted.gone)):
        others_left = (seen.running & {*wanted.others}) - {node}
        if node not in seen.running:
            if patient and not others_left:
                # Two brokers: it takes both to part. This one would wait in vain, and be in the way of that one.
                return f"{node} was removed and is not running: it may be leaving by itself, and is waited for"
            return Forget(node)
        if patient:
            return f"{node} was removed and still runs: it is waited for"
        if not others_left:
            # Two brokers: whoever is cut off from the other stops. Nothing would be left that could forget it.
            return f"{node} was removed and still runs: stop RabbitMQ on its host, or run `provider broker leave` there"
        return CutOff(node)
    for stream, nodes in sorted(seen.replicas.items()):
        for node in sorted(nodes & set(wanted.gone)):
            return DropReplica(stream, node)
    return _own_copy(wanted, seen)


def _own_copy(wanted: Wanted, seen: Seen) -> Step | None:
    log = wanted.stream
    if log is not None and log in seen.replicas and seen.own not in seen.replicas[log]:
        return AddReplica(log)
    enough = 2 * len(seen.running) > len(seen.cluster)
    if log in seen.asleep and enough:  # fewer could not, and come round by themselves when they are enough again
        return WakeReplica(str(log), alone=len(seen.cluster) == 1 and not wanted.others)
    return None
