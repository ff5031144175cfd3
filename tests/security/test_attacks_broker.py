"""Attacks of a stolen agent upon the broker, with the credentials from its files, against a real RabbitMQ: it reaches
its own messages, and nothing of anybody else. Before each attack the allowed thing is done in the same way."""

import base64
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from itertools import product
from urllib.error import HTTPError
from urllib.request import HTTPSHandler, Request, build_opener
from uuid import uuid4

import pika
import pytest
from localcluster.cluster import BROKER_USER, Cluster
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError, ChannelClosedByBroker, UnroutableError

from shared.messages import AGENTS_DOWN, AGENTS_UP, PROVIDERS, up_key
from shared.tls import client_context
from tests.support.amqp import Rogue, channel, enrolled, envelope
from tests.support.api import Client

Attack = Callable[[BlockingChannel, str, str], object]
"""With a channel of the attacker, the prefix of its own queues, and the victim's id."""
REFUSED = {
    403: "ACCESS_REFUSED",
    404: "NOT_FOUND",
    405: "RESOURCE_LOCKED",
    406: "PRECONDITION_FAILED",
    530: "NOT_ALLOWED",
}


@pytest.fixture(scope="module")
def victim(cluster: Cluster) -> Iterator[Rogue]:
    """Another agent, with a queue as agents have them, and a message in it."""
    with enrolled(cluster) as found:
        queue = f"agent.{found.id}.{uuid4().hex}"
        found.to.queue_declare(queue)
        found.to.queue_bind(queue, AGENTS_DOWN, found.id)
        yield found


@pytest.fixture(scope="module")
def attacker(cluster: Cluster) -> Iterator[Rogue]:
    with enrolled(cluster) as found:
        yield found


@pytest.fixture
def own(attacker: Rogue) -> str:
    return f"agent.{attacker.id}.{uuid4().hex[:8]}"


@pytest.fixture(scope="module")
def queues(cluster: Cluster) -> dict[str, str]:
    """The queues of others, as an attacker may have learned them: the log, a provider's, the real agent's."""
    listed = cluster.broker.ctl("list_queues", "--vhost", "bellwether", "--quiet", "--no-table-headers", "name").split()
    return {
        "log": next(name for name in listed if name.startswith("bellwether.log.")),
        "provider": next(name for name in listed if name.startswith("provider.")),
        "db1": next(name for name in listed if name.startswith("agent.db1.")),
    }


def refused(cluster: Cluster, attacker: Rogue, attack: Callable[[BlockingChannel], object]) -> str:
    """The broker's answer to an attack, on a connection of its own. Fails where there was none."""
    with channel(cluster, attacker.id, attacker.password) as to:
        with pytest.raises(AMQPError) as caught:
            attack(to)
        assert isinstance(caught.value, ChannelClosedByBroker), caught.value
        assert caught.value.reply_code in REFUSED, caught.value
        return str(caught.value.reply_text)


def test_an_agent_reaches_its_own_messages(cluster: Cluster, attacker: Rogue, own: str) -> None:
    """The control for all below: the very calls, for what is one's own."""
    key = up_key("pulse", attacker.id)
    with channel(cluster, attacker.id, attacker.password) as to:
        to.queue_declare(own, exclusive=True)
        to.queue_bind(own, AGENTS_DOWN, attacker.id)
        to.queue_bind(own, AGENTS_DOWN, "all")
        to.basic_get(own)
        to.queue_purge(own)
        to.basic_publish(
            AGENTS_UP, key, envelope("inquire", {}, sender=attacker.id), pika.BasicProperties(user_id=attacker.id)
        )
        to.basic_cancel(to.basic_consume(own, lambda *_: None))
        to.queue_delete(own)


# ── reading what is for others ───────────────────────────────────────────────────────────────────────────────────────

KEYS = [
    "{victim}",
    "db1",
    "#",
    "*",
    "{own}.#",
    "{own}.*",
    "*.{own}",
    "all.#",
    "",
    "{own} ",
    "{OWN}",
    "al",
    "a",
]


