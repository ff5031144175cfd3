"""Invariant: nobody gets in without a good one-time token for just that, and only once; a newcomer is equal to the
others as soon as it is ready; who was removed can do no harm; an agent reaches its own things on the broker alone."""

import json
import re
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from localcluster.cluster import Cluster
from localcluster.layout import ServerFiles
from localcluster.ports import free_ports
from localcluster.process import wait_until
from localcluster.provider import Provider
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError, ChannelClosedByBroker, ConnectionClosedByBroker

from provider.trust import pki
from provider.trust.vault import new_private_key, public_key
from shared.passwords import broker_password_hash
from shared.tls import client_context, fingerprint
from shared.tokens import Token, parse_token
from shared.version import VERSION
from tests.support.amqp import Rogue, channel
from tests.support.api import Client, as_node, client
from tests.support.nodes import Said, primary_of, run, standbys_of, wait_equal
from tests.support.writers import check_promises, running, settings

SECRETS = {"token_sha256": "0" * 64, "broker_password_hash": "A" * 48}
"""What an agent sends of the secrets that it has made."""


@pytest.fixture
def newcomer(cluster: Cluster, tmp_path: Path) -> Iterator[Provider]:
    """A host that is no provider yet; what it has become is removed and ended."""
    name = f"n{uuid4().hex[:6]}"
    found = Provider(name, ServerFiles(tmp_path / name, "provider"), free_ports(1)[0])
    yield found
    if found.process is not None:
        found.process.kill()
    client(cluster, primary_of(cluster)).delete(f"/nodes/{name}")


def token(cluster: Cluster, role: str, ttl_s: int = 600) -> str:
    """A new one-time token, known to every node."""
    made = client(cluster, primary_of(cluster)).write("POST", "/tokens", {"role": role, "ttl_s": ttl_s})
    for name in cluster.providers:
        client(cluster, name).read("/cluster", Bellwether_Min_Revision=str(made.json["revision"]))
    return str(made.json["token"])


def join(cluster: Cluster, newcomer: Provider, text: str, *, via: str | None = None, name: str | None = None) -> Said:
    """`provider join` on the newcomer's host, or under another `name`."""
    newcomer.files.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = newcomer.files.directory / "join.token"
    file.write_text(text)
    seed = cluster.providers[via or primary_of(cluster)].url
    who = ["--name", newcomer.name if name is None else name, "--url", newcomer.url, "--token-file", str(file)]
    return run("provider", "join", seed, *who, "--config", str(newcomer.files.config))


def refused(said: Said) -> str:
    """The one line in which a command said no."""
    assert said.code == 1, said
    assert said.err.count("\n") == 1, said.err
    return said.err


def ask_to_join(cluster: Cluster, name: str, text: str) -> int:
    """What `provider join` sends, and no more of it: as if it had been interrupted just then. The answer's status."""
    csr = pki.new_request(pki.new_key(), name)
    body = {"name": name, "url": "https://127.0.0.1:1", "version": VERSION, "csr": csr} | {
        "public_key": public_key(new_private_key()),
        "token_sha256": "0" * 64,
        "broker_password_hash": broker_password_hash("secret"),
    }
    return client(cluster, primary_of(cluster)).holding(text).post("/join", body).status


def bad_tokens(cluster: Cluster, role: str) -> tuple[str, dict[str, str], dict[str, str]]:
    """A good token for `role`; those that the cluster must see through; and those that the command sees through."""
    admin = client(cluster, primary_of(cluster))
    good, revoked = parse_token(token(cluster, role)), parse_token(token(cluster, role))
    admin.write("DELETE", f"/tokens/{revoked.id}")
    other = token(cluster, "agent" if role == "node" else "node")
    strange, _ = pki.new_ca("another cluster")
    cluster_sees = {
        "expired": token(cluster, role, ttl_s=1),
        "revoked": revoked.text(),
        "another secret": Token(role, good.id, "0" * 64, good.fingerprint).text(),
        "made up": Token(role, "0" * 16, "0" * 64, good.fingerprint).text(),
        "of the other kind": other,
        "of the other kind, called ours": other.replace(f"bw.{parse_token(other).role}.", f"bw.{role}."),
        "an administrator's": str(admin.token),
    }
    command_sees = {
        "garbage": "garbage",
        "nothing": "",
        "of the other kind": other,
        "an administrator's": str(admin.token),
        "of another cluster": Token(role, good.id, good.secret, fingerprint(strange)).text(),
        "without a fingerprint": Token(role, good.id, good.secret).text(),
    }
    return good.text(), cluster_sees, command_sees


