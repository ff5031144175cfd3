"""How a node is, in the words that operators know. Pure: from signs to one word, a reason, and what comes next.

| state       | means                                                                                     |
|-------------|-------------------------------------------------------------------------------------------|
| active      | reads the log, serves reads; the primary also writes. With a reason: its host's broker is   |
|             | away, and it uses another's                                                                 |
| syncing     | reads the log and has some of it still before it; or compares it with its own history, puts |
|             | back what brokers lost, takes a snapshot of another node, asks the others before it writes  |
| out_of_sync | its store and the log do not belong together; it serves nothing until that is mended        |
| critical    | a part that it needs is down: `log` or `store`                                              |
| lost        | it has not been heard of for some seconds, by a node that hears others                      |
| maintenance | somebody said so; whatever else is the matter with it is in the reason                      |
| unknown     | not heard of, by a node that hears nobody, or has not listened for long                     |
| removed     | no member any more; only the removed node itself says so                                    |
"""

from dataclasses import dataclass
from typing import Literal

State = Literal["active", "syncing", "out_of_sync", "critical", "lost", "maintenance", "unknown", "removed"]
STATES: tuple[State, ...] = (
    "active",
    "syncing",
    "out_of_sync",
    "critical",
    "lost",
    "maintenance",
    "unknown",
    "removed",
)
Part = Literal["log", "store"]

FRESH_S = 3.0
"""A primary that has not read its own barrier back for this long does not call itself one: three beats. Nor is a node
called reading to whom nothing comes."""
LOST_AFTER_S = 4.0
"""Nodes say how they are every second: who has not for this long is lost."""
SYNCING_FROM = 500
"""Revisions. With fewer a node is as good as level: at full load that many are written in half a second."""


NO_WRITES = "the broker takes no writes"
"""How a reason goes on after `log: ` where brokers keep those waiting who publish, since one of them has no room."""


@dataclass(frozen=True, slots=True)
class Condition:
    state: State
    reason: str | None = None
    part: Part | None = None
    """Which part is down, where the state is `critical`."""

    @property
    def no_room(self) -> bool:
        """Whether that is a broker, on whichever host, that has no room."""
        return without_room(self.reason)


@dataclass(frozen=True, slots=True)
class Maintenance:
    """What the node's document says of it."""

    reason: str | None = None
    since: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Signs:
    """What a node knows of itself."""

    node: str
    member: bool = True
    given_up: str | None = None
    """Without `member`: what the member said that went on without it."""
    diverged: str | None = None
    healing: str | None = None
    """With `diverged`: what it takes from another node at the moment."""
    comparing: str | None = None
    """Why the log is compared with what it has accepted."""
    put_back: int = 0
    asking: str | None = None
    """It may not write yet: what it waits for."""
    store_problem: str | None = None
    connected: bool = True
    log_problem: str | None = None
    caught_up: bool = True
    leads: bool = False
    """Its state names it as the primary."""
    silent_s: float = 0.0
    """Since the log last answered it. Only a primary asks all the time."""
    quiet_s: float = 0.0
    """Since anything came from the log, over whichever connection."""
    revision: int = 0
    newest: int = 0
    """The highest revision that it has heard of."""


@dataclass(frozen=True, slots=True)
class Said:
    """What another node last said of itself, `silent_s` seconds ago."""

    state: str
    reason: str | None
    silent_s: float


def own(signs: Signs) -> Condition:
    """The condition of a node, from what it knows itself, maintenance left aside."""
    if not signs.member:
        plainly = (
            f"{signs.node} was removed from the cluster, and its name never comes back: docs/MEMBERS.md says how this "
            "host becomes another node"
        )
        return Condition("removed", signs.given_up or plainly)
    if signs.diverged is not None:
        if signs.healing is not None:
            return Condition("syncing", f"{signs.healing}; {signs.diverged}")
        return Condition("out_of_sync", signs.diverged)
    if signs.store_problem is not None:
        return Condition("critical", f"store: {signs.store_problem}", "store")
    if not signs.connected:
        return Condition("critical", f"log: {signs.log_problem or 'not connected'}", "log")
    if signs.log_problem is not None:
        return Condition("critical", f"log: {signs.log_problem}", "log")
    return _of_log(signs)


def _of_log(signs: Signs) -> Condition:
    """Store and log are there, and belong together."""
    if signs.comparing is not None:
        back = f", {signs.put_back} records put back" if signs.put_back else ""
        return Condition("syncing", f"comparing the log with what it has accepted{back}; {signs.comparing}")
    if not signs.caught_up and signs.quiet_s > FRESH_S:  # a broker that is cut off from the others lets everybody in
        return Condition("critical", f"log: connected, and nothing has come for {signs.quiet_s:.1f} s", "log")
    if not signs.caught_up:
        return Condition("syncing", f"reading the log{_left(signs)}")
    if signs.asking is not None:
        return Condition("syncing", f"before it writes: {signs.asking}")
    if signs.leads and signs.silent_s > FRESH_S:
        return Condition("critical", f"log: it has not answered for {signs.silent_s:.1f} s", "log")
    if signs.newest - signs.revision >= SYNCING_FROM:
        return Condition("syncing", f"reading the log{_left(signs)}")
    return Condition("active")