@pytest.mark.parametrize("key", KEYS)
def test_binding_to_others_messages(cluster: Cluster, attacker: Rogue, victim: Rogue, own: str, key: str) -> None:
    text = key.format(victim=victim.id, own=attacker.id, OWN=attacker.id.upper())

    def bind(to: BlockingChannel) -> None:
        to.queue_declare(own, exclusive=True)
        to.queue_bind(own, AGENTS_DOWN, text)

    assert "ACCESS_REFUSED" in refused(cluster, attacker, bind)


@pytest.mark.parametrize(
    "exchange", [AGENTS_UP, PROVIDERS, "amq.topic", "amq.fanout", "amq.rabbitmq.trace", "amq.direct"]
)
@pytest.mark.parametrize("key", ["#", "report", ""])
def test_binding_to_other_exchanges(cluster: Cluster, attacker: Rogue, own: str, exchange: str, key: str) -> None:
    def bind(to: BlockingChannel) -> None:
        to.queue_declare(own, exclusive=True)
        to.queue_bind(own, exchange, key)

    assert "ACCESS_REFUSED" in refused(cluster, attacker, bind)


def test_binding_exchanges_to_one_another(cluster: Cluster, attacker: Rogue, own: str) -> None:
    """An exchange under a name of one's own would carry on what a queue may not have."""

    def down(to: BlockingChannel) -> None:
        to.exchange_declare(own, "fanout")
        to.exchange_bind(own, AGENTS_DOWN, "#")

    def up(to: BlockingChannel) -> None:
        to.exchange_bind(AGENTS_DOWN, AGENTS_UP, "#")

    for attack in (down, up):
        assert "ACCESS_REFUSED" in refused(cluster, attacker, attack)
    with channel(cluster, attacker.id, attacker.password) as to, suppress(AMQPError):
        to.exchange_delete(own)


ON_QUEUES: dict[str, Callable[[BlockingChannel, str], object]] = {
    "get": lambda to, queue: to.basic_get(queue),
    "consume": lambda to, queue: to.basic_consume(queue, lambda *_: None),
    "consume the stream": lambda to, queue: (
        to.basic_qos(prefetch_count=1),
        to.basic_consume(queue, lambda *_: None, arguments={"x-stream-offset": "first"}),
    ),
    "declare": lambda to, queue: to.queue_declare(queue, durable=True),
    "delete": lambda to, queue: to.queue_delete(queue),
    "purge": lambda to, queue: to.queue_purge(queue),
    "bind": lambda to, queue: to.queue_bind(queue, AGENTS_DOWN, "all"),
    "unbind": lambda to, queue: to.queue_unbind(queue, AGENTS_DOWN, "all"),
    "publish": lambda to, queue: to.basic_publish("", queue, b"x", pika.BasicProperties(), mandatory=True),
}


OTHERS = ["log", "provider", "db1", "victim", "none"]


@pytest.mark.parametrize(("what", "whose"), [*product(ON_QUEUES, OTHERS), ("declare", "no name")])
def test_others_queues(
    cluster: Cluster, attacker: Rogue, victim: Rogue, queues: dict[str, str], what: str, whose: str
) -> None:
    queue = (queues | {"victim": f"agent.{victim.id}.x", "none": "nobody.has.this", "no name": ""})[whose]
    assert "ACCESS_REFUSED" in refused(cluster, attacker, lambda to: ON_QUEUES[what](to, queue))


def test_looking_at_others_queues_shows_no_more_than_that_they_are_there(
    cluster: Cluster, attacker: Rogue, queues: dict[str, str]
) -> None:
    """RabbitMQ lets anybody ask so, before 4.2.6. A name and a count, no message."""
    with channel(cluster, attacker.id, attacker.password) as to, suppress(ChannelClosedByBroker):
        to.queue_declare(queues["log"], passive=True)