def _is_over(cluster: Cluster, text: str) -> bool:
    found = client(cluster, primary_of(cluster)).read("/tokens?limit=1000")["items"]
    spec = next(item["spec"] for item in found if item["id"] == parse_token(text).id)
    return bool(spec["expires_at"] < time.time() * 1000)


# ── nodes ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_newcomer_joins_through_a_standby_under_load_and_is_equal(cluster: Cluster, newcomer: Provider) -> None:
    before = wait_equal(cluster)
    key, standby = uuid4().hex, standbys_of(cluster)[0]
    first = client(cluster, standby).put("/settings/user.before", {"value": key}, Idempotency_Key=key)
    with running(cluster, one_each=list(cluster.providers)) as load:
        load.wait_for_more(10)
        said = join(cluster, newcomer, token(cluster, "node"), via=standby)
        assert said.code == 0, said
        newcomer.launch()
        newcomer.wait_ready()
        load.wait_for_more(10)
    assert load.failures == []
    one = Client(newcomer.url, ca=newcomer.ca, token=client(cluster, standby).token)
    state = wait_equal(cluster)
    found = one.wait_for("/cluster", lambda c: c["revision"] >= state["revision"])
    if found["revision"] == state["revision"]:
        assert found["digest"] == state["digest"]
    check_promises(cluster, load, after=before["revision"])
    assert load.promised.items() <= settings(one).items()

    assert one.put("/settings/user.before", {"value": key}, Idempotency_Key=key).body == first.body, "keys come with it"
    assert one.write("PUT", "/settings/user.through", {"value": newcomer.name}).headers["bellwether-role"] == "standby"
    for name in cluster.providers:
        nodes = client(cluster, name).wait_for("/cluster", lambda c: len(c["nodes"]) == 4)["nodes"]
        assert newcomer.name in [node["name"] for node in nodes]
    advice = client(cluster, standby).read("/agents/db1/advice")
    assert newcomer.url in advice["providers"]
    file = cluster.agents["db1"].files.directory / "broker.json"
    wait_until(lambda: newcomer.url in file.read_text(), timeout_s=30, what="the agent was not told of the new node")
    for path in ("node.key", "secrets.key", "node.token", "broker.password"):
        assert (newcomer.files.directory / path).stat().st_mode & 0o077 == 0


def test_bad_tokens_let_no_node_in(cluster: Cluster, newcomer: Provider) -> None:
    good, cluster_sees, command_sees = bad_tokens(cluster, "node")
    for what, text in command_sees.items():
        assert "token" in refused(join(cluster, newcomer, text)), what
        assert [path.name for path in newcomer.files.directory.iterdir()] == ["join.token"], "nothing is written"
    expired = cluster_sees.pop("expired")
    for what, text in cluster_sees.items():
        assert ask_to_join(cluster, newcomer.name, text) == 401, what
    wait_until(lambda: _is_over(cluster, expired), timeout_s=30, what="the end of a token of one second")
    assert "make a new one" in refused(join(cluster, newcomer, expired))
    assert not newcomer.files.config.exists()
    assert join(cluster, newcomer, good).code == 0, "it was not used up by all this"
    assert "provider already" in refused(join(cluster, newcomer, token(cluster, "node")))


