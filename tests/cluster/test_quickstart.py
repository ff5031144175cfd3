"""The command that a newcomer types first: what it promises in its help and in cluster.json is so.

One quickstart for all of this module; the tests stand in the order of a visit: it is up, something dies, it goes down.
"""

import json
import os
import re
import signal
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from localcluster.ports import is_free
from localcluster.process import as_user, wait_until

from tests.support.api import Client

REPOSITORY = Path(__file__).resolve().parents[2]


class Quickstart:
    """`deploy/quickstart`, with a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.output = ""

    def __call__(self, *arguments: str) -> int:
        """Run it as a person would, far from the repository; its exit code."""
        done = subprocess.run(
            [REPOSITORY / "deploy" / "quickstart", *arguments, "--directory", self.directory],
            cwd=self.directory.parent,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            check=False,
        )
        self.output = done.stdout
        return done.returncode

    @property
    def file(self) -> Any:
        return json.loads((self.directory / "cluster.json").read_text())

    @property
    def pids(self) -> dict[str, int]:
        file = self.file
        nodes = {node["name"]: node["pid"] for node in file["nodes"]}
        agents = {agent["id"]: agent["pid"] for agent in file["agents"]}
        servers = {f"mariadb-{agent['id']}": agent["instance"]["pid"] for agent in file["agents"]}
        return {"broker": file["brokers"][0]["pid"]} | nodes | agents | servers

    def client(self, name: str) -> Client:
        url = next(node["url"] for node in self.file["nodes"] if node["name"] == name)
        return Client(url, ca=Path(self.file["ca"]), token=Path(self.file["admin_token"]).read_text().strip())

    def commands(self) -> list[str]:
        """The commands to try that it printed: what stands indented at the end."""
        return re.findall(r"^  (\S*(?:curl|failover) .*)$", self.output, re.MULTILINE)

    def processes(self) -> list[str]:
        """Command lines that speak of this directory or hold one of its ports."""
        ports = set(json.loads((self.directory / "ports.json").read_text()).values())
        taken = [f"port {port}" for port in ports if not is_free(port)]
        lines = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
        return taken + [line for line in lines if f"{self.directory}/" in line]


@pytest.fixture(scope="module")
def quickstart() -> Iterator[Quickstart]:
    """Not below pytest's own directory, where nobody else gets: started by root, each part runs as another user."""
    with tempfile.TemporaryDirectory(prefix="bellwether-visit-") as parent:
        Path(parent).chmod(0o711)
        quickstart = Quickstart(Path(parent) / "quickstart")
        try:
            assert quickstart() == 0, quickstart.output
            yield quickstart
        finally:
            quickstart("clean")


@pytest.fixture
def own_users(quickstart: Quickstart) -> dict[str, str]:
    """Which user runs each member."""
    file = quickstart.directory / "users.json"
    if not file.exists():
        pytest.skip("not run by root, or with a Python that other users cannot reach: all of it runs as one user")
    users = json.loads(file.read_text())
    roles = {"p": users["provider"], "db": users["agent"], "mariadb-db": users["database"]}
    return {"broker": users["broker"]} | {f"{role}{n}": user for role, user in roles.items() for n in (1, 2, 3)}


def test_cluster_json_says_what_runs_where(quickstart: Quickstart) -> None:
    file = quickstart.file
    assert set(file) == {"nodes", "agents", "brokers", "ca", "admin_token"}
    assert [node["name"] for node in file["nodes"]] == ["p1", "p2", "p3"]
    assert all(set(node) == {"name", "url", "config", "pid", "log"} for node in file["nodes"])
    assert [agent["id"] for agent in file["agents"]] == ["db1", "db2", "db3"]
    assert all(set(agent) == {"id", "config", "pid", "log", "instance"} for agent in file["agents"])
    assert all(set(a["instance"]) == {"engine", "host", "port", "socket", "pid"} for a in file["agents"])
    assert [set(broker) for broker in file["brokers"]] == [{"endpoint", "pid"}]
    paths = [Path(entry[key]) for entry in file["nodes"] + file["agents"] for key in ("config", "log")]
    assert all(path.is_absolute() and path.is_file() for path in [*paths, Path(file["ca"]), Path(file["admin_token"])])