# ── speaking for others ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("key", ["pulse", "report", "", "db1"])
def test_reports_under_nobodys_key_reach_nobody(cluster: Cluster, attacker: Rogue, key: str) -> None:
    """They may be said: the broker has no queue for them, and returns them to whoever wants to know."""
    with channel(cluster, attacker.id, attacker.password) as to, pytest.raises(UnroutableError):
        to.basic_publish(AGENTS_UP, key, b"x", pika.BasicProperties(user_id=attacker.id), mandatory=True)


@pytest.mark.parametrize("exchange", [AGENTS_DOWN, PROVIDERS, "amq.topic", "amq.fanout", "amq.headers", "amq.match"])
@pytest.mark.parametrize("key", ["db1", "all", "node_pulse"])
def test_commands(cluster: Cluster, attacker: Rogue, exchange: str, key: str) -> None:
    body = envelope("desired", {"revision": 10**6, "instances": []}, sender="p1", epoch=10**6)

    def publish(to: BlockingChannel) -> None:
        to.basic_publish(exchange, key, body, pika.BasicProperties(user_id=attacker.id))

    assert "ACCESS_REFUSED" in refused(cluster, attacker, publish)


@pytest.mark.parametrize("user", ["{victim}", "node.p1", "bellwether", "db1", "guest", ""])
def test_reports_under_the_name_of_another(cluster: Cluster, attacker: Rogue, victim: Rogue, user: str) -> None:
    body, key = envelope("pulse", {}, sender=victim.id), up_key("pulse", attacker.id)

    def publish(to: BlockingChannel) -> None:
        to.basic_publish(AGENTS_UP, key, body, pika.BasicProperties(user_id=user.format(victim=victim.id)))

    assert "PRECONDITION_FAILED" in refused(cluster, attacker, publish)


@pytest.mark.parametrize(
    "key",
    ["pulse.{victim}", "pulse.", ".{own}", "pulse.{own}.{victim}", "{victim}.pulse.{own}", "pulse.{own}x"],
)
@pytest.mark.parametrize("signed", [True, False])
def test_reports_under_the_key_of_another(
    cluster: Cluster, attacker: Rogue, victim: Rogue, key: str, signed: bool
) -> None:
    """By the key it is known who sent what has no `user_id`."""
    text = key.format(own=attacker.id, victim=victim.id)

    def publish(to: BlockingChannel) -> None:
        properties = pika.BasicProperties(user_id=attacker.id if signed else None)
        to.basic_publish(AGENTS_UP, text, envelope("pulse", {}, sender=attacker.id), properties)

    assert "ACCESS_REFUSED" in refused(cluster, attacker, publish)


def test_reports_that_say_another_name(primary: Client, attacker: Rogue, victim: Rogue) -> None:
    """The broker lets them through: they are sent as the attacker. The provider does not believe them."""
    forged = counted(primary, "forged")
    pulse = {"version": "1", "session": "s", "epoch": 1, "revision": 1, "endpoint": "amqps://forged:1"}
    told = [
        lambda: attacker.say("pulse", pulse, sender=victim.id),
        lambda: attacker.say("pulse", pulse, sender="db1"),
        lambda: attacker.say("node_pulse", NODE_PULSE, sender="p1"),
        lambda: attacker.say("node_pulse", NODE_PULSE),
        lambda: attacker.say("advice", {}, sender="p1"),
        lambda: attacker.to.basic_publish(
            AGENTS_UP, up_key("pulse", attacker.id), envelope("pulse", pulse, sender=attacker.id)
        ),
    ]
    for tell in told:
        tell()
    attacker.say("pulse", pulse | {"endpoint": "amqps://mine:1"})
    primary.wait_for(f"/agents/{attacker.id}", lambda agent: agent["status"]["endpoint"] == "amqps://mine:1")
    assert counted(primary, "forged") + counted(primary, "malformed") >= forged + len(told) - 1
    for name in (victim.id, "db1"):
        assert primary.read(f"/agents/{name}")["status"]["endpoint"] != "amqps://forged:1"
    assert {node["role"] for node in primary.read("/cluster")["nodes"]} == {"primary", "standby"}


NODE_PULSE = {"role": "primary", "state": "lost", "version": "6", "revision": 10**9, "digest": "d", "started": "s"}