def test_a_token_lets_one_node_in_once(cluster: Cluster, newcomer: Provider) -> None:
    text = token(cluster, "node")
    assert ask_to_join(cluster, newcomer.name, text) == 201
    # The join was interrupted there. Again with the same token; then with a new one, under the same name.
    assert f"used before, by node {newcomer.name}" in refused(join(cluster, newcomer, text))
    assert "choose another name" in refused(join(cluster, newcomer, token(cluster, "node")))
    client(cluster, primary_of(cluster)).write("DELETE", f"/nodes/{newcomer.name}")
    again = f"{newcomer.name}b"
    try:
        assert join(cluster, newcomer, token(cluster, "node"), name=again).code == 0
        newcomer.launch()
        newcomer.wait_ready()
    finally:
        client(cluster, primary_of(cluster)).delete(f"/nodes/{again}")


def test_a_join_that_was_interrupted_at_its_end_is_begun_anew(cluster: Cluster, newcomer: Provider) -> None:
    """All was there but the configuration, which is written last: the host is no provider, and may become one."""
    assert join(cluster, newcomer, token(cluster, "node")).code == 0
    newcomer.files.config.unlink()
    again = f"{newcomer.name}b"
    try:
        client(cluster, primary_of(cluster)).write("DELETE", f"/nodes/{newcomer.name}")
        assert join(cluster, newcomer, token(cluster, "node"), name=again).code == 0
        newcomer.launch()
        newcomer.wait_ready()
        one = Client(newcomer.url, ca=newcomer.ca, token=client(cluster, "p1").token)
        assert one.read("/cluster")["generation"] == wait_equal(cluster)["generation"]
    finally:
        client(cluster, primary_of(cluster)).delete(f"/nodes/{again}")


def test_names_that_are_taken_or_are_none_and_a_fifth_node_are_refused(cluster: Cluster, newcomer: Provider) -> None:
    text = token(cluster, "node")
    assert "member already" in refused(join(cluster, newcomer, text, name="p1"))
    for name in ("P4", "p 4", "../p4", "-p4", "", "p" * 64):
        said = join(cluster, newcomer, text, name=name)
        assert said.code in (1, 2), (name, said)
    assert ask_to_join(cluster, newcomer.name, text) == 201, "none of this used the token up"
    assert len(wait_equal(cluster)["nodes"]) == 4
    assert ask_to_join(cluster, "fifth", token(cluster, "node")) == 409
    assert "remove one first" in refused(join(cluster, newcomer, token(cluster, "node"), name="fifth"))


def test_a_join_that_cannot_go_on_here_uses_nothing_up(cluster: Cluster, newcomer: Provider) -> None:
    """What is wrong on this host is found before the cluster is asked."""
    text = token(cluster, "node")
    newcomer.files.directory.mkdir(mode=0o700, parents=True)
    file = newcomer.files.directory / "join.token"
    file.write_text(text)
    who = ["--name", newcomer.name, "--url", newcomer.url, "--token-file", str(file), "--config"]
    seed = cluster.providers["p1"].url
    store = ["--store-url", "mysql+pymysql://nobody@127.0.0.1:1/none"]
    refused(run("provider", "join", seed, *who, str(newcomer.files.config), *store))
    refused(run("provider", "join", "https://127.0.0.1:1", *who, str(newcomer.files.config)))
    assert join(cluster, newcomer, text).code == 0


