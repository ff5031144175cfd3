"""The systemd units: as strict as was weighed, and the daemons work all the same under what they forbid."""

import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from localcluster.cluster import Cluster
from localcluster.process import Process, environment, start, tail, wait_until
from localcluster.provider import program_path
from localcluster.users import choose_users, kept_users

from tests.support import sandbox
from tests.support.api import client

UNITS = Path(__file__).resolve().parents[2] / "deploy" / "systemd"
PROVIDER, AGENT = UNITS / "bellwether-provider.service", UNITS / "bellwether-agent.service"
EXPOSURE = 1.1
"""Of 10, by systemd 252; what is left is that these programs use the network."""

BROKER = UNITS / "bellwether-broker.service"
BROKER_EXPOSURE = 2.8
"""It is root, and becomes RabbitMQ's user; it runs for seconds when the brokers change."""

needs_sandbox = pytest.mark.skipif(sandbox.available() is not None, reason=str(sandbox.available()))


@pytest.mark.parametrize(
    ("unit", "most"),
    [(PROVIDER, EXPOSURE), (AGENT, EXPOSURE), (BROKER, BROKER_EXPOSURE)],
    ids=["provider", "agent", "broker"],
)
def test_the_exposure_does_not_grow(unit: Path, most: float) -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", unit],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"LC_ALL": "C.UTF-8"},
    )
    level = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert level is not None, done.stderr
    assert float(level[1]) <= most, done.stdout


@pytest.mark.parametrize("unit", sorted(UNITS.glob("*.service")), ids=lambda unit: unit.stem)
def test_systemd_understands_each_line(unit: Path, tmp_path: Path) -> None:
    copy = tmp_path / unit.name
    text = unit.read_text().replace("/opt/bellwether/bin/", "/bin/true ").replace("/usr/local/bin/", "/bin/true ")
    copy.write_text(text)
    done = subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True, check=False)
    assert unit.name not in done.stderr


def test_daemons_may_write_where_their_files_are_and_nowhere_else() -> None:
    assert sandbox.read_unit(PROVIDER)["ReadWritePaths"] == ["/etc/bellwether"]
    assert sandbox.read_unit(PROVIDER)["StateDirectory"] == ["bellwether"]
    assert sandbox.read_unit(AGENT)["ReadWritePaths"] == ["/etc/bellwether"]
    assert "StateDirectory" not in sandbox.read_unit(AGENT)


# ── under the restrictions ──

PROBE = """
import ctypes, mmap, os, socket, sys
def fails(name, action):
    try:
        action()
    except OSError:
        return
    print("possible:", name)
libc = ctypes.CDLL(None, use_errno=True)
def syscall(name, *arguments):
    if getattr(libc, name)(*arguments) != 0:
        raise OSError(ctypes.get_errno(), name)
fails("write to /etc", lambda: open("/etc/bellwether-probe", "w"))
fails("write to /usr", lambda: open("/usr/bellwether-probe", "w"))
fails("write beside its files", lambda: open(sys.argv[2] + "/probe", "w"))
fails("look into /root", lambda: os.listdir("/root"))
fails("see init", lambda: os.stat("/proc/1"))
fails("see the machine's memory", lambda: open("/proc/meminfo"))
fails("open a disk or a terminal", lambda: os.open("/dev/kmsg", os.O_RDONLY))
fails("raw network", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
fails("netlink", lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW))
fails("memory to write and run", lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC))
fails("a namespace", lambda: syscall("unshare", 0x10000000))
fails("mount", lambda: syscall("mount", b"none", b"/tmp", b"tmpfs", 0, None))
fails("become root", lambda: os.setuid(0))
fails("a higher priority", lambda: os.setpriority(os.PRIO_PROCESS, 0, -5))
open(sys.argv[1] + "/probe", "w").close()
open("/tmp/probe", "w").close()
print("done as", os.getuid())
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """One provider, one database, its agent; each with a user of its own. Not below /tmp: the units have their own."""
    if sandbox.available() is not None:
        pytest.skip(str(sandbox.available()))
    with tempfile.TemporaryDirectory(dir="/run", prefix="bellwether-units-") as path:
        root, told = Path(path), list[str]()
        choose_users(root, root / "users.json", told.append)
        if not kept_users(root / "users.json").own:
            pytest.skip(told[0])
        cluster = Cluster(root, providers=1, databases=1)
        try:
            cluster.up()
            yield cluster
        finally:
            cluster.kill_all()


class Supervisor:
    """Hears what a service tells systemd."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        path.chmod(0o777)
        self._socket.settimeout(30)

    def wait_for(self, state: str) -> None:
        while self._socket.recv(1000).decode() != state:
            pass

    def close(self) -> None:
        self._socket.close()


