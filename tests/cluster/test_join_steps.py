"""A join is interrupted, repeated, done twice at once, overtaken by its own removal: it ends as a healthy standby, or
says plainly what is wrong, and nothing is left half-way."""

import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from localcluster.cluster import Cluster
from localcluster.layout import ServerFiles
from localcluster.ports import free_ports
from localcluster.process import environment, wait_until
from localcluster.provider import Provider, program_path

from tests.cluster.conftest import StartCluster
from tests.support.api import Client, client
from tests.support.nodes import Said, primary_of, run, wait_equal

STEPS = ("check", "secrets", "member", "snapshot", "config")
Make = Callable[[str], Provider]


@pytest.fixture(scope="module")
def own(start_cluster: StartCluster) -> Cluster:
    return start_cluster(providers=1, databases=0)


@pytest.fixture
def make(own: Cluster, tmp_path: Path) -> Iterator[Make]:
    """Hosts that are no providers yet; what they have become is ended and removed."""
    made: list[Provider] = []

    def one(name: str) -> Provider:
        directory = tmp_path / f"host{len(made)}"
        directory.mkdir(mode=0o700)
        made.append(Provider(name, ServerFiles(directory, "provider"), free_ports(1)[0]))
        return made[-1]

    yield one
    for provider in made:
        if provider.process is not None:
            provider.process.kill()
    admin = client(own, "p1")
    for node in admin.read("/nodes")["items"]:
        if node["id"] != "p1":
            admin.write("DELETE", f"/nodes/{node['id']}")


def token(own: Cluster, ttl_s: int = 600) -> str:
    made = client(own, primary_of(own)).write("POST", "/tokens", {"role": "node", "ttl_s": ttl_s})
    return str(made.json["token"])


def options(own: Cluster, host: Provider, text: str, *more: str) -> list[str]:
    file = host.files.directory / "join.token"
    file.write_text(text)
    who = ["--name", host.name, "--url", host.url, "--token-file", str(file), "--config", str(host.files.config)]
    return ["join", own.first.url, *who, *more]


def join(own: Cluster, host: Provider, text: str, *more: str) -> Said:
    return run("provider", *options(own, host, text, *more))


def bellwether(own: Cluster, *arguments: str) -> Said:
    """The remote client, as administrator."""
    where = {"BELLWETHER_API": own.first.url, "BELLWETHER_CA": str(own.layout.ca)}
    return run("bellwether", *arguments, **where, BELLWETHER_TOKEN_FILE=str(own.layout.admin_token))


