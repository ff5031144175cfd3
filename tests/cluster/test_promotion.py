"""Invariant: at most one primary an epoch, and it is the one whose claim the log holds first. A planned change of
primary shows no client an error and loses no write; every agent follows, and who does not is named until it does."""

import json
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from localcluster.cluster import Cluster
from localcluster.process import environment, wait_until
from localcluster.provider import program_path

from tests.cluster.conftest import StartCluster
from tests.support.api import client
from tests.support.nodes import Said, command, events, primary_of, promote, run, standbys_of, suspended, wait_equal
from tests.support.writers import check_promises, running


@pytest.fixture(scope="module")
def own(start_cluster: StartCluster) -> Cluster:
    return start_cluster(databases=1)


@pytest.fixture(autouse=True)
def _left_in_order(own: Cluster) -> Iterator[None]:
    yield
    assert own.dead() == []
    wait_equal(own)


def epoch_of(cluster: Cluster) -> int:
    return int(wait_equal(cluster)["epoch"])


def one_line(said: Said) -> str:
    """What was said on stderr, which must be one line, with exit code 1."""
    assert said.code == 1, said
    assert said.err.count("\n") == 1, said
    assert "Traceback" not in said.err
    return said.err.strip()


# ── planned ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_planned_promotion_of_each_node_in_turn_fails_no_write(own: Cluster) -> None:
    before = wait_equal(own)
    order = [*standbys_of(own), primary_of(own)]
    with (
        running(own, one_each=list(own.providers)) as load,
        running(own, one_each=list(own.providers), keyed=False) as keyless,
    ):
        for number, name in enumerate(order, start=1):
            load.wait_for_more(15)
            said = promote(own, name)
            assert f"{name} is primary: epoch {before['epoch'] + number}" in said.out
            keyless.wait_for_more(15)
    assert load.failures == []
    assert keyless.failures == []
    after = wait_equal(own)
    assert (after["epoch"], after["primary"]) == (before["epoch"] + 3, order[-1])
    check_promises(own, load, after=before["revision"])
    check_promises(own, keyless, after=before["revision"])
    claims = [e for e in events(client(own, order[0]), before["revision"]) if e["type"] == "claim"]
    assert [(claim["epoch"], claim["primary"]) for claim in claims] == [
        (before["epoch"] + number, name) for number, name in enumerate(order, start=1)
    ]


def test_promotion_tells_each_step_and_its_time(own: Cluster) -> None:
    name = standbys_of(own)[0]
    said = promote(own, name)
    steps = re.findall(r"^ +\d+\.\d{3} s  (\w+) +\S.*$", said.out, re.MULTILINE)
    assert steps == ["check", "barrier", "claim", "advise"]
    assert "1 of 1 agents follow" in said.out
    assert re.search(rf"^advised: primary {name}, brokers amqps://\S+$", said.out, re.MULTILINE), said
    assert said.err == ""


def test_promotion_for_programs(own: Cluster) -> None:
    name = standbys_of(own)[0]
    epoch = epoch_of(own)
    said = command(own, name, "failover", "--operation", "promote", "--json")
    found = json.loads(said.out)
    assert (said.code, found["result"], found["node"], found["primary"]) == (0, "promoted", name, name)
    assert found["epoch"] == epoch + 1
    assert [step["step"] for step in found["steps"]] == ["check", "barrier", "claim", "advise"]
    assert found["agents"] == {"total": 1, "online": 1, "advised": 1, "missing": []}


def test_promoting_the_primary_changes_nothing_and_says_so(own: Cluster) -> None:
    leader, epoch = primary_of(own), epoch_of(own)
    said = promote(own, leader)
    assert f"{leader} is already primary: epoch {epoch}" in said.out
    again = command(own, leader, "failover", "--operation", "promote", "--json")
    assert (again.code, json.loads(again.out)["result"]) == (0, "already_primary")
    assert epoch_of(own) == epoch


# ── two at once ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_of_two_standbys_promoted_in_the_same_instant_one_wins_and_the_other_says_who(own: Cluster) -> None:
    """Where the log took one's barrier only after the other's claim, both succeed, one after the other: then again."""
    for _ in range(5):
        epoch, said = epoch_of(own), _promoted_at_once(own)
        found = wait_equal(own)
        if [one.code for one in said.values()] != [0, 0]:
            break
        assert found["epoch"] == epoch + 2, said
    assert sorted(one.code for one in said.values()) == [0, 1], said
    winner, loser = sorted(said, key=lambda name: said[name].code)
    assert re.search(rf"\b{winner} became primary first, epoch {epoch + 1}\b", one_line(said[loser])), said
    assert (found["primary"], found["epoch"]) == (winner, epoch + 1)