def test_a_node_that_was_removed_is_shut_out_and_can_do_no_harm(cluster: Cluster, newcomer: Provider) -> None:
    leader = primary_of(cluster)
    admin = client(cluster, standbys_of(cluster)[0])
    assert (admin.delete(f"/nodes/{leader}").status, admin.delete(f"/nodes/{leader}").code) == (409, "refused")

    assert join(cluster, newcomer, token(cluster, "node")).code == 0
    newcomer.launch()
    newcomer.wait_ready()
    one = Client(newcomer.url, ca=newcomer.ca, token=admin.token)
    as_node(cluster, leader, newcomer.files.directory).read("/tokens")

    before = wait_equal(cluster)
    removed = admin.write("DELETE", f"/nodes/{newcomer.name}")
    revision = removed.headers["bellwether-revision"]
    for name in cluster.providers:
        asked = client(cluster, name)
        shown = asked.read("/cluster", Bellwether_Min_Revision=revision)["nodes"]
        assert [node["name"] for node in shown] == list(cluster.providers)
        assert as_node(cluster, name, newcomer.files.directory).get("/cluster").status == 401
        assert asked.get(f"/nodes/{newcomer.name}").status == 404

    # Its daemon still runs.
    wait_until(lambda: one.get("/health/ready").status == 503, timeout_s=30, what="a removed node calls itself ready")
    assert one.get("/health/standby").status == one.get("/health/primary").status == 503
    gone = f"{newcomer.name} was removed from the cluster"
    for command in (["provider", "status"], ["failover", "--operation", "promote"]):
        assert gone in refused(run(*command, "--config", str(newcomer.files.config)))
    answer = one.post("/failover", {"operation": "promote", "node": newcomer.name})
    assert '"promoted"' not in answer.body.decode()
    with running(cluster, one_each=list(cluster.providers)) as load:
        load.wait_for_more(10)
    assert load.failures == []
    after = wait_equal(cluster)
    assert (after["primary"], after["epoch"]) == (before["primary"], before["epoch"])

    newcomer.files.config.rename(newcomer.files.config.with_suffix(".old"))
    assert "another provider runs" in refused(join(cluster, newcomer, token(cluster, "node")))
    newcomer.launch().kill()
    assert "never comes back" in refused(join(cluster, newcomer, token(cluster, "node")))
    assert [n["id"] for n in admin.read("/nodes")["items"]] == list(cluster.providers)


# ── agents ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def host(cluster: Cluster, tmp_path: Path) -> Iterator[Path]:
    """Where an agent's configuration is to be; what was enrolled there is forgotten."""
    yield tmp_path / "agent" / "agent.toml"
    admin = client(cluster, primary_of(cluster))
    for agent in admin.read("/agents?limit=1000")["items"]:
        if agent["id"].startswith("e-"):
            admin.delete(f"/agents/{agent['id']}")


def enroll(cluster: Cluster, config: Path, text: str, *, id_: str, urls: str | None = None, **options: str) -> Said:
    config.parent.mkdir(mode=0o700, exist_ok=True)
    file = config.parent / "enroll.token"
    file.write_text(text)
    more = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", value)]
    server = [] if "host" in options else ["--socket", str(cluster.servers["db1"].socket)]
    seeds = urls or cluster.providers[standbys_of(cluster)[0]].url
    who = ["--id", id_, "--token-file", str(file), "--config", str(config)]
    return run("agent", "enroll", seeds, *who, *server, *more)


def test_bad_tokens_let_no_agent_in(cluster: Cluster, host: Path) -> None:
    good, cluster_sees, command_sees = bad_tokens(cluster, "agent")
    for what, text in command_sees.items():
        assert "token" in refused(enroll(cluster, host, text, id_="e-one")), what
    expired = cluster_sees.pop("expired")
    asked = client(cluster, standbys_of(cluster)[0])
    for what, text in cluster_sees.items():
        body = {"id": "e-one", "version": VERSION, **SECRETS, "instances": []}
        assert asked.holding(text).post("/enroll", body).status == 401, what
    wait_until(lambda: _is_over(cluster, expired), timeout_s=30, what="the end of a token of one second")
    assert "make a new one" in refused(enroll(cluster, host, expired, id_="e-one"))
    assert [path.name for path in host.parent.iterdir()] == ["enroll.token"], "nothing is written"
    dead = "https://127.0.0.1:1," + cluster.providers["p1"].url
    said = enroll(cluster, host, good, id_="e-one", urls=dead)
    assert said.code == 0, "the token was not used up, and the next provider is asked where one is dead"
    again = refused(enroll(cluster, host.parent / "second.toml", good, id_="e-two"))
    assert "token" in again