def counted(node: Client, kind: str) -> float:
    for line in node.get("/metrics").body.decode().splitlines():
        if line.startswith("bellwether_messages_skipped_total{") and f'"{kind}"' in line:
            return float(line.rpartition(" ")[2])
    return 0.0


def test_a_report_about_the_instance_of_another(primary: Client, attacker: Rogue) -> None:
    seen = {"id": "db1", "engine": "mariadb", "state": "up", "version": "forged"}
    attacker.say("report", {"revision": 1, "instances": [seen, seen | {"id": f"{attacker.id}-db", "version": "mine"}]})
    primary.wait_for(f"/instances/{attacker.id}-db", lambda one: one["status"].get("version") == "mine")
    assert primary.read("/instances/db1")["status"]["version"] != "forged"
    assert primary.read("/instances/db1")["spec"]["agent"] == "db1"


# ── tricks with arguments ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("exchange", ["", AGENTS_DOWN, PROVIDERS, "amq.topic", "amq.fanout"])
def test_a_queue_whose_dead_letters_go_to_others(cluster: Cluster, attacker: Rogue, own: str, exchange: str) -> None:
    arguments = {"x-dead-letter-exchange": exchange, "x-dead-letter-routing-key": "db1", "x-message-ttl": 0}
    assert "ACCESS_REFUSED" in refused(
        cluster, attacker, lambda to: to.queue_declare(own, exclusive=True, arguments=arguments)
    )


def test_dead_letters_among_the_reports_are_not_believed(
    cluster: Cluster, primary: Client, attacker: Rogue, own: str
) -> None:
    """That exchange the attacker may write to: what it was told comes back under the provider's name."""
    arguments = {"x-dead-letter-exchange": AGENTS_UP, "x-dead-letter-routing-key": "report.db1", "x-message-ttl": 0}
    forged = counted(primary, "forged")
    with channel(cluster, attacker.id, attacker.password) as to:
        to.queue_declare(own, exclusive=True, arguments=arguments)
        to.queue_bind(own, AGENTS_DOWN, attacker.id)
        primary.write("POST", f"/agents/{attacker.id}/advise")
        deadline = time.monotonic() + 15
        while counted(primary, "forged") == forged:
            assert time.monotonic() < deadline, "nothing came back: the test does not test what it says"
            to.connection.process_data_events(0.05)


@pytest.mark.parametrize("alternate", [AGENTS_DOWN, PROVIDERS, "amq.topic", "amq.fanout"])
def test_an_exchange_that_passes_on_to_others(cluster: Cluster, attacker: Rogue, own: str, alternate: str) -> None:
    assert "ACCESS_REFUSED" in refused(
        cluster, attacker, lambda to: to.exchange_declare(own, "topic", arguments={"alternate-exchange": alternate})
    )


NAMES = [
    *(AGENTS_DOWN, AGENTS_UP, PROVIDERS, "mine", "bellwether.log.ff", "provider.p9.1", "agent.", "amq.gen-x"),
    *("agent.{own}", "agent.{own}x.1", "xagent.{own}.1", "agent.{less}.1", "agent.{victim}.1"),
]


@pytest.mark.parametrize("name", NAMES)
def test_exchanges_and_queues_with_names_of_others(cluster: Cluster, attacker: Rogue, victim: Rogue, name: str) -> None:
    text = name.format(own=attacker.id, less=attacker.id[:-1], victim=victim.id)
    for attack in (
        lambda to: to.exchange_declare(text, "topic", durable=True),
        lambda to: to.exchange_delete(text),
        lambda to: to.queue_declare(text, exclusive=True),
    ):
        assert "ACCESS_REFUSED" in refused(cluster, attacker, attack)


def test_another_virtual_host(cluster: Cluster, attacker: Rogue) -> None:
    parameters = pika.ConnectionParameters(
        "127.0.0.1",
        cluster.ports["broker"],
        "/",
        pika.PlainCredentials(attacker.id, attacker.password),
        ssl_options=pika.SSLOptions(client_context(cluster.layout.ca), "127.0.0.1"),
        connection_attempts=1,
    )
    with pytest.raises(AMQPError):
        pika.BlockingConnection(parameters)


