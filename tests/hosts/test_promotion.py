"""`ssh root@standby failover --operation promote`, whatever became of the primary: nothing acknowledged is lost, the
old primary is a standby when it is back, and the operator was told each step."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from tests.testbed.cluster import Cluster
from tests.testbed.host import Host
from tests.testbed.links import Traffic
from tests.testbed.space import Said
from tests.testbed.writers import Writers, check_promises, writing

pytestmark = pytest.mark.long  # until they have been seen on a quiet machine, all in one run

SURELY_OUT_S = 15.0
"""A host that is away for less cannot have lost its power."""
PROMOTE = "failover --operation promote"
STEPS = re.compile(r"^ +\d+\.\d{3} s  (\w+) +\S", re.MULTILINE)


def promote(standby: Host, *options: str) -> Said:
    """As an operator does it, from the client host; that must succeed."""
    said = standby.ssh(" ".join([PROMOTE, *options]))
    assert said.code == 0, said
    assert [step for step in STEPS.findall(said.out) if step != "wait"] == ["check", "barrier", "claim", "advise"]
    assert f"{standby.name} is primary: epoch" in said.out
    assert f"advised: primary {standby.name}, brokers " in said.out
    return said


def afterwards(cluster: Cluster, load: Writers, new: Host, epoch: int) -> None:
    """All is well again by itself: equal nodes, one new epoch, nothing lost, all agents follow."""
    seen = cluster.healthy()
    cluster.equal()
    assert (seen["primary"], seen["epoch"]) == (new.name, epoch + 1)
    check_promises(cluster, load)
    agents = list(cluster.agents)
    for agent in agents:
        cluster.api(new).wait_for(f"/agents/{agent}", lambda a: a["status"]["advised"])


def refused(said: Said) -> str:
    """What was said on stderr, which must be one line, with exit code 1."""
    assert said.code == 1, said
    assert said.err.count("\n") == 1, said
    return said.err


# ── the primary lives ──


def test_planned_no_client_sees_an_error(healthy: Cluster) -> None:
    old, (new, _) = healthy.primary(), healthy.standbys()
    epoch = healthy.equal()["epoch"]
    with writing(healthy, *([name] for name in healthy.nodes)) as load:
        load.wait_for_more(10)
        promote(new)
        load.wait_for_more(10)
    assert load.failures == []
    assert healthy.api(old).read("/cluster")["primary"] == new.name
    afterwards(healthy, load, new, epoch)


def test_what_an_operator_can_do_wrong(healthy: Cluster) -> None:
    old, (one, two) = healthy.primary(), healthy.standbys()
    epoch = healthy.equal()["epoch"]
    already = old.ssh(PROMOTE)
    assert (already.code, already.out.count("\n")) == (0, 1)
    assert "Nothing was changed" in already.out
    one.run("systemctl stop bellwether-provider")
    assert "systemctl status bellwether-provider" in refused(one.ssh(PROMOTE))
    assert two.ssh(f"{PROMOTE} --operation explode").code == 2
    one.run("systemctl start bellwether-provider")
    assert healthy.healthy()["epoch"] == epoch


def test_for_programs_and_through_a_pipe_that_closes(healthy: Cluster) -> None:
    one, two = healthy.standbys()
    found = json.loads(one.ssh(f"{PROMOTE} --json", check=True).out)
    assert (found["result"], found["primary"]) == ("promoted", one.name)
    piped = two.ssh(f"{PROMOTE} | head -n 1", check=True)
    assert (piped.out.count("\n"), piped.err) == (1, "")
    healthy.api(two).wait_for("/cluster", lambda c: c["primary"] == two.name)


def test_on_two_standbys_at_once_one_wins_and_the_other_says_who(healthy: Cluster) -> None:
    rivals, epoch = healthy.standbys(), healthy.equal()["epoch"]
    with ThreadPoolExecutor() as pool:
        said = dict(zip([host.name for host in rivals], pool.map(lambda host: host.ssh(PROMOTE), rivals), strict=True))
    seen = healthy.healthy()
    winner = seen["primary"]
    assert said[winner].code == 0, said
    loser = next(said[host.name] for host in rivals if host.name != winner)
    if loser.code == 0:  # it came so much later that it was a promotion of its own
        assert seen["epoch"] == epoch + 2
    else:
        assert re.search(rf"\b{winner} (became primary first|has become primary since), epoch", refused(loser))


# ── the primary is gone, or seems so ──


def test_the_primary_s_host_lost_its_power(healthy: Cluster) -> None:
    old, (new, _) = healthy.primary(), healthy.standbys()
    epoch = healthy.equal()["epoch"]
    with writing(healthy, [old.name, new.name]) as load:
        load.wait_for_more(10)
        old.power_off()
        promote(new)
        load.wait_for_more(10)
        old.boot()
    afterwards(healthy, load, new, epoch)


def test_the_primary_s_host_lost_its_power_and_no_name_server_answers(healthy: Cluster) -> None:
    """Whoever asked one would wait for it: nobody does."""
    old, (new, _) = healthy.primary(), healthy.standbys()
    epoch = healthy.equal()["epoch"]
    with writing(healthy, [old.name, new.name]) as load, _asking_names_is_in_vain(new) as asked:
        load.wait_for_more(10)
        old.power_off()
        promote(new)
        assert "primary" in new.ssh("provider status", check=True).out
        assert asked() == 0
        load.wait_for_more(10)
        old.boot()
    afterwards(healthy, load, new, epoch)


@contextmanager
def _asking_names_is_in_vain(host: Host) -> Iterator[Callable[[], int]]:
    """This host has a name server that never answers. Yields how many packets were sent to it."""
    host.run("cp /etc/resolv.conf /root/resolv.conf; echo nameserver 10.77.0.250 >/etc/resolv.conf")
    rules = "add table inet names; add chain inet names out { type filter hook output priority 0; }; "
    _filter(host, f"{rules} add rule inet names out udp dport 53 counter drop")

    def asked() -> int:
        return int(re.findall(r"counter packets (\d+)", _filter(host, "list table inet names"))[0])

    try:
        yield asked
    finally:
        _filter(host, "delete table inet names")
        host.run("cp /root/resolv.conf /etc/resolv.conf")


def _filter(host: Host, rules: str) -> str:
    """The packet filter of this host, which it has none of its own for."""
    return host.bed.space.run(f"ip netns exec {host.name} nft '{rules}'").out


@pytest.mark.long
def test_brokers_that_may_have_lost_what_was_acknowledged_are_not_written_to_before_somebody_says_so(
    healthy: Cluster,
) -> None:
    """Two hosts lose their power. The broker of one is back before its provider, which may hold what was lost."""
    old, (back, alone) = healthy.primary(), healthy.standbys()
    epoch = healthy.equal()["epoch"]
    with writing(healthy, [old.name]) as load:
        load.wait_for_more(10)
        old.power_off()
        back.power_off()
        threading.Event().wait(SURELY_OUT_S)
        config = f"{back.root}/etc/bellwether/provider.toml"
        healthy.bed.space.run(f"mv {config} {config}.away")
        back.boot()
        said = refused(alone.ssh(PROMOTE))
        assert f"Start {old.name} or {back.name}" in said or f"Start {back.name} or {old.name}" in said
        healthy.bed.space.run(f"mv {config}.away {config}")
        back.run("systemctl start bellwether-provider")
        promote(alone)
        old.boot()
    afterwards(healthy, load, alone, epoch)


@pytest.mark.long
def test_cut_off_from_the_other_hosts_but_not_from_its_clients(healthy: Cluster) -> None:
    """Its clients get no acknowledgement that is lost, and can see that it is stale; there is nothing to clean up."""
    old, (new, other) = healthy.primary(), healthy.standbys()
    epoch = healthy.equal()["epoch"]
    with writing(healthy, [old.name], [new.name, other.name]) as load:
        load.wait_for_more(10)
        healthy.bed.isolate(old, but=[healthy.bed.client()])
        promote(new)
        acknowledged = load.number_by(old.name)
        load.wait_for_more(10)
        mine = healthy.api(old).wait_for(f"/nodes/{old.name}", lambda node: node["status"]["part"] == "log")
        assert mine["status"]["state"] == "critical"
        assert healthy.api(old).get("/health/primary").status == 503
        assert "STALE" in old.ssh("provider status").out
        assert "the log" in refused(old.ssh(f"{PROMOTE} --wait 3")), "it cannot make itself primary either"
        assert load.number_by(old.name) == acknowledged, "what it would have acknowledged would be lost"
        healthy.bed.heal()
        healthy.api(old).wait_for("/cluster", lambda c: c["primary"] == new.name)
    afterwards(healthy, load, new, epoch)


@pytest.mark.long
def test_the_primary_s_process_was_killed(healthy: Cluster) -> None:
    """systemd brings it back at once: as primary, or as a standby where another was promoted meanwhile."""
    old, (new, _) = healthy.primary(), healthy.standbys()
    epoch = healthy.equal()["epoch"]
    with writing(healthy, list(healthy.nodes)) as load:
        load.wait_for_more(10)
        old.run("systemctl kill --signal=KILL bellwether-provider")
        promote(new)
        load.wait_for_more(10)
    afterwards(healthy, load, new, epoch)


@pytest.mark.long
def test_the_primary_s_process_hangs_and_goes_on_later(healthy: Cluster) -> None:
    old, (new, other) = healthy.primary(), healthy.standbys()
    epoch = healthy.equal()["epoch"]
    with writing(healthy, [old.name, new.name], [other.name]) as load:
        load.wait_for_more(10)
        old.run("systemctl kill --signal=STOP bellwether-provider")
        promote(new)
        load.wait_for_more(10)
        old.run("systemctl kill --signal=CONT bellwether-provider")
        load.wait_for_more(10)
    afterwards(healthy, load, new, epoch)


@pytest.mark.long
def test_the_primary_s_host_is_paused_and_goes_on_later(healthy: Cluster) -> None:
    old, (new, other) = healthy.primary(), healthy.standbys()
    epoch = healthy.equal()["epoch"]
    with writing(healthy, [old.name, new.name], [other.name]) as load:
        load.wait_for_more(10)
        old.freeze()
        promote(new)
        load.wait_for_more(10)
        old.thaw()
        load.wait_for_more(10)
    afterwards(healthy, load, new, epoch)


@pytest.mark.long
def test_the_primary_s_host_is_cut_off_from_everything(healthy: Cluster) -> None:
    old, (new, other) = healthy.primary(), healthy.standbys()
    epoch = healthy.equal()["epoch"]
    with writing(healthy, [old.name, new.name], [other.name]) as load:
        load.wait_for_more(10)
        healthy.bed.isolate(old)
        promote(new)
        load.wait_for_more(10)
        healthy.bed.heal()
        load.wait_for_more(10)
    afterwards(healthy, load, new, epoch)


@pytest.mark.long
def test_the_primary_is_cut_off_from_all_brokers_only(healthy: Cluster) -> None:
    """Also from its own, which goes on: clients reach it, the others do, and it cannot read the log."""
    old, (new, other) = healthy.primary(), healthy.standbys()
    epoch = healthy.equal()["epoch"]
    with writing(healthy, [old.name, new.name], [other.name]) as load:
        load.wait_for_more(10)
        healthy.bed.isolate(old, Traffic.AMQP)
        _own_broker(old, closed=True)
        try:
            healthy.api(old).wait_for(f"/nodes/{old.name}", lambda node: node["status"]["part"] == "log")
            promote(new)
            load.wait_for_more(10)
        finally:
            _own_broker(old, closed=False)
            healthy.bed.heal()
        load.wait_for_more(10)
    afterwards(healthy, load, new, epoch)


def _own_broker(host: Host, *, closed: bool) -> None:
    """Closes the way from a host's provider to its own broker, which no link of the bed carries."""
    rules = "add table inet own; add chain inet own out { type filter hook output priority 0; }; "
    rules += "add rule inet own out oif lo tcp dport 5671 drop; add rule inet own out oif lo tcp sport 5671 drop"
    _filter(host, rules if closed else "delete table inet own")


@pytest.mark.long
def test_a_standby_that_is_behind_reads_first(healthy: Cluster) -> None:
    """What was written while it hung is there when it leads."""
    old, (new, _) = healthy.primary(), healthy.standbys()
    epoch = healthy.equal()["epoch"]
    with writing(healthy, *[[old.name]] * 4) as load:
        new.run("systemctl kill --signal=STOP bellwether-provider")
        load.wait_for_more(400)
        new.run("systemctl kill --signal=CONT bellwether-provider")
        promote(new)
    afterwards(healthy, load, new, epoch)


@pytest.mark.long
def test_a_rehearsal_over_ssh(healthy: Cluster) -> None:
    old, (new, _) = healthy.primary(), healthy.standbys()
    said = new.ssh("failover --operation rehearse --json", timeout_s=120)
    assert said.code == 0, said
    found = json.loads(said.out)
    assert (found["result"], found["primary"]) == ("clean", old.name)
    assert (found["writes"]["lost"], found["writes"]["failed"]) == (0, 0)