def _left(signs: Signs) -> str:
    left = signs.newest - signs.revision
    return f": at revision {signs.revision}, {left} to go" if left > 0 else ""


def another(said: Said | None, *, here: str, listening_s: float | None, no_room: bool = False) -> Condition:
    """The condition of another node, as the node `here` knows it, maintenance left aside.

    `listening_s`: for how long `here` has had its connection to the broker; None: it has none. Silence says something
    about the other node only where others could have been heard: while a broker has no room (`no_room`) nobody is.
    """
    if said is not None and said.silent_s <= LOST_AFTER_S:
        return Condition(_known(said.state), said.reason, part_of(said.state, said.reason))
    heard = "not heard of yet" if said is None else f"not heard of for {said.silent_s:.0f} s"
    if listening_s is None:
        return Condition("unknown", f"{heard}: {here} has no connection to the broker itself")
    if no_room:
        return Condition("unknown", f"{heard}: {NO_WRITES}, so that nobody can say how he is")
    if listening_s <= LOST_AFTER_S:
        return Condition("unknown", f"{heard}: {here} has listened for {listening_s:.0f} s only")
    if said is None:
        return Condition("lost", f"not heard of since {here} began to listen {listening_s:.0f} s ago")
    return Condition("lost", heard)


def shown(condition: Condition, maintenance: Maintenance | None) -> Condition:
    """What is shown of a node that may be in maintenance. Whoever works on a host knows that parts of it are down; that
    the node is no member any more, or needs to be made anew, he should be told."""
    if maintenance is None or condition.state in ("removed", "out_of_sync"):
        return condition
    parts = [maintenance.reason or "no reason given"]
    if maintenance.since is not None:
        parts[0] += f", since {maintenance.since}"
    if condition.state != "active":
        parts.append(condition.state + (f" ({condition.reason})" if condition.reason else ""))
    return Condition("maintenance", "; ".join(parts), condition.part)


def without_room(reason: str | None) -> bool:
    """Whether a condition's reason is that a broker has no room."""
    return reason is not None and reason.startswith(f"log: {NO_WRITES}")


def part_of(state: str, reason: str | None) -> Part | None:
    """Which part is down, by what a node says of itself."""
    if state != "critical" or reason is None:
        return None
    return "log" if reason.startswith("log:") else "store" if reason.startswith("store:") else None


def _known(state: str) -> State:
    """A node of another version may say a word that we do not know."""
    return next((known for known in STATES if known == state), "unknown")


NO_ROOM = (
    "one of the brokers, on this host or another, is short of disk or memory, and then none takes writes: "
    "`rabbitmq-diagnostics alarms` names it. Make room there; all goes on by itself, and nothing is lost"
)
_FORCE = (
    "Where half of the brokers or more are gone for good: `failover --operation promote --force` on a node that is "
    "left (docs/RECOVERY.md)"
)


def remedy(condition: Condition, node: str, *, primary: bool, writes: bool = True) -> str | None:
    """What the node does about it by itself, and what is left to do for people; None where there is nothing. `writes`:
    whether the cluster's primary works, as far as is known."""
    match condition.state:
        case "active" if condition.reason is None:
            return None
        case "active":
            return f"it goes back by itself; on {node}: `systemctl status rabbitmq-server`, `provider broker status`"
        case "syncing":
            return "it catches up by itself; a promotion waits for it"
        case "out_of_sync":
            return (
                "it follows nothing, keeps what it has, and takes a snapshot as soon as a member that follows the log "
                f"can give one: bring one back. Else: docs/RECOVERY.md, or remove {node} and join a fresh one"
            )
        case "critical":
            return NO_ROOM if condition.no_room else _of_part(condition.part, node)
        case "lost":
            return _of_lost(node, primary=primary, writes=writes)
        case "maintenance":
            return f"`provider maintenance off` on {node} ends it"
        case "unknown":
            return "it may be well; ask again in some seconds, or on another node"
        case "removed":
            return "its identity never comes back; `provider join` under another name makes a fresh node"


def _of_lost(node: str, *, primary: bool, writes: bool) -> str:
    if primary:
        return f"if {node} is gone, run `failover --operation promote` on a standby that is active"
    if writes:
        return f"writes go on without it; if its host is gone for good: `bellwether nodes remove {node}`"
    return f"nothing can be written at the moment, nor a node be removed: bring {node} back. {_FORCE}"


def _of_part(part: Part | None, node: str) -> str:
    if part == "store":
        return (
            f"it refuses writes, and tries its store again by itself: make room on {node}, or mend the database server"
        )
    return (
        "it connects again by itself; until then what it tells of the cluster may be out of date. Look at the broker "
        f"on {node} and at the network between the nodes. {_FORCE}"
    )