def run_as_unit(cluster: Cluster, name: str, unit: Path) -> Process:
    """Start a member anew, as its unit would. It is ready, and says that it is alive."""
    cluster.stop(name)
    member = cluster.providers.get(name) or cluster.agents[name]
    settings = sandbox.read_unit(unit)
    program, _, rest = settings["ExecStart"][-1].partition(" ")
    argv = [program_path(Path(program).name), *rest.split()[:-1], member.files.config]
    supervisor = Supervisor(cluster.layout.root / f"{name}.notify")
    variables = dict(one.split("=", 1) for one in settings["Environment"][-1].split())
    told = {"NOTIFY_SOCKET": str(supervisor.path), "WATCHDOG_USEC": "2000000"}
    try:
        command = sandbox.command(settings, argv, [member.files.directory])
        process = start(command, log=member.log, env=environment(**(variables | told)))
        member.process = process
        try:
            supervisor.wait_for("READY=1")
            supervisor.wait_for("WATCHDOG=1")
        except TimeoutError:
            raise AssertionError(tail(member.log, 40)) from None
    finally:
        supervisor.close()
    return process


@needs_sandbox
@pytest.mark.parametrize("unit", [PROVIDER, AGENT], ids=lambda unit: unit.stem)
def test_the_restrictions_are_really_there(cluster: Cluster, unit: Path) -> None:
    settings = sandbox.read_unit(unit)
    directory = cluster.layout.root / ("p1" if unit == PROVIDER else "db1")
    command = sandbox.command(settings, [sys.executable, "-c", PROBE, directory, cluster.layout.root], [directory])
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment(), timeout=60)
    (directory / "probe").unlink(missing_ok=True)
    assert re.fullmatch(r"done as \d+\n", done.stdout), done.stdout + done.stderr
    assert int(done.stdout.split()[-1]) == directory.stat().st_uid


@needs_sandbox
def test_provider_and_agent_work_as_their_units_run_them(cluster: Cluster) -> None:
    """TLS, the log, the store, the broker's users, the database through its socket: a wish is fulfilled."""
    provider = run_as_unit(cluster, "p1", PROVIDER)
    wait_until(cluster.primary, timeout_s=30, what="a primary that commits", process=provider)
    agent = run_as_unit(cluster, "db1", AGENT)
    api = client(cluster, "p1")
    api.write("PUT", "/instances/db1/databases/shop", {"charset": "utf8mb4"})
    account = {"password": "a-long-password", "grants": [{"database": "shop", "privileges": ["ALL"]}]}
    api.write("PUT", "/instances/db1/accounts/app", account)
    for path in ("databases/shop", "accounts/app"):
        wait_until(
            lambda path=path: api.read(f"/instances/db1/{path}")["status"]["phase"] == "ready",
            timeout_s=30,
            what=f"{path}: {tail(cluster.agents['db1'].log)}",
            process=agent,
        )
    for name, process in (("p1", provider), ("db1", agent)):
        log = (cluster.layout.root / name / ("provider.log" if name == "p1" else "agent.log")).read_text()
        assert "not permitted" not in log, log
        process.stop()
        assert not process.alive