def test_agents_that_must_not_be_are_refused_and_use_no_token_up(cluster: Cluster, host: Path) -> None:
    text = token(cluster, "agent")
    assert "enrolled already" in refused(enroll(cluster, host, text, id_="db1"))
    assert "every agent" in refused(enroll(cluster, host, text, id_="all"))
    assert "broker" in refused(enroll(cluster, host, text, id_="bellwether"))
    assert "looked after by agent 'db1'" in refused(enroll(cluster, host, text, id_="e-thief", instance_id="db1"))
    for id_ in ("E", "a.b", "a#", "*", "../x", "x" * 64):
        assert enroll(cluster, host, text, id_=id_).code in (1, 2), id_
    refused(enroll(cluster, host, text, id_="e-one", urls="https://127.0.0.1:1"))
    refused(enroll(cluster, host, text, id_="e-one", urls="http://127.0.0.1:1"))
    asked = client(cluster, "p2").holding(text)
    for body in (
        {},
        {"id": "e-one"},
        {"id": "e-one", "version": "1", "instances": []},
        {"id": "e-one", "version": "1", **SECRETS, "token_sha256": "plain"},
        {"id": "e-one", "version": "1", **SECRETS, "instances": [{"id": "x", "engine": "oracle"}]},
        {"id": "e-one", "version": "1", **SECRETS, "instances": [{"id": "x", "engine": "mariadb", "port": 0}]},
        {"id": "e-one", "version": "1", **SECRETS, "instances": [{"id": "x", "engine": "mariadb"}] * 2},
        {"id": "e-one", "version": "1", **SECRETS, "instances": [], "admin": True},
    ):
        assert asked.post("/enroll", body).code == "invalid", body
    assert enroll(cluster, host, text, id_="e-one").code == 0


def test_an_agent_that_was_removed_is_shut_out(cluster: Cluster, rogue: Rogue) -> None:
    admin = client(cluster, standbys_of(cluster)[0])
    asked = admin.holding(rogue.api_token)
    assert asked.get(f"/agents/{rogue.id}/advice").status == 200
    revision = admin.write("DELETE", f"/agents/{rogue.id}").headers["bellwether-revision"]
    for name in cluster.providers:
        one = client(cluster, name)
        one.read("/cluster", Bellwether_Min_Revision=revision)
        assert one.holding(rogue.api_token).get(f"/agents/{rogue.id}/advice").status == 401

    def is_out() -> bool:
        try:
            with channel(cluster, rogue.id, rogue.password):
                return False
        except AMQPError:
            return True

    wait_until(is_out, timeout_s=30, what="the broker still lets it in")
    with pytest.raises(ConnectionClosedByBroker):
        while True:
            rogue.to.connection.process_data_events(time_limit=10)  # what it had open is closed, too


# ── the broker ───────────────────────────────────────────────────────────────────────────────────────────────────────

FORBIDDEN: dict[str, Callable[[BlockingChannel, str, str], object]] = {
    "command agents": lambda to, _, __: to.basic_publish("agents.down", "db1", b"{}"),
    "command itself": lambda to, me, _: to.basic_publish("agents.down", me, b"{}"),
    "speak as a provider": lambda to, _, __: to.basic_publish("providers", "node_pulse", b"{}"),
    "write the log": lambda to, _, log: to.basic_publish("", log, b"{}"),
    "write to a queue directly": lambda to, _, __: to.basic_publish("", "agent.db1.x", b"{}"),
    "read the log": lambda to, _, log: _consume(to, log),
    "delete the log": lambda to, _, log: to.queue_delete(log),
    "redeclare the log": lambda to, _, log: to.queue_declare(log, durable=True),
    "hear another agent": lambda to, me, _: _bind(to, me, "agents.down", "db1"),
    "hear every agent": lambda to, me, _: _bind(to, me, "agents.down", "#"),
    "hear every agent by a star": lambda to, me, _: _bind(to, me, "agents.down", "*"),
    "hear what agents report": lambda to, me, _: _bind(to, me, "agents.up", "#"),
    "hear providers": lambda to, me, _: _bind(to, me, "providers", "#"),
    "make a queue of another agent": lambda to, _, __: to.queue_declare("agent.db1.mine"),
    "make a queue that looks like its own": lambda to, me, _: to.queue_declare(f"agent.{me}x.mine"),
    "make any queue": lambda to, _, __: to.queue_declare("mine"),
    "let the broker name a queue": lambda to, _, __: to.queue_declare(""),
    "make an exchange": lambda to, _, __: to.exchange_declare("mine"),
    "delete an exchange": lambda to, _, __: to.exchange_delete("agents.up"),
    "bind exchanges": lambda to, _, __: to.exchange_bind("agents.up", "agents.down", "#"),
    "dead-letter into commands": lambda to, me, _: to.queue_declare(
        f"agent.{me}.dead", arguments={"x-dead-letter-exchange": "agents.down"}
    ),
}


