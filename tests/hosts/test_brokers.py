"""Each provider's host has a RabbitMQ of its own, and they are one: joined, forgotten, mended, refused."""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.testbed.cluster import Cluster, url_of
from tests.testbed.host import Host
from tests.testbed.space import CommandFailed

pytestmark = pytest.mark.long
STREAM = "rabbitmqctl -q list_queues -p bellwether name type members online --formatter json"


@pytest.fixture(scope="module")
def cluster(start_cluster: object) -> Iterator[Cluster]:
    """Three providers; their brokers joined as `provider join` does it."""
    made: Cluster = start_cluster(providers=3)  # type: ignore[operator]
    yield made


def brokers(host: Host) -> list[str]:
    return sorted(json.loads(host.run("provider broker status --json").out)["running"])


def copies(host: Host, kind: str = "members") -> list[str]:
    """The brokers that hold the log."""
    queues = json.loads(host.run(STREAM).out)
    return sorted(next(queue[kind] for queue in queues if queue["type"] == "stream"))


def running_copies(host: Host) -> list[str]:
    """Those of them whose copy runs."""
    return copies(host, "online")


def now(ask: Callable[[Host], list[str]], host: Host) -> list[str] | None:
    """None while the cookie is being changed, or another broker goes: rabbitmqctl is not let in, or waits."""
    try:
        return ask(host)
    except CommandFailed:
        return None


def cookie(host: Host) -> str:
    return host.read("/var/lib/rabbitmq/.erlang.cookie")


def test_three_hosts_brokers_are_one_and_each_holds_the_log(healthy: Cluster) -> None:
    for host in healthy.nodes.values():
        assert brokers(host) == copies(host) == ["rabbit@p1", "rabbit@p2", "rabbit@p3"]
    assert len({cookie(host) for host in healthy.nodes.values()}) == 1


def test_brokers_talk_to_each_other_with_tls_only(healthy: Cluster) -> None:
    host, other = list(healthy.nodes.values())[:2]
    plain = other.run(
        f"printf 'x' | timeout 5 bash -c 'exec 3<>/dev/tcp/{host.address}/25672; cat >&3; cat <&3'", check=False
    )
    assert not plain.out.strip("\x15\x03\x02\x00\n"), "something else than a TLS alert"
    unknown = other.run(
        f"openssl s_client -tls1_2 -connect {host.address}:25672 -CAfile /etc/bellwether/ca.pem </dev/null", check=False
    )
    assert "alert" in unknown.err or "alert" in unknown.out  # it has shown no certificate
    known = "-cert /etc/bellwether/node.pem -key /etc/bellwether/node.key"
    member = other.run(
        f"openssl s_client -tls1_2 -connect {host.address}:25672 -CAfile /etc/bellwether/ca.pem {known} </dev/null",
        check=False,
    )
    assert "Verify return code: 0 (ok)" in member.out


def test_another_cookie_is_put_right_whatever_step_it_was_interrupted_at(healthy: Cluster) -> None:
    host = healthy.standbys()[0]
    wanted = cookie(host)
    for seconds in (0.5, 1, 2, 3, 5):
        host.run("rm -f /var/lib/rabbitmq/.erlang.cookie.new")
        host.run("echo \"erlang:set_cookie('another-cookie-of-somebody').\" | rabbitmqctl eval")
        host.run(
            "printf another-cookie-of-somebody >/tmp/cookie; install -m 400 -o rabbitmq -g rabbitmq /tmp/cookie "
            "/var/lib/rabbitmq/.erlang.cookie"
        )
        host.run(f"timeout -s KILL {seconds} provider broker apply", check=False)
        host.run("provider broker apply")
        assert cookie(host) == wanted
    assert brokers(host) == ["rabbit@p1", "rabbit@p2", "rabbit@p3"]


def test_what_people_wrote_into_etc_hosts_is_not_overruled_but_said(healthy: Cluster) -> None:
    host, other = healthy.standbys()
    host.run(f"cp /etc/hosts /root/hosts; echo 10.9.9.9 {other.name} >>/etc/hosts")
    said = host.run("provider broker apply", check=False)
    assert said.code == 1
    assert re.search(rf"/etc/hosts says that {other.name} is 10\.9\.9\.9, the cluster knows it at", said.err)
    assert "10.9.9.9" in host.run("provider broker status").out
    host.run("cp /root/hosts /etc/hosts; provider broker apply")


