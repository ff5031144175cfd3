"""A stolen agent sends as fast as the broker takes it: under its name, without a name, and by ways around. Meanwhile
nobody else goes offline, every write is done, and whoever floods is cut off, and comes back."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pika
import pytest
from localcluster.cluster import Cluster
from localcluster.process import wait_until
from pika.exceptions import AMQPError

from shared.messages import AGENTS_UP, up_key
from tests.support.amqp import Rogue, channel, enrolled
from tests.support.api import Client, client
from tests.support.flood import flooding
from tests.support.nodes import primary_of
from tests.support.writers import Connection

FLOOD_S = 10.0
"""At least so long the others are watched."""
CUT_S = 40.0
OFFLINE_AFTER_S = 15.0
"""Twice the default: other tests' clusters have the same two cores, and what a flood leaves in queues is ahead of a
pulse."""
PACE_S = 0.1
PULSE = {"version": "1", "session": "s", "epoch": 1, "revision": 1, "endpoint": "amqps://x:1"}


@dataclass
class Watched:
    """What was seen of the others meanwhile."""

    states: set[tuple[str, str]] = field(default_factory=set)
    """What each provider said of the agent `db1`."""
    heard: dict[str, set[str]] = field(default_factory=dict)
    """When each provider last heard of it."""
    writes: list[int | str] = field(default_factory=list)
    """How each write was answered."""


@contextmanager
def watched(cluster: Cluster) -> Iterator[Watched]:
    seen, over = Watched(), threading.Event()

    def look() -> None:
        while not over.wait(0.5):
            for name in cluster.providers:
                status = client(cluster, name).read("/agents/db1")["status"]
                seen.states.add((name, status["state"]))
                seen.heard.setdefault(name, set()).add(status["last_seen"])

    def write() -> None:
        connection = Connection(cluster, cluster.providers["p1"].url, timeout_s=10)
        while not over.wait(PACE_S):
            try:
                seen.writes.append(connection.put("/settings/user.flooded", {"value": len(seen.writes)}, None)[0])
            except OSError as error:
                seen.writes.append(repr(error))
        connection.close()

    threads = [threading.Thread(target=one) for one in (look, write)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        over.set()
        for thread in threads:
            thread.join(30)


def check(seen: Watched, cluster: Cluster, for_s: float) -> None:
    assert seen.states == {(name, "online") for name in cluster.providers}
    assert all(len(heard) >= for_s / 4 for heard in seen.heard.values()), "one pulse every two seconds was sent"
    assert len(seen.writes) >= for_s / PACE_S / 4
    assert set(seen.writes) <= {200, 201}


def let_in(cluster: Cluster, who: Rogue) -> bool:
    try:
        with channel(cluster, who.id, who.password):
            return True
    except (AMQPError, OSError):
        return False


@pytest.fixture(scope="module", autouse=True)
def _patient(cluster: Cluster) -> Iterator[None]:
    setting, admin = "/settings/agents.offline_after_s", client(cluster, primary_of(cluster))
    admin.write("PUT", setting, {"value": OFFLINE_AFTER_S})
    yield
    admin.write("DELETE", setting)


@pytest.fixture(scope="module")
def flooder(cluster: Cluster) -> Iterator[Rogue]:
    """Is cut off by the first test. While the others run, its time passes."""
    with enrolled(cluster) as found:
        yield found


@pytest.mark.parametrize(("signed", "size"), [(True, 1), (False, 100_000)], ids=["signed", "anonymous"])
def test_a_flood_hurts_nobody_and_is_cut_off(
    request: pytest.FixtureRequest, cluster: Cluster, primary: Client, signed: bool, size: int
) -> None:
    """Without a `user_id` it is the key that tells who it was. Of large messages the broker has the most work."""
    rogue: Rogue = request.getfixturevalue("flooder" if signed else "rogue")
    primary.wait_for("/agents/db1", lambda agent: agent["status"]["state"] == "online")
    properties = pika.BasicProperties(user_id=rogue.id) if signed else None
    key, began_s = up_key("pulse", rogue.id), time.monotonic()
    with watched(cluster) as seen:
        with flooding(cluster, rogue.id, rogue.password, b"x" * size, key=key, properties=properties) as to:
            assert to.cut.wait(CUT_S), "it floods on"
            assert to.sent > 500, "the flood was none"
        shown = primary.read(f"/agents/{rogue.id}")["status"]
        assert shown["suspended_s"] > 0
        assert shown["dropped"] > 0
        assert not let_in(cluster, rogue)
        threading.Event().wait(max(0.0, began_s + FLOOD_S - time.monotonic()))  # what is left of it is drained
    check(seen, cluster, FLOOD_S)


def around(attacker: Rogue, way: str) -> str:
    """An exchange of the attacker's own, from which what nobody wants goes on to the providers."""
    own = f"agent.{attacker.id}.around"
    if way == "alternate":
        attacker.to.exchange_declare(own, "fanout", arguments={"alternate-exchange": AGENTS_UP})
    else:
        attacker.to.exchange_declare(own, "fanout")
        attacker.to.exchange_bind(AGENTS_UP, own)
    return own


@pytest.mark.parametrize("way", ["alternate", "bound"])
def test_a_flood_through_an_exchange_of_ones_own(cluster: Cluster, primary: Client, rogue: Rogue, way: str) -> None:
    """There the key may be anybody's. It is the attacker who is cut off, not whose name is in it."""
    exchange = around(rogue, way)
    with flooding(cluster, rogue.id, rogue.password, b"x", exchange=exchange, key=up_key("pulse", "db1")) as to:
        assert to.cut.wait(CUT_S), "it floods on"
    assert primary.read(f"/agents/{rogue.id}")["status"]["suspended_s"] > 0
    db1 = primary.read("/agents/db1")["status"]
    assert db1["state"] == "online"
    assert not db1.get("suspended_s")
    assert not db1.get("dropped")


def test_who_was_cut_off_comes_back(cluster: Cluster, flooder: Rogue) -> None:
    wait_until(lambda: let_in(cluster, flooder), timeout_s=40, what="it does not come back")
