"""Which users the broker should have for agents and nodes, and what is to be done where it has others. Pure.

Ours carry a tag. Users without it (an operator's, the administrator) are never touched.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from provider.core.documents import Document
from provider.core.state import Delta, State
from shared.messages import AGENTS_DOWN, AGENTS_UP, TO_ALL

AGENT_TAG, NODE_TAG = "bellwether-agent", "bellwether-node"
TAGS = frozenset({AGENT_TAG, NODE_TAG})
NODE_PREFIX = "node."
"""Before a node's name. Agents' names have no dots, so none can be called like a node."""
AGENT_LIMITS: Mapping[str, int] = {"max-connections": 4, "max-channels": 16}
"""An agent has one connection with two channels; two while it moves; and the broker may not have noticed yet that the
one before is gone."""
HASHING = "rabbit_password_hashing_sha256"


@dataclass(frozen=True, slots=True)
class BrokerUser:
    """A user as it is wanted: everything about it but the virtual host, of which there is one."""

    name: str
    password_hash: str
    tag: str
    configure: str
    write: str
    read: str
    topics: tuple[tuple[str, str, str], ...] = ()
    """Exchange, write, read; by exchange."""
    limits: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """What the broker has: the users that are ours, in the same form, and the names of the others.

    `odd`: ours, with something that we never give: a permission elsewhere, a second tag. They are deleted, then made.
    """

    ours: Mapping[str, BrokerUser]
    foreign: frozenset[str]
    odd: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Difference:
    delete: tuple[str, ...]
    put: tuple[BrokerUser, ...]
    """After the deletions."""
    foreign: tuple[str, ...]
    """Wanted names that belong to somebody else: nothing can be done."""


def node_user(name: str) -> str:
    """The broker user of a node."""
    return NODE_PREFIX + name


def agent_user(document: Document) -> BrokerUser:
    """What an agent's user may touch: its own queues, the two exchanges, what it says under its own name (tried against
    RabbitMQ 3.10). What has a key without a name (no dot) may be said as well, and reaches nobody."""
    name = re.escape(document.id)
    own = rf"agent\.{name}\..*"
    return BrokerUser(
        document.id,
        str(document.spec["broker_password_hash"]),
        AGENT_TAG,
        configure=f"^{own}$",
        write=rf"^({own}|{re.escape(AGENTS_UP)})$",
        read=rf"^({own}|{re.escape(AGENTS_DOWN)})$",
        topics=((AGENTS_DOWN, "^$", f"^({name}|{TO_ALL})$"), (AGENTS_UP, rf"^([^.]*|[a-z_]+\.{name})$", "^$")),
        limits=tuple(sorted(AGENT_LIMITS.items())),
    )


def wanted_user(state: State, user: str) -> BrokerUser | None:
    """The user of this name as the state wants it, or None."""
    if not user.startswith(NODE_PREFIX):
        agent = state.get("agent", user)
        return agent_user(agent) if agent is not None else None
    node = state.get("node", user.removeprefix(NODE_PREFIX))
    if node is None or not node.spec.get("broker_password_hash"):
        return None
    return BrokerUser(user, str(node.spec["broker_password_hash"]), NODE_TAG, ".*", ".*", ".*")


def concerned(delta: Delta) -> list[str]:
    """Users of agents and nodes that came, went or have another password; not of those that come online."""
    members = [(d.kind, d.id) for d in delta.put if d.wish == d.revision] + list(delta.deleted)
    return [id_ if kind == "agent" else node_user(id_) for kind, id_ in members if kind in ("agent", "node")]


def wanted_users(state: State, suspended: Iterable[str] = ()) -> dict[str, BrokerUser]:
    """All users that there should be. `suspended` ones should not."""
    names = [document.id for document in state.of("agent")]
    names += [node_user(document.id) for document in state.of("node")]
    found = {name: wanted_user(state, name) for name in names if name not in set(suspended)}
    return {name: user for name, user in found.items() if user is not None}


def found_users(
    vhost: str,
    users: Iterable[Mapping[str, Any]],
    permissions: Iterable[Mapping[str, Any]],
    topic_permissions: Iterable[Mapping[str, Any]],
) -> Found:
    """What lists of the management API say. Raises `ValueError` where they are none."""
    try:
        return _found(vhost, users, permissions, topic_permissions)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"an answer that is not RabbitMQ's ({error!r}): is this its address?") from None


def _found(
    vhost: str,
    users: Iterable[Mapping[str, Any]],
    permissions: Iterable[Mapping[str, Any]],
    topic_permissions: Iterable[Mapping[str, Any]],
) -> Found:
    tags = {str(user["name"]): _tags(user["tags"]) for user in users}
    ours = {name for name, has in tags.items() if TAGS & set(has)}
    odd = {name for name in ours if len(tags[name]) != 1}
    plain: dict[str, tuple[str, str, str]] = {}
    for one in permissions:
        if one["vhost"] == vhost:
            plain[one["user"]] = (one["configure"], one["write"], one["read"])
        else:
            odd.add(one["user"])
    topics: dict[str, list[tuple[str, str, str]]] = {}
    for one in topic_permissions:
        if one["vhost"] != vhost:
            odd.add(one["user"])
        topics.setdefault(one["user"], []).append((one["exchange"], one["write"], one["read"]))
    nothing = ("", "", "")
    found = {
        str(user["name"]): BrokerUser(
            user["name"],
            str(user["password_hash"]),
            tags[user["name"]][0],
            *plain.get(user["name"], nothing),
            topics=tuple(sorted(topics.get(user["name"], ()))),
            limits=tuple(sorted(dict(user.get("limits") or {}).items())),
        )
        for user in users
        if user["name"] in ours
    }
    return Found(found, frozenset(tags.keys() - ours), frozenset(odd & ours))


def difference(wanted: Mapping[str, BrokerUser], found: Found) -> Difference:
    """What is to be done so that the broker has what is wanted."""
    wrong = {name for name in found.odd | found.ours.keys() if name not in wanted}
    # What is put is added to what is there: a limit or a topic permission that should not be is not taken back by it.
    extra = {
        name
        for name, user in found.ours.items()
        if name in wanted
        and (
            {exchange for exchange, *_ in user.topics} - {exchange for exchange, *_ in wanted[name].topics}
            or dict(user.limits).keys() - dict(wanted[name].limits).keys()
        )
    }
    delete = wrong | extra | found.odd
    put = [
        user
        for name, user in wanted.items()
        if name not in found.foreign and (name in delete or found.ours.get(name) != user)
    ]
    return Difference(tuple(sorted(delete)), tuple(put), tuple(sorted(found.foreign & wanted.keys())))


def exchanges(vhost: str) -> dict[str, object]:
    """What topics are of. They must be there before anybody's permissions on them: else RabbitMQ (4.0.5, with Khepri)
    fails whenever they are to be made."""
    made = {"vhost": vhost, "type": "topic", "durable": True, "auto_delete": False, "internal": False, "arguments": {}}
    return {"exchanges": [{"name": name, **made} for name in (AGENTS_DOWN, AGENTS_UP)]}


def definitions(vhost: str, users: Sequence[BrokerUser]) -> dict[str, object]:
    """What the broker is given so that it has `users`: added to what it has."""
    return {
        "users": [
            {
                "name": user.name,
                "password_hash": user.password_hash,
                "hashing_algorithm": HASHING,
                "tags": user.tag,
                "limits": dict(user.limits),
            }
            for user in users
        ],
        "permissions": [
            {"user": user.name, "vhost": vhost, "configure": user.configure, "write": user.write, "read": user.read}
            for user in users
        ],
        "topic_permissions": [
            {
                "user": user.name,
                "vhost": vhost,
                "exchange": exchange,
                "write": write,
                "read": read,
            }
            for user in users
            for exchange, write, read in user.topics
        ],
    }


def _tags(value: Any) -> list[str]:
    """RabbitMQ up to 3.8 gives a text."""
    return [str(tag) for tag in (value if isinstance(value, list) else str(value).split(",")) if tag]