def _promoted_at_once(own: Cluster) -> dict[str, Said]:
    """Both standbys have begun while the broker hangs: both ask for their barrier before either hears of its own."""
    with suspended(own, "broker"):
        commands = {name: _begin(own, name) for name in standbys_of(own)}
        for started in commands.values():
            assert started.stdout is not None
            assert "check" in started.stdout.readline()
    ended = {name: started.communicate(timeout=30) for name, started in commands.items()}
    return {name: Said(commands[name].returncode, out, err) for name, (out, err) in ended.items()}


def test_many_promotions_at_once_end_with_one_primary(own: Cluster) -> None:
    before, results = wait_equal(own), []
    together = threading.Barrier(6)

    def ask(name: str) -> None:
        one = client(own, name)
        together.wait()
        answer = one.post("/failover", {"operation": "promote", "node": name})
        results.append(json.loads(answer.body.splitlines()[-1]))

    threads = [threading.Thread(target=ask, args=(name,)) for name in own.providers for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {result["result"] for result in results} <= {"promoted", "lost", "already_primary"}, results
    found = wait_equal(own)
    told = events(client(own, found["primary"]), before["revision"])
    claims = [event for event in told if event["type"] == "claim"]
    assert [claim["epoch"] for claim in claims] == list(range(before["epoch"] + 1, found["epoch"] + 1)), "one an epoch"
    assert claims == [] or claims[-1]["primary"] == found["primary"]


# ── looking ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_preflight_says_what_promote_would_do_and_changes_nothing(own: Cluster) -> None:
    before = wait_equal(own)
    for name in own.providers:
        said = command(own, name, "failover", "--operation", "preflight")
        assert said.code == 0, said
        assert f"{name}: promote would work; nothing was changed" in said.out
        assert "no acknowledged write would be lost" in said.out
        found = json.loads(command(own, name, "failover", "--operation", "preflight", "--json").out)
        assert (found["ok"], found["node"], found["primary"]) == (True, name, before["primary"])
        assert {check["check"] for check in found["checks"]} >= {"role", "state", "log", "agents"}
    after = wait_equal(own)
    assert (after["epoch"], after["primary"]) == (before["epoch"], before["primary"])


def test_status_says_role_epoch_revision_and_lag(own: Cluster) -> None:
    cluster = wait_equal(own)
    for name in own.providers:
        role = "primary" if name == cluster["primary"] else "standby"
        said = command(own, name, "failover", "--operation", "status")
        assert said.code == 0, said
        assert f"{name}: {role}, active" in said.out
        assert f"epoch {cluster['epoch']}, primary {cluster['primary']}" in said.out
        found = json.loads(command(own, name, "failover", "--operation", "status", "--json").out)
        assert (found["name"], found["role"], found["epoch"]) == (name, role, cluster["epoch"])
        assert found["revision"] >= cluster["revision"]
        assert found["lag"] is not None
        assert json.loads(command(own, name, "provider", "status", "--json").out)["node"] == name


def test_wrong_usage_and_wrong_places(own: Cluster, tmp_path: Path) -> None:
    assert run("failover", "--operation", "explode").code == 2
    assert run("failover").code == 2
    nowhere = run("failover", "--operation", "promote", "--config", str(tmp_path / "provider.toml"))
    assert "provider.toml: not found; this host is no provider" in one_line(nowhere)
    (tmp_path / "broker.json").write_text(json.dumps({"providers": ["https://p1:8443"]}))
    on_an_agents_host = run("failover", "--operation", "promote", "--config", str(tmp_path / "agent.toml"))
    assert "this host's agent knows https://p1:8443" in one_line(on_an_agents_host)
    elsewhere = client(own, "p1").post("/failover", {"operation": "promote", "node": "p2"})
    assert (elsewhere.status, elsewhere.code) == (409, "refused"), (
        "behind a load balancer one cannot know whom one asks"
    )


# ── agents ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _missing_everywhere(own: Cluster, said: Said) -> None:
    """The command, the status, the filter and the glance all name the agent that does not follow."""
    assert re.search(r"0 of 1 agents follow", said.out), said
    assert "not advised yet: db1" in said.out
    for name in own.providers:
        assert "not advised yet: db1" in command(own, name, "provider", "status").out
        one = client(own, name)
        assert [a["id"] for a in one.read("/agents?advised=false")["items"]] == ["db1"]
        assert one.read("/agents?advised=true")["items"] == []
        assert one.read("/cluster")["agents"]["missing"] == ["db1"]
        assert one.read("/agents/db1")["status"]["advised"] is False


def _follows_everywhere(own: Cluster, epoch: int) -> None:
    for name in own.providers:
        client(own, name).wait_for("/agents/db1", lambda a: a["status"]["advised"] and a["status"]["epoch"] == epoch)
        assert client(own, name).read("/cluster")["agents"]["missing"] == []
    settings = json.loads((own.agents["db1"].files.directory / "broker.json").read_text())
    assert (settings["epoch"], settings["primary"]) == (epoch, primary_of(own))


def test_an_agent_that_hangs_meanwhile_is_missing_until_it_wakes(own: Cluster) -> None:
    epoch, name = epoch_of(own), standbys_of(own)[0]
    with suspended(own, "db1"):
        _missing_everywhere(own, promote(own, name))
        told = client(own, name).post("/agents/db1/advise")
        assert (told.status, told.json) == (202, {"told": ["db1"], "epoch": epoch + 1})
        assert client(own, name).post("/agents/advise").json["told"] == ["db1"]
        assert client(own, name).read("/agents/db1")["status"]["advised"] is False, "told is not yet followed"
    _follows_everywhere(own, epoch + 1)


def test_an_agent_that_is_down_meanwhile_is_advised_when_it_returns(own: Cluster) -> None:
    epoch, name = epoch_of(own), standbys_of(own)[0]
    own.kill("db1")
    try:
        _missing_everywhere(own, promote(own, name))
    finally:
        own.start("db1")
    _follows_everywhere(own, epoch + 1)
    assert client(own, name).post("/agents/advise").json["told"] == []


def test_an_agent_whose_settings_were_put_back_by_hand_is_advised_again(own: Cluster) -> None:
    epoch = epoch_of(own)
    file = own.agents["db1"].files.directory / "broker.json"
    settings = json.loads(file.read_text())
    file.write_text(json.dumps(settings | {"epoch": 0, "primary": "nobody"}))
    wait_until(
        lambda: json.loads(file.read_text())["epoch"] == epoch, timeout_s=15, what="the agent is not advised again"
    )
    _follows_everywhere(own, epoch)


# ── unplanned ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _back_in_order(own: Cluster) -> None:
    for name in own.providers:
        client(own, name).wait_for("/health/ready", lambda h: h["state"] == "active")


def test_the_broker_is_gone_so_nobody_can_be_promoted(own: Cluster) -> None:
    """What cannot be read to its end may hold writes that were acknowledged: it is waited for, then refused, in one
    line."""
    before, name = wait_equal(own), standbys_of(own)[0]
    own.kill("broker")
    try:
        client(own, name).wait_for("/health/ready", lambda h: h["state"] == "critical")
        refused = command(own, name, "failover", "--operation", "promote", "--wait", "3")
        assert "the log could not be read to its end" in one_line(refused)
        assert re.search(r"s  wait +log: .*waiting for the brokers.*given up after 3 s", refused.out), refused
        status = command(own, name, "provider", "status")
        assert status.out.splitlines()[1].startswith(f"STALE    {name} cannot read the log"), status
        found = client(own, name).read(f"/nodes/{name}")["status"]
        assert (found["state"], found["part"]) == ("critical", "log")
        assert "connects again by itself" in found["remedy"]
        others = [n for n in client(own, name).read("/cluster")["nodes"] if n["name"] != name]
        assert {n["state"] for n in others} <= {"unknown", "critical"}, "its own connection is gone: it cannot know"
    finally:
        own.start("broker")
    _back_in_order(own)
    after = wait_equal(own)
    assert (after["epoch"], after["primary"]) == (before["epoch"], before["primary"]), "what was refused stays refused"


def test_the_broker_hangs_so_nobody_can_be_promoted(own: Cluster) -> None:
    """The same, found out by waiting; and not for ever."""
    before, (one, two) = wait_equal(own), standbys_of(own)
    with suspended(own, "broker"), ThreadPoolExecutor() as pool:
        promoting = pool.submit(command, own, one, "failover", "--operation", "promote", "--wait", "4")
        looking = pool.submit(command, own, two, "failover", "--operation", "preflight", "--wait", "4", "--json")
        refused, seen = promoting.result(), looking.result()
        client(own, before["primary"]).wait_for(f"/nodes/{before['primary']}", _says_that_it_is_stale)
    assert "the log could not be read to its end" in one_line(refused)
    assert "the brokers have not agreed on it yet" in refused.out
    assert seen.code == 1
    assert [check["check"] for check in json.loads(seen.out)["checks"] if not check["ok"]] == ["log"]
    _back_in_order(own)
    after = wait_equal(own)
    assert (after["epoch"], after["primary"]) == (before["epoch"], before["primary"]), "what was refused stays refused"


def _says_that_it_is_stale(node: Any) -> bool:
    status = node["status"]
    return status["state"] == "critical" and status["part"] == "log"


def _begin(own: Cluster, name: str, *arguments: str) -> subprocess.Popen[str]:
    """A promotion under way."""
    return subprocess.Popen(
        [program_path("failover"), "--operation", "promote", "--config", own.providers[name].files.config, *arguments],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_command_that_is_ended_while_it_waits_promotes_nobody(own: Cluster, how: signal.Signals) -> None:
    """Invariant: nothing goes on behind the back of somebody who pressed Ctrl-C, or whose ssh broke."""
    before, name = wait_equal(own), standbys_of(own)[0]
    with suspended(own, "broker"):
        promoting = _begin(own, name)
        assert promoting.stdout is not None
        assert "check" in promoting.stdout.readline()
        assert "wait" in promoting.stdout.readline(), "it says what it waits for"
        promoting.send_signal(how)
        _, err = promoting.communicate(timeout=30)
    if how is not signal.SIGKILL:
        assert promoting.returncode == 130
        still = f"{before['primary']} is still primary, epoch {before['epoch']}"
        assert err.startswith(f"error: interrupted by SIGINT: {still}; nothing was changed and nothing goes on"), err
        assert err.count("\n") == 1
    _back_in_order(own)
    after = wait_equal(own)
    assert (after["epoch"], after["primary"]) == (before["epoch"], before["primary"])


def test_a_promotion_goes_on_where_nobody_reads_what_it_says(own: Cluster) -> None:
    name = standbys_of(own)[0]
    with suspended(own, "broker"):
        promoting = _begin(own, name)
        assert promoting.stdout is not None
        assert "check" in promoting.stdout.readline()
        promoting.stdout.close()
    assert promoting.wait(60) == 0
    assert promoting.stderr is not None
    assert promoting.stderr.read() == ""
    promoting.stderr.close()
    assert primary_of(own) == name


def test_the_provider_on_this_host_is_not_running_or_hangs(own: Cluster) -> None:
    name = standbys_of(own)[0]
    with suspended(own, name):
        hangs = one_line(command(own, name, "failover", "--operation", "promote"))
    own.kill(name)
    try:
        gone = one_line(command(own, name, "failover", "--operation", "promote"))
        told = command(own, name, "failover", "--operation", "promote", "--json")
    finally:
        own.start(name)
    for said in (hangs, gone):
        assert "does not answer" in said
        assert "systemctl status bellwether-provider" in said
        assert "promote another standby" in said
    found = json.loads(told.out)
    assert (told.code, found["result"], found["code"], found["steps"]) == (1, "failed", "unreachable", [])
    assert told.err.strip() == f"error: {found['detail']}" == gone


def test_a_provider_that_dies_in_the_middle_is_said_plainly(own: Cluster) -> None:
    name = standbys_of(own)[0]
    try:
        with suspended(own, "broker"):
            promoting = _begin(own, name)
            assert promoting.stdout is not None
            assert "check" in promoting.stdout.readline()
            own.kill(name)
            _, err = promoting.communicate(timeout=30)
    finally:
        own.start(name)
    assert promoting.returncode == 1
    assert "stopped answering" in err
    assert "nothing was changed, as far as this command was told" in err
    assert err.count("\n") == 1


def test_each_node_s_state_is_a_metric_on_each_node(own: Cluster) -> None:
    _back_in_order(own)
    for name in own.providers:
        client(own, name).wait_for("/cluster", lambda c: {n["state"] for n in c["nodes"]} == {"active"})
        lines = client(own, name).get("/metrics").body.decode().splitlines()
        states = [line for line in lines if line.startswith("bellwether_node_state{")]
        assert len(states) == 8 * len(own.providers)
        for node in own.providers:
            assert f'bellwether_node_state{{node="{node}",state="active"}} 1.0' in states
            assert f'bellwether_node_state{{node="{node}",state="lost"}} 0.0' in states
            assert any(line.startswith(f'bellwether_node_lag_revisions{{node="{node}"}}') for line in lines)


def test_a_node_that_dies_is_lost_and_the_status_says_what_to_do(own: Cluster) -> None:
    before = primary_of(own)
    one, two = standbys_of(own)
    own.kill(before)
    try:
        client(own, one).wait_for(f"/nodes/{before}", lambda n: n["status"]["state"] == "lost")
        status = command(own, one, "provider", "status")
        assert f"WRONG    {before} is primary" in status.out
        assert f"run here: failover --operation promote (or on {two})" in status.out
    finally:
        own.start(before)
    client(own, one).wait_for(f"/nodes/{before}", lambda n: n["status"]["state"] == "active")
    assert "OK       nothing is wrong" in command(own, one, "provider", "status").out
