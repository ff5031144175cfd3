"""The test bed keeps its promises: a fault is done to whom it is meant for, in the direction that was meant, until it
is taken back; and whatever becomes of the test, nothing of the bed stays behind."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from localcluster.process import Process, wait_until

from tests.testbed import cgroups
from tests.testbed.bed import Bed
from tests.testbed.host import Host
from tests.testbed.links import Traffic

PORT = 9
UNHEARD_S = 1.0
GONE_S = 20.0


@pytest.fixture(scope="module")
def hosts(bed: Bed) -> list[Host]:
    """Hosts without a broker: they boot in a moment."""
    return [bed.client(name) for name in ("client", "client2", "client3")]


@pytest.fixture(autouse=True)
def _restored(bed: Bed, hosts: list[Host]) -> Iterator[None]:
    yield
    bed.restore()
    for host in hosts:
        host.wait_booted()


@contextmanager
def mailbox(host: Host) -> Iterator[socket.socket]:
    """A datagram socket of that host."""
    with host.bed.space.network_of(host.name):
        box = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with box:
        box.bind((host.address, PORT))
        box.settimeout(GONE_S)
        yield box


@contextmanager
def connected(a: Host, b: Host, port: int) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a connection from `a` to that port of `b`."""
    with ExitStack() as stack:
        with b.bed.space.network_of(b.name):
            listener = stack.enter_context(socket.create_server((b.address, port)))
        with a.bed.space.network_of(a.name):
            client = stack.enter_context(socket.create_connection((b.address, port), timeout=GONE_S))
        server = stack.enter_context(listener.accept()[0])
        server.settimeout(GONE_S)
        yield client, server


def arrived(box: socket.socket) -> bytes:
    return box.recv(100)


# ── links ──


def test_a_link_that_is_cut_one_way_is_cut_one_way(bed: Bed, hosts: list[Host]) -> None:
    a, b, c = hosts
    with mailbox(a) as at_a, mailbox(b) as at_b, mailbox(c) as at_c:
        bed.cut(a, b, one_way=True)
        at_a.sendto(b"lost", (b.address, PORT))
        at_b.sendto(b"the other way", (a.address, PORT))
        assert arrived(at_a) == b"the other way"
        at_a.sendto(b"elsewhere", (c.address, PORT))
        assert arrived(at_c) == b"elsewhere"
        bed.heal()
        at_a.sendto(b"after healing", (b.address, PORT))
        assert arrived(at_b) == b"after healing", "what was sent before never arrives"


def test_a_link_that_is_cut_is_cut_both_ways(bed: Bed, hosts: list[Host]) -> None:
    a, b, _ = hosts
    with mailbox(a) as at_a, mailbox(b) as at_b:
        bed.cut(a, b)
        at_a.sendto(b"lost", (b.address, PORT))
        at_b.sendto(b"lost", (a.address, PORT))
        bed.heal()
        at_a.sendto(b"healed", (b.address, PORT))
        at_b.sendto(b"healed", (a.address, PORT))
        assert arrived(at_b) == arrived(at_a) == b"healed"


@pytest.mark.parametrize("traffic", [Traffic.API, Traffic.AMQP, Traffic.CLUSTERING])
def test_one_kind_of_traffic_is_cut_and_the_others_go_on(bed: Bed, hosts: list[Host], traffic: Traffic) -> None:
    a, b, _ = hosts
    ports = {Traffic.API: 8443, Traffic.AMQP: 5671, Traffic.CLUSTERING: 6123}
    with ExitStack() as stack:
        pairs = {kind: stack.enter_context(connected(a, b, port)) for kind, port in ports.items()}
        bed.cut(a, b, traffic)
        for client, _ in pairs.values():
            client.sendall(b"request")
        for kind, (_, server) in pairs.items():
            if kind is not traffic:
                assert server.recv(100) == b"request"
        server = pairs[traffic][1]
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.recv(100)
        bed.heal()
        server.settimeout(GONE_S)
        assert server.recv(100) == b"request", "the sender's kernel tries again"