def test_a_node_whose_own_broker_is_away_goes_on_at_another_s_and_everybody_is_told(healthy: Cluster) -> None:
    """The next loss would stop the log, and nothing else shows it."""
    primary, host = healthy.primary(), healthy.standbys()[0]

    def status() -> dict[str, Any]:
        found: dict[str, Any] = healthy.api(primary).read(f"/nodes/{host.name}")["status"]
        return found

    host.run("systemctl stop rabbitmq-server")
    healthy.wait(lambda: status()["state"] == "active" and status()["reason"] is not None, "nobody says so")
    assert "its own host's broker does not serve it, it uses amqps://" in status()["reason"]
    assert "systemctl status rabbitmq-server" in status()["remedy"]
    told = primary.run("provider status").out
    assert f"WRONG    {host.name} is active (its own host's broker" in told
    healthy.api(host).write("PUT", "/settings/user.at_another_s_broker", {"value": 1})
    host.run("systemctl start rabbitmq-server")
    healthy.wait(lambda: status()["reason"] is None, "it does not go back to its own", timeout_s=180)
    every = sorted(f"rabbit@{name}" for name in healthy.nodes)
    healthy.wait(lambda: now(running_copies, primary) == every, "its copy of the log does not run again", timeout_s=120)


def test_a_host_that_is_gone_for_ever_is_forgotten_by_the_others(healthy: Cluster) -> None:
    primary, standby, lost = healthy.primary(), *healthy.standbys()
    before = cookie(primary)
    lost.power_off()
    healthy.api(primary).write("PUT", "/settings/user.while_it_was_gone", {"value": 1})
    assert healthy.api(primary).request("DELETE", f"/nodes/{lost.name}").status == 204
    del healthy.nodes[lost.name]
    left = sorted(f"rabbit@{host.name}" for host in (primary, standby))
    healthy.wait(lambda: now(copies, primary) == left, "its copy of the log is not deleted", timeout_s=120)
    for host in (primary, standby):
        healthy.wait(lambda host=host: now(brokers, host) == left, "it is not forgotten", timeout_s=120)  # type: ignore[misc]
        healthy.wait(lambda host=host: cookie(host) != before, "the cookie is the old one", timeout_s=120)  # type: ignore[misc]
        assert lost.name not in host.read("/etc/hosts")
    healthy.api(primary).write("PUT", "/settings/user.after_it_was_gone", {"value": 1})


def test_a_broker_that_holds_other_things_is_refused_before_anything_is_changed(healthy: Cluster) -> None:
    primary = healthy.primary()
    host = healthy.bed.provider("p4")
    host.boot()
    host.run("rabbitmqctl -q add_vhost shop")
    host.write("/root/join.token", primary.run("provider token create --role node").out, mode="600")
    join = f"provider join {url_of(primary)} --name p4 --url {url_of(host)} --token-file /root/join.token"
    said = host.run(join, check=False)
    assert said.code == 1
    assert "rabbit@p4 holds virtual host 'shop'" in said.err
    assert "p4" not in {node["name"] for node in healthy.api(primary).get("/cluster").json["nodes"]}
    host.run("rabbitmqctl -q delete_vhost shop")
    host.run(join)
    healthy.nodes["p4"] = host
    assert "rabbit@p4" in copies(primary)


def test_a_broker_with_another_cookie_is_named_before_anything_is_changed(healthy: Cluster) -> None:
    primary, other = healthy.primary(), healthy.standbys()[0]
    host = healthy.bed.provider("p5")
    host.boot()
    host.write("/root/join.token", primary.run("provider token create --role node").out, mode="600")
    join = f"provider join {url_of(primary)} --name p5 --url {url_of(host)} --token-file /root/join.token"
    before = cookie(host)
    other.run("systemctl stop bellwether-broker.path")
    other.run("echo \"erlang:set_cookie('another-cookie-of-somebody').\" | rabbitmqctl eval")
    said = host.run(join, check=False)
    assert said.code == 1
    assert f"rabbit@{other.name} does not accept the cluster's Erlang cookie" in said.err
    assert cookie(host) == before
    assert brokers(host) == ["rabbit@p5"]
    # What asks all brokers would wait for the one that does not let rabbitmqctl in.
    assert "rabbit@p5" not in primary.run("rabbitmqctl -q eval 'rabbit_nodes:all().'").out
    other.run(
        "printf another-cookie-of-somebody >/tmp/cookie; install -m 400 -o rabbitmq -g rabbitmq /tmp/cookie "
        "/var/lib/rabbitmq/.erlang.cookie; provider broker apply; systemctl start bellwether-broker.path"
    )
    host.run(join)
    healthy.nodes["p5"] = host
    assert "rabbit@p5" in copies(primary)