def _consume(to: BlockingChannel, queue: str) -> None:
    to.basic_qos(prefetch_count=1)
    to.basic_consume(queue, lambda *_: None, arguments={"x-stream-offset": "first"})


def _bind(to: BlockingChannel, me: str, exchange: str, key: str) -> None:
    to.queue_declare(f"agent.{me}.own", exclusive=True)
    to.queue_bind(f"agent.{me}.own", exchange, key)


def test_an_agents_user_reaches_its_own_things_on_the_broker_and_no_others(cluster: Cluster, rogue: Rogue) -> None:
    stream = f"bellwether.log.{client(cluster, 'p1').read('/cluster')['generation']}"
    allowed = []
    with channel(cluster, rogue.id, rogue.password) as first:
        connection = first.connection
        for what, attempt in FORBIDDEN.items():
            opened = connection.channel()
            opened.confirm_delivery()
            try:
                attempt(opened, rogue.id, stream)
                allowed.append(what)
            except ChannelClosedByBroker as error:
                assert error.reply_code == 403, (what, error)
    assert allowed == []

    for user in ("db1", "bellwether", "node.p1"):
        with channel(cluster, rogue.id, rogue.password) as to, pytest.raises(ChannelClosedByBroker, match="user_id"):
            Rogue(rogue.id, "", "", to).say("pulse", {}, user=user)

    with channel(cluster, rogue.id, rogue.password) as to:
        to.queue_declare(f"agent.{rogue.id}.s1", exclusive=True)
        to.queue_bind(f"agent.{rogue.id}.s1", "agents.down", rogue.id)
        to.queue_bind(f"agent.{rogue.id}.s1", "agents.down", "all")
        client(cluster, "p1").write("POST", f"/agents/{rogue.id}/advise")
        for method, properties, body in to.consume(f"agent.{rogue.id}.s1", inactivity_timeout=10):
            assert method is not None, "it hears what is meant for it"
            assert properties.user_id == f"node.{primary_of(cluster)}"
            if json.loads(body)["type"] != "beat":  # which all are told, every other second
                break
        assert json.loads(body)["type"] in ("advice", "inquire")


def test_a_command_that_comes_back_as_a_dead_letter_is_not_believed(cluster: Cluster, rogue: Rogue) -> None:
    """A queue of its own may dead-letter into `agents.up`: then a provider's word arrives there, in its name."""
    metrics = client(cluster, "p1").holding(None)

    def forged() -> float:
        found = re.search(r'messages_skipped_total\{kind="forged"\} (\S+)', metrics.get("/metrics").body.decode())
        return float(found[1]) if found is not None else 0.0

    before = forged()
    with channel(cluster, rogue.id, rogue.password) as to:
        back = {"x-dead-letter-exchange": "agents.up", "x-dead-letter-routing-key": "report.db1"}
        arguments = back | {"x-message-ttl": 0}
        to.queue_declare(f"agent.{rogue.id}.dead", exclusive=True, arguments=arguments)
        to.queue_bind(f"agent.{rogue.id}.dead", "agents.down", rogue.id)
        client(cluster, "p1").write("POST", f"/agents/{rogue.id}/advise")
        wait_until(lambda: forged() > before, timeout_s=30, what="the dead letter was not counted as forged")


def test_an_agents_user_may_not_manage_the_broker(cluster: Cluster, rogue: Rogue) -> None:
    authorization = "Basic " + b64encode(f"{rogue.id}:{rogue.password}".encode()).decode()
    request = urllib.request.Request(
        f"https://127.0.0.1:{cluster.ports['broker-management']}/api/users", headers={"Authorization": authorization}
    )
    with pytest.raises(urllib.error.HTTPError) as answer:
        urllib.request.urlopen(request, context=client_context(cluster.layout.ca), timeout=10)
    assert answer.value.code in (401, 403)
    answer.value.close()