def killed_after(step: str, own: Cluster, host: Provider, text: str) -> None:
    """`kill -9` as soon as the step has ended."""
    process = subprocess.Popen(
        [program_path("provider"), *options(own, host, text)], env=environment(), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    with process, process.stdout as said:
        for line in said:
            if f" s  {step} " in line:
                process.kill()
                break
        else:
            pytest.fail(f"it never came to the step {step}")
    assert process.returncode == -9


def healthy(own: Cluster, host: Provider) -> None:
    """It runs, is a standby, and equal to the others."""
    host.launch()
    host.wait_ready()
    admin = client(own, "p1")
    found = admin.wait_for(f"/nodes/{host.name}", lambda n: n["status"]["state"] == "active")
    assert found["status"]["role"] == "standby"
    mine = Client(host.url, ca=host.ca, token=admin.token)

    def equal() -> bool:
        here, there = mine.read("/cluster"), admin.read("/cluster")
        return bool((here["revision"], here["digest"]) == (there["revision"], there["digest"]))

    wait_until(equal, timeout_s=20, what=f"{host.name} is not equal to p1")
    assert not host.files.directory.joinpath("join.json").exists()


def test_a_join_that_is_killed_after_each_step_and_repeated_ends_as_a_healthy_standby(own: Cluster, make: Make) -> None:
    host, text = make("k1"), token(own)
    journal, kept = host.files.directory / "join.json", ""
    for step in STEPS[:-1]:
        killed_after(step, own, host, text)
        if step == "secrets":
            kept = journal.read_text()
        members = [node["id"] for node in client(own, "p1").read("/nodes")["items"]]
        assert members == ["p1"] if step in STEPS[:1] else members in (["p1"], ["k1", "p1"])
    first = (host.files.directory / "node.token").read_text()
    for _ in range(2):
        journal.write_text(kept)  # as if only the last step were left, the second time, or when a kill came too late
        said = join(own, host, text)
        assert said.code == 0, said
        assert (host.files.directory / "node.token").read_text() == first, "it stayed the newcomer that it was"
    healthy(own, host)
    again = join(own, host, token(own))
    assert (again.code, "provider already" in again.err) == (1, True)


def test_each_step_is_told_with_the_time_that_it_took(own: Cluster, make: Make) -> None:
    said = join(own, make("k2"), token(own))
    assert said.code == 0, said
    lines = [line.split() for line in said.out.splitlines() if " s  " in line]
    assert [line[2] for line in lines] == list(STEPS)
    assert all(float(line[0]) >= 0 and line[1] == "s" for line in lines)


def test_of_two_hosts_that_join_at_once_both_become_members(own: Cluster, make: Make) -> None:
    hosts = [make("two-a"), make("two-b")]
    tokens = [token(own) for _ in hosts]
    with ThreadPoolExecutor() as pool:
        said = list(pool.map(lambda pair: join(own, *pair), zip(hosts, tokens, strict=True)))
    assert [one.code for one in said] == [0, 0], said
    for host in hosts:
        healthy(own, host)


def test_of_two_hosts_that_join_under_one_name_one_is_refused(own: Cluster, make: Make) -> None:
    hosts = [make("same"), make("same")]
    tokens = [token(own) for _ in hosts]
    with ThreadPoolExecutor() as pool:
        said = list(pool.map(lambda pair: join(own, *pair), zip(hosts, tokens, strict=True)))
    assert sorted(one.code for one in said) == [0, 1], said
    assert "member already; choose another name" in next(one.err for one in said if one.code)
    healthy(own, next(host for host, one in zip(hosts, said, strict=True) if one.code == 0))


def test_a_host_that_is_removed_while_it_joins_is_told_so_and_may_come_under_another_name(
    own: Cluster, make: Make
) -> None:
    host, text = make("gone"), token(own)
    killed_after("member", own, host, text)
    client(own, "p1").write("DELETE", "/nodes/gone")
    said = join(own, host, text)
    assert (said.code, "removed from the cluster while it joined" in said.err) == (1, True), said
    host.name = "fresh"
    said = join(own, host, token(own))
    assert said.code == 0, said
    healthy(own, host)


def test_a_host_that_was_interrupted_goes_on_with_a_new_token_when_the_first_is_over(own: Cluster, make: Make) -> None:
    host, text = make("late"), token(own)
    killed_after("member", own, host, text)
    client(own, "p1").write("DELETE", f"/tokens/{text.split('.')[2]}")
    said = join(own, host, text)
    assert (said.code, "make a new one" in said.err) == (1, True), said
    said = join(own, host, token(own))
    assert said.code == 0, said
    healthy(own, host)


def test_a_removed_node_that_comes_back_says_so_and_stays_out(own: Cluster, make: Make) -> None:
    """It was off when it was removed: the log, which it may not read any more, cannot tell it."""
    host = make("away")
    assert join(own, host, token(own)).code == 0
    healthy(own, host)
    assert host.process is not None
    host.process.stop()
    admin = client(own, "p1")
    said = bellwether(own, "nodes", "remove", "away")
    assert said.code == 0, said
    host.launch()
    mine = Client(host.url, ca=host.ca, token=admin.token)

    def told() -> bool:
        return b"removed from the cluster" in mine.get("/health/ready").body

    wait_until(lambda: mine.is_up("/health/live") and told(), timeout_s=30, what="it does not say that it was removed")
    assert mine.get("/health/ready").status == 503
    assert [node["id"] for node in admin.read("/nodes")["items"]] == ["p1"]


def test_what_has_to_be_alike_is_taken_over_or_refused_by_name(own: Cluster, make: Make, tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text("[api]\nbody_max_bytes = 70000\n")
    host, text = make("alike"), token(own)
    said = join(own, host, text, "--settings", str(other))
    assert said.code == 1
    assert "api.body_max_bytes: alike has 70000, the cluster 1048576" in said.err, said
    other.write_text("[api]\nlisten = '127.0.0.1:1'\n")
    said = join(own, host, text, "--settings", str(other))
    assert "api.listen: not one of the settings that all nodes share" in said.err, said
    other.write_text("[api]\nbody_max_bytes = 1048576\n")
    said = join(own, host, text, "--settings", str(other))
    assert said.code == 0, said
    healthy(own, host)
    shown = client(own, "p1").read("/cluster")
    assert len({node["configuration"] for node in shown["nodes"]}) == 1
    assert not any("configuration" in warning for warning in shown["warnings"])

    config = host.files.config
    config.write_text(config.read_text().replace("[api]", "[api]\nbody_max_bytes = 99999"))
    assert host.process is not None
    host.process.stop()
    healthy(own, host)
    drifted = "configuration of alike is not the primary's: api.body_max_bytes: 99999, the primary the default"
    client(own, "p1").wait_for("/cluster", lambda c: any(drifted in warning for warning in c["warnings"]))


def test_where_a_node_is_placed_is_said_at_its_join_or_later(own: Cluster, make: Make) -> None:
    host = make("placed")
    assert join(own, host, token(own), "--label", "floor=2").code == 2
    said = join(own, host, token(own), "--label", "zone=a", "--label", "host=esx1")
    assert said.code == 0, said
    admin = client(own, "p1")
    node = admin.read("/nodes/placed")
    assert node["spec"]["labels"] == {"zone": "a", "host": "esx1"}
    changed = admin.write("PUT", "/nodes/p1", {"labels": {"zone": "a"}})
    assert changed.json["spec"]["labels"] == {"zone": "a"}
    warnings = admin.read("/cluster")["warnings"]
    assert "p1 and placed share the zone a: they can be lost together" in warnings
    assert any("two nodes" in warning for warning in warnings)
    stale = admin.put("/nodes/placed", {"labels": {}}, If_Match='"1"')
    assert (stale.status, stale.code) == (412, "stale_revision")
    admin.write("PUT", "/nodes/placed", {"labels": {"zone": "c"}}, If_Match=f'"{node["revision"]}"')
    assert bellwether(own, "nodes", "label", "placed", "zone=b").code == 0
    assert "zone b" in bellwether(own, "nodes").out
    assert bellwether(own, "nodes", "label", "placed", "floor=2").code == 2
    assert not any("share" in warning for warning in admin.read("/cluster")["warnings"])
    assert admin.put("/nodes/p1", {"labels": {"floor": "2"}}).status == 422
    wait_equal(own)