def test_some_packets_are_lost(bed: Bed, hosts: list[Host]) -> None:
    a, b, _ = hosts
    with mailbox(a) as at_a, mailbox(b) as at_b:
        bed.drop(a, b, 50, one_way=True)
        for _ in range(200):
            at_a.sendto(b"perhaps", (b.address, PORT))
        bed.heal()
        at_a.sendto(b"end", (b.address, PORT))
        came = 0
        while arrived(at_b) == b"perhaps":
            came += 1
        assert 40 < came < 160


def test_a_slow_link_takes_its_time_each_way_and_nothing_is_lost(bed: Bed, hosts: list[Host]) -> None:
    a, b, c = hosts
    with connected(a, b, 5671) as (client, server), mailbox(a) as at_a, mailbox(c) as at_c:
        bed.delay(a, b, 150)
        began_s = time.monotonic()
        client.sendall(b"x" * 500_000)  # more than a packet: segments and checksums are the kernel's
        rest = 500_000
        while rest:
            rest -= len(server.recv(rest))
        server.sendall(b"answer")
        assert client.recv(100) == b"answer"
        assert time.monotonic() - began_s >= 0.3
        bed.cut(a, b)  # a link may be slow and cut
        at_a.sendto(b"another link", (c.address, PORT))
        assert arrived(at_c) == b"another link"
        bed.heal()
        client.sendall(b"fast again")
        assert server.recv(100) == b"fast again"


# ── hosts ──


def test_the_operator_gets_in_by_ssh_with_a_key(hosts: list[Host]) -> None:
    _, b, _ = hosts
    assert b.ssh("hostname").ok().out == "client2\n"
    assert b.ssh("exit 3").code == 3


def test_power_fails_without_a_word_and_comes_back(hosts: list[Host]) -> None:
    a, b, _ = hosts
    b.write("/root/kept", "on disk")
    born = b.read("/proc/sys/kernel/random/boot_id"), b.run("stat -c %Y /proc/1").out
    with connected(a, b, 8443) as (client, _):
        b.power_off()
        assert not b.on
        client.setblocking(False)
        client.sendall(b"is anybody there?")
        with pytest.raises(BlockingIOError):
            client.recv(1)
        b.boot()
        client.settimeout(GONE_S)
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    assert b.read("/root/kept") == "on disk"
    assert b.run("stat -c %Y /proc/1").out != born[1]


def test_a_frozen_host_neither_runs_nor_answers_and_goes_on(hosts: list[Host]) -> None:
    a, b, _ = hosts
    with connected(a, b, 8443) as (client, server):
        b.freeze()
        client.sendall(b"wake up")
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.recv(100)
        frozen = b.bed.space.groups.freezer / b.name / "cgroup.events"
        assert "frozen 1" in frozen.read_text()
        b.thaw()
        server.settimeout(GONE_S)
        assert server.recv(100) == b"wake up"
    assert b.ssh("true").code == 0


def test_a_full_disk_is_full_and_another_host_has_its_own(hosts: list[Host]) -> None:
    a, b, _ = hosts
    b.fill()
    said = b.run("head -c 4096 /dev/zero >/root/more", check=False)
    assert "No space left" in said.err
    a.write("/root/more", "x")
    b.unfill()
    b.write("/root/more", "x")


def test_a_slow_host_is_held_back(hosts: list[Host]) -> None:
    _, b, _ = hosts
    stat = b.bed.space.groups.cpu / b.name / "cpu.stat"

    def held_back() -> int:
        return int(re.findall(r"nr_throttled (\d+)", stat.read_text())[0])

    before = held_back()
    b.slow(0.1)
    # What comes in by nsenter is not of the host's group; a unit is.
    b.run("systemd-run --wait --quiet /usr/bin/python3 -c 'sum(range(3_000_000))'")
    b.slow(None)
    assert held_back() > before


CLOCK_SERVER = """
import os, socket, time
server = socket.create_server(("0.0.0.0", 8443))
while True:
    with server.accept()[0] as client:
        client.sendall(f"{time.time()} {time.monotonic()} {os.getpid()}".encode())
"""