# ── the broker's administration ──────────────────────────────────────────────────────────────────────────────────────

MANAGEMENT = [
    ("GET", "/whoami"),
    ("GET", "/overview"),
    ("GET", "/users"),
    ("GET", "/definitions"),
    ("GET", "/queues/bellwether"),
    ("GET", "/connections"),
    ("GET", "/exchanges/bellwether"),
    ("PUT", "/users/mine"),
    ("PUT", "/permissions/bellwether/{own}"),
    ("DELETE", "/users/db1"),
    ("DELETE", "/queues/bellwether/{log}"),
    ("POST", "/exchanges/bellwether/agents.down/publish"),
    ("POST", "/queues/bellwether/{log}/get"),
]


def test_the_management_interface(cluster: Cluster, attacker: Rogue, queues: dict[str, str]) -> None:
    admin = (BROKER_USER, cluster.layout.broker_password.read_text().strip())
    assert managed(cluster, admin, "GET", "/whoami") == 200, "the control: this is how one asks"
    for method, path in MANAGEMENT:
        where = path.format(own=attacker.id, log=queues["log"])
        assert managed(cluster, (attacker.id, attacker.password), method, where) == 401, (method, where)
    assert managed(cluster, ("guest", "guest"), "GET", "/whoami") == 401


def managed(cluster: Cluster, who: tuple[str, str], method: str, path: str) -> int:
    authorization = "Basic " + base64.b64encode(":".join(who).encode()).decode()
    body = json.dumps(
        {"password": "x", "tags": "administrator", "configure": ".*", "write": ".*", "read": ".*"}
    ).encode()
    request = Request(
        f"https://127.0.0.1:{cluster.ports['broker-management']}/api{path}",
        None if method in ("GET", "DELETE") else body,
        {"Authorization": authorization, "Content-Type": "application/json"},
        method=method,
    )
    try:
        with build_opener(HTTPSHandler(context=client_context(cluster.layout.ca))).open(request, timeout=10) as answer:
            return int(answer.status)
    except HTTPError as error:
        with error:
            return error.code


# ── too much ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_more_connections_and_channels_than_an_agent_needs(cluster: Cluster, attacker: Rogue) -> None:
    with ExitStack() as stack, pytest.raises(AMQPError):
        for _ in range(10):
            stack.enter_context(channel(cluster, attacker.id, attacker.password))
    with channel(cluster, attacker.id, attacker.password) as to, pytest.raises(AMQPError):
        for _ in range(50):
            to.connection.channel()


def test_a_message_that_is_too_large(cluster: Cluster, attacker: Rogue) -> None:
    def publish(to: BlockingChannel) -> None:
        to.basic_publish(
            AGENTS_UP, up_key("report", attacker.id), b" " * 8_000_000, pika.BasicProperties(user_id=attacker.id)
        )

    assert "PRECONDITION_FAILED" in refused(cluster, attacker, publish)


def test_a_flood_hurts_nobody_else(cluster: Cluster, primary: Client, attacker: Rogue, victim: Rogue) -> None:
    """Megabytes of what costs most to read, as fast as the broker takes them; meanwhile another is heard."""
    costly = envelope("report", {"revision": 1, "instances": [0] * 200_000}, sender=attacker.id)
    with channel(cluster, attacker.id, attacker.password) as to:
        with suppress(AMQPError):  # it may be shut out for it
            for _ in range(60):
                to.basic_publish(
                    AGENTS_UP, up_key("report", attacker.id), costly, pika.BasicProperties(user_id=attacker.id)
                )
        pulse = {"version": "1", "session": "s", "epoch": 1, "revision": 1, "endpoint": f"amqps://{uuid4().hex}:1"}
        victim.say("pulse", pulse)
        primary.wait_for(f"/agents/{victim.id}", lambda agent: agent["status"]["endpoint"] == pulse["endpoint"])
    assert primary.write("PUT", "/settings/user.flood", {"value": 1}).status in (200, 201)