def test_its_pids_are_those_of_the_real_processes(quickstart: Quickstart) -> None:
    names = {name: psutil.Process(pid).exe().rpartition("/")[2] for name, pid in quickstart.pids.items()}
    assert names.pop("broker") == "beam.smp"
    assert {names.pop(f"mariadb-db{number}") for number in (1, 2, 3)} == {"mariadbd"}
    assert set(names) == {"p1", "p2", "p3", "db1", "db2", "db3"}
    assert all(exe.startswith("python") for exe in names.values())


def test_nobody_else_may_look_into_it(quickstart: Quickstart) -> None:
    assert stat.S_IMODE(quickstart.directory.stat().st_mode) in (0o700, 0o711), "711: to go through, not to look"
    for name in ("cluster.json", "admin.token", "curl.header", "broker.password", "processes.json"):
        assert stat.S_IMODE((quickstart.directory / name).stat().st_mode) == 0o600, name


def test_each_part_runs_as_a_user_of_its_own(quickstart: Quickstart, own_users: dict[str, str]) -> None:
    assert {name: psutil.Process(pid).username() for name, pid in quickstart.pids.items()} == own_users
    assert {own_users["p1"], own_users["db1"]} == {"bellwether", "bellwether-agent"}
    for name, pid in quickstart.pids.items():
        status = Path(f"/proc/{pid}/status").read_text()
        assert re.search(r"^CapEff:\s+0+$", status, re.MULTILINE), f"{name} has no privilege"
        assert re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE), f"{name} gets none"


def test_each_part_s_files_are_its_own_and_private(quickstart: Quickstart, own_users: dict[str, str]) -> None:
    _check_files(quickstart, own_users)


def test_a_user_of_this_machine_gets_to_none_of_it(quickstart: Quickstart, own_users: dict[str, str]) -> None:
    directory = quickstart.directory
    files = [
        directory / "admin.token",
        directory / "p1/node.key",
        directory / "db1/api.token",
        directory / "db1/ca.pem",
    ]
    for path in [directory, *files, directory / "mariadb-db1/data"]:
        looked = subprocess.run(as_user("nobody", ["ls" if path.is_dir() else "cat", path]), check=False)
        assert looked.returncode != 0, path
    database = [
        "mariadb",
        "--socket",
        directory / "mariadb-db1/mariadb.sock",
        "--user",
        "bellwether-agent",
        "-e",
        "do 1",
    ]
    assert subprocess.run(as_user("nobody", database), check=False).returncode != 0
    assert subprocess.run(as_user(own_users["db1"], database), check=False).returncode == 0


def test_what_root_s_commands_write_the_daemons_can_read(quickstart: Quickstart, own_users: dict[str, str]) -> None:
    programs = REPOSITORY / ".venv" / "bin"
    url = quickstart.file["nodes"][0]["url"]
    token = quickstart.directory / "viewer.token"
    provider, agent = (["--config", quickstart.directory / name] for name in ("p1/provider.toml", "db1/agent.toml"))
    for command in (
        ["provider", "status", *provider],
        ["provider", "token", "create", "--role", "viewer", "--token-out", token, *provider],
        ["failover", "--operation", "preflight", *provider],
        ["agent", "status", *agent],
        ["agent", "advise", url, *agent],
    ):
        done = subprocess.run([programs / str(command[0]), *command[1:]], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert token.stat().st_uid == os.getuid()
    _check_files(quickstart, own_users)


def _check_files(quickstart: Quickstart, own_users: dict[str, str]) -> None:
    # To the server's socket goes its agent's group, to the certificate that the broker shows the broker's.
    passable = {name for name in own_users if name.startswith("mariadb")} | {"p1"}
    for name, user in own_users.items():
        top = quickstart.directory / name
        assert stat.S_IMODE(top.stat().st_mode) == (0o710 if name in passable else 0o700)
        for path in [top, *top.rglob("*")]:
            if not path.is_symlink() and path.exists():
                assert path.owner() == user, path
        for path in top.iterdir():
            if path.is_file() and path.suffix not in (".pem", ".pid"):  # certificates and pids are no secrets
                assert path.stat().st_mode & 0o077 == 0, path


def test_it_listens_on_the_loopback_interface_only(quickstart: Quickstart) -> None:
    for name, pid in quickstart.pids.items():
        listening = [c for c in psutil.Process(pid).net_connections("inet") if c.status == psutil.CONN_LISTEN]
        assert {connection.laddr.ip for connection in listening} <= {"127.0.0.1"}, name


def test_agents_open_no_port(quickstart: Quickstart) -> None:
    for name in ("db1", "db2", "db3"):
        sockets = psutil.Process(quickstart.pids[name]).net_connections("inet")
        assert not [connection for connection in sockets if connection.status == psutil.CONN_LISTEN]


def test_no_secret_shows_in_the_list_of_processes(quickstart: Quickstart) -> None:
    secrets = [(quickstart.directory / name).read_text().strip() for name in ("admin.token", "broker.password")]
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or ())
        assert not any(secret in line for secret in secrets)
    assert not any(secret in quickstart.output for secret in secrets)


