"""deploy/lib/installed.sh: what installers remember of a host, and take away again. With a dpkg of the test's own.

The installers themselves are tried where hosts boot: tests/hosts/test_installers.py.
"""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SOURCED = """
set -euo pipefail
. deploy/lib/setup.sh
. deploy/lib/tree.sh
. deploy/lib/installed.sh
role={role} target=/ RECORDS={directory}/records ROOT={directory}
dpkg-query() {{ cat {directory}/packages; }}
{commands}
"""
APT = """#!/bin/bash
echo "$*" >>{asked}
printf 'installed erlang\\nunpacked rabbitmq-server\\n' >>{packages}
{ends}
"""


@dataclass(frozen=True, slots=True)
class Here:
    """A host: its packages as dpkg tells of them, and what apt does."""

    directory: Path

    def run(self, commands: str, role: str = "provider") -> subprocess.CompletedProcess[str]:
        script = SOURCED.format(role=role, directory=self.directory, commands=commands)
        return subprocess.run(
            ["bash", "-c", script, "install-it"],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def apt(self, ends: str) -> None:
        (self.directory / "deploy/lib/packages.sh").write_text(
            APT.format(packages=self.directory / "packages", asked=self.directory / "asked", ends=ends)
        )

    def record(self, role: str = "provider") -> list[str]:
        return (self.directory / "records" / role).read_text().splitlines()


@pytest.fixture
def here(tmp_path: Path) -> Here:
    (tmp_path / "deploy/lib").mkdir(parents=True)
    (tmp_path / "records").mkdir()
    (tmp_path / "packages").write_text("installed bash\nconfig-files erlang\n")
    return Here(tmp_path)


@pytest.mark.parametrize("ends", ["exit 1", "kill -9 $PPID", "kill -15 $PPID"])
def test_what_apt_had_brought_when_it_was_interrupted_is_ours(ends: str, here: Here) -> None:
    """The next run found RabbitMQ there, took it for somebody else's, and left it behind."""
    here.apt(ends)
    assert here.run("install_packages rabbitmq-server").returncode != 0
    packages = here.directory / "packages"
    packages.write_text(packages.read_text().replace("unpacked", "installed"))
    assert here.run("record_packages; installed_by_us rabbitmq-server").returncode == 0
    assert here.record() == ["package erlang", "package rabbitmq-server"]


@pytest.mark.parametrize("begins", ["record_packages; install_packages", "must_be_installed"])
def test_what_apt_was_killed_in_is_brought_to_its_end_and_what_comes_later_is_not_ours(begins: str, here: Here) -> None:
    """Nothing was missing any more: the next run left it half installed, and took all that came ever after for ours."""
    here.apt("kill -9 $PPID")
    here.run("install_packages rabbitmq-server")
    here.apt("exit 0")
    said = here.run(begins)
    assert said.returncode == 0, said
    assert (here.directory / "asked").read_text().splitlines() == ["rabbitmq-server", "--resume"]
    with (here.directory / "packages").open("a") as packages:
        packages.write("installed theirs\n")
    assert here.run("must_be_installed").returncode == 0
    assert here.record() == ["package erlang", "package rabbitmq-server"]


def test_what_comes_after_apt_has_failed_is_not_ours(here: Here) -> None:
    """It had reached no mirror; the next run took what was installed meanwhile for its own."""
    (here.directory / "deploy/lib/packages.sh").write_text("exit 1\n")
    assert here.run("install_packages rabbitmq-server").returncode == 1
    with (here.directory / "packages").open("a") as packages:
        packages.write("installed theirs\n")
    here.apt("exit 0")
    assert here.run("record_packages; install_packages rabbitmq-server").returncode == 0
    assert here.record() == ["package erlang", "package rabbitmq-server"]


def test_only_what_came_with_us_is_ours(here: Here) -> None:
    here.apt("exit 0")
    assert here.run("install_packages rabbitmq-server").returncode == 0
    (here.directory / "packages").write_text("installed bash\ninstalled theirs\n")
    assert here.run("record_packages").returncode == 0
    assert here.record() == ["package erlang", "package rabbitmq-server"]
    assert [file.name for file in (here.directory / "records").iterdir()] == ["provider"]


def test_one_role_is_not_removed_while_the_other_is_there(here: Here) -> None:
    """Both have /opt/bellwether: an agent that had gone was purged, and with it the provider's program and keys."""
    (here.directory / "records/database").write_text("package python3-venv\n")
    (here.directory / "records/provider").write_text("role provider\n")
    refused = here.run("must_be_installed; echo removed", role="database")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "this host is a provider's now" in refused.stderr
    assert here.run("must_be_installed; echo removed").stdout == "removed\n"


HOSTS = "127.0.0.1 localhost\n\n# BEGIN Bellwether: brokers\n10.0.0.1 p1\n"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (HOSTS + "# END Bellwether\n10.0.0.9 theirs\n", "127.0.0.1 localhost\n\n10.0.0.9 theirs\n"),
        (HOSTS + "\n10.0.0.9 theirs\n", "127.0.0.1 localhost\n\n\n10.0.0.9 theirs\n"),
        ("10.0.0.9 theirs\n", "10.0.0.9 theirs\n"),
    ],
)
def test_our_block_goes_and_nothing_else(text: str, left: str, here: Here) -> None:
    file = here.directory / "hosts"
    file.write_text(text)
    file.chmod(0o640)
    assert here.run(f"remove_block {file}; remove_block {file}; remove_block {file}-none").returncode == 0
    assert file.read_text() == left
    assert file.stat().st_mode & 0o777 == 0o640


def test_an_environment_of_another_python_is_made_anew(tmp_path: Path, here: Here) -> None:
    """After an upgrade of Debian its interpreter is new enough, and has no libraries."""
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True, timeout=60)
    assert here.run(f"venv_works {venv}").returncode == 1
    (library,) = (venv / "lib").glob("python3*")
    (library / "site-packages/pip").mkdir()
    assert here.run(f"venv_works {venv}").returncode == 0
    library.rename(venv / "lib/python3.1")
    assert here.run(f"venv_works {venv}").returncode == 1
    assert here.run(f"venv_works {tmp_path}/none").returncode != 0