def test_a_clock_is_shifted_for_one_unit_alone(hosts: list[Host]) -> None:
    _, b, _ = hosts
    b.write("/root/clock.py", CLOCK_SERVER)
    b.write("/etc/systemd/system/clock.service", "[Service]\nExecStart=/usr/bin/python3 /root/clock.py\n")
    b.start("clock.service")

    def asked() -> tuple[float, float, int]:
        with b.bed.space.network_of("client"), socket.create_connection((b.address, 8443), timeout=GONE_S) as client:
            wall, monotonic, pid = client.recv(100).split()
        return float(wall) - time.time(), float(monotonic) - time.monotonic(), int(pid)

    def shifted_by(shift_s: float) -> None:
        wall_s, monotonic_s, _ = asked()
        assert abs(wall_s - shift_s) < 5
        assert abs(monotonic_s) < 5

    b.shift_clock(3600, unit="clock.service")
    b.wait_for("ss -Hltn sport = 8443 | grep -q .")
    shifted_by(3600)
    pid = asked()[2]
    b.shift_clock(-7200, unit="clock.service")
    shifted_by(-7200)
    assert asked()[2] == pid, "nothing was restarted"
    assert abs(float(b.run("date +%s").out) - time.time()) < 5, "the rest of the host has the right time"
    b.restore()
    shifted_by(0)
    b.run("systemctl stop clock.service")


# ── what stays ──

CHILD = """
import sys
from tests.testbed.bed import Bed
bed = Bed()
host = bed.client()
print(bed.space.state, bed.space.pid, host._running.init.pid, flush=True)
sys.stdin.read()
"""


@contextmanager
def another_test() -> Iterator[tuple[subprocess.Popen[str], Path, Process, Process]]:
    """Another test process with a bed of its own: it, the bed's directory, its keeper, process 1 of its host."""
    paths = os.pathsep.join(path for path in sys.path if path)
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD],
        env=os.environ | {"PYTHONPATH": paths},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with child:
        assert child.stdout is not None
        state, keeper, init = child.stdout.readline().split()
        yield child, Path(state), Process.find(int(keeper)), Process.find(int(init))
        child.kill()


def leftovers(state: Path) -> list[str]:
    """What is still there of the bed with that directory, besides the directory."""
    found = [str(path) for path in cgroups.Groups.of(state.name) if path.exists()]
    loops = Path("/sys/block").glob("loop*/loop/backing_file")
    found += [str(loop) for loop in loops if loop.exists() and state.name in loop.read_text()]
    return found + [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if state.name in line]


def test_nothing_stays_when_the_test_is_killed(able: None) -> None:
    with another_test() as (child, state, keeper, init):
        assert state.exists() and leftovers(state)
        child.send_signal(signal.SIGKILL)
        wait_until(lambda: not (keeper.alive or init.alive or state.exists()), timeout_s=GONE_S, what="the bed stays")
        wait_until(lambda: not leftovers(state), timeout_s=GONE_S, what="some of the bed stays")


def test_what_a_killed_keeper_leaves_is_swept_by_the_next_bed(able: None) -> None:
    with another_test() as (child, state, keeper, init):
        child.send_signal(signal.SIGKILL)
        keeper.kill()
        wait_until(lambda: not init.alive, timeout_s=GONE_S, what="a host outlives its bed")
        child.wait()
        with Bed():
            assert not state.exists()
            wait_until(lambda: not leftovers(state), timeout_s=GONE_S, what="some of the bed stays")


def test_a_bed_is_not_seen_on_the_machine(bed: Bed, hosts: list[Host]) -> None:
    links = {path.name for path in Path("/sys/class/net").iterdir()}
    assert not links & {"bed0", *(host.name for host in hosts)}
    assert str(bed.space.state) not in Path("/proc/self/mountinfo").read_text()
    assert not Path("/run/netns/client").exists()


def test_the_journals_of_all_hosts_can_be_kept(bed: Bed, hosts: list[Host], tmp_path: Path) -> None:
    hosts[1].run("logger 'the last words of a host' && journalctl --sync")
    hosts[1].power_off()
    for host in hosts:
        host.keep(tmp_path)
    assert "the last words of a host" in (tmp_path / "client2.journal").read_text()
    assert "systemd" in (tmp_path / "client3.journal").read_text()