def test_again_does_no_harm(quickstart: Quickstart) -> None:
    before = quickstart.pids
    assert quickstart("up") == 0
    assert "nothing was started" in quickstart.output
    assert quickstart.pids == before


def test_status_tells_that_all_is_well(quickstart: Quickstart) -> None:
    assert quickstart("status") == 0
    states = re.findall(r"^(\S+) +\S+ +(primary|standby|online|runs) ", quickstart.output, re.MULTILINE)
    assert [state for name, state in states if name in ("p1", "p2", "p3")].count("primary") == 1
    assert {name for name, state in states if state == "online"} == {"db1", "db2", "db3"}


def test_the_commands_to_try_are_true(quickstart: Quickstart) -> None:
    """Create a database through a standby, see it become ready on another node, promote: each pasted as it stands."""
    assert quickstart("up") == 0
    create, look, promote = quickstart.commands()
    assert _paste(create, quickstart)["spec"]["charset"] == "utf8mb4"
    wait_until(lambda: _paste(look, quickstart)["status"]["phase"] == "ready", timeout_s=30, what="the database")
    subprocess.run(promote, shell=True, cwd=quickstart.directory.parent, check=True, timeout=60, capture_output=True)
    assert quickstart.client("p2").read("/cluster")["primary"] == "p2"


def _paste(command: str, quickstart: Quickstart) -> Any:
    done = subprocess.run(
        f"{command} --fail-with-body",
        shell=True,
        cwd=quickstart.directory.parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", ["p3", "db1", "mariadb-db1", "broker"])
def test_what_was_killed_comes_back_only_by_hand(quickstart: Quickstart, name: str) -> None:
    before = quickstart.pids
    os.kill(before[name], signal.SIGKILL)
    wait_until(lambda: not psutil.pid_exists(before[name]), timeout_s=30, what=f"the end of {name}")

    assert quickstart("status") == 1
    assert f"deploy/quickstart start {name}" in quickstart.output
    assert quickstart("up") == 0, "again does no harm, here too"
    assert f"deploy/quickstart start {name}" in quickstart.output
    assert quickstart.pids == before

    assert quickstart("start", name) == 0, quickstart.output
    after = quickstart.pids
    assert psutil.pid_exists(after[name])
    assert {other for other in after if after[other] != before[other]} == {name}
    assert quickstart("status") == 0, quickstart.output


def test_start_of_what_runs_changes_nothing(quickstart: Quickstart) -> None:
    before = quickstart.pids
    assert quickstart("start", "p1") == 0
    assert quickstart.pids == before


def test_a_name_that_is_not_there_is_wrong_usage(quickstart: Quickstart) -> None:
    assert quickstart("start", "p9") == 2
    assert "p1" in quickstart.output


def test_down_ends_it_all_and_up_brings_it_back_as_it_was(quickstart: Quickstart) -> None:
    quickstart.client("p1").write("PUT", "/settings/user.kept", {"value": "over the night"})
    urls = [node["url"] for node in quickstart.file["nodes"]]

    assert quickstart("down") == 0, quickstart.output
    assert quickstart.processes() == []
    assert not (quickstart.directory / "cluster.json").exists()
    assert quickstart("down") == 0, "again does no harm"
    assert quickstart("status") == 1

    assert quickstart("up") == 0, quickstart.output
    assert [node["url"] for node in quickstart.file["nodes"]] == urls
    for node in ("p1", "p2", "p3"):
        assert quickstart.client(node).read("/settings/user.kept")["spec"]["value"] == "over the night"


def test_clean_leaves_nothing(quickstart: Quickstart) -> None:
    ports = json.loads((quickstart.directory / "ports.json").read_text()).values()
    assert quickstart("clean") == 0, quickstart.output
    assert not quickstart.directory.exists()
    assert all(is_free(port) for port in ports)
    lines = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
    assert not [line for line in lines if f"{quickstart.directory}/" in line]
    assert quickstart("clean") == 0, "again does no harm"
