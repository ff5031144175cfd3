"""The appliance's build and the installers, as far as that takes no minutes: what they refuse, what they would install.

That they work is tried where hosts boot: every story in tests/hosts does so from what the build made, and
tests/hosts/test_installers.py installs and removes.
"""

import os
import platform
import shutil
import subprocess
from hashlib import sha256
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
BUILD = REPOSITORY / "deploy" / "appliance" / "build"
INSTALLERS = [REPOSITORY / "deploy" / name for name in ("install-provider", "install-agent")]
LISTS = sorted((REPOSITORY / "deploy" / "lib").glob("*.files"))
SCRIPTS = [
    BUILD,
    *INSTALLERS,
    REPOSITORY / "deploy/appliance/first-boot",
    REPOSITORY / "deploy/broker-setup",
    REPOSITORY / "deploy/command",
    *(REPOSITORY / "deploy/lib" / name for name in ("tree.sh", "installed.sh", "packages.sh")),
    *sorted((REPOSITORY / "deploy/appliance/lib").glob("*.sh")),
]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="it must run as root")


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, stdin=subprocess.DEVNULL)


def entries(path: Path) -> list[tuple[str, str, str]]:
    found = []
    for line in path.read_text().splitlines():
        if line and not line.startswith("#"):
            mode, source, destination = line.split()
            found.append((mode, source, destination))
    return found


@pytest.mark.parametrize("script", [BUILD, *INSTALLERS], ids=lambda path: path.name)
def test_they_explain_themselves_and_refuse_what_they_do_not_know(script: Path) -> None:
    assert "Usage" in run(script, "--help").stdout
    assert run(script, "--nonsense").returncode == 2


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_has_nothing_to_say(script: Path) -> None:
    done = subprocess.run(
        ["shellcheck", "--external-sources", script], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@as_root
def test_the_build_touches_no_directory_that_holds_something(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("")
    done = run(BUILD, tmp_path)
    assert done.returncode == 1
    assert "is not empty" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]
    assert "has no lower layer" in run(BUILD, "--project", tmp_path).stderr
    assert "install-provider" in run(BUILD, "/").stderr
    assert "there is no role" in run(BUILD, "--role", "nonsense", tmp_path).stderr
    assert "there is no directory" in run(BUILD, "--project", "--image", tmp_path / "out/x", tmp_path).stderr


SOURCES = """
set -euo pipefail
. deploy/appliance/lib/base.sh
machine_sources
"""
PACKAGES = b"Package: a\nVersion: 1\nArchitecture: all\nFilename: a.deb\nSize: 1\n"
RELEASE = """Suite: {suite}
Codename: {code_name}
Date: Sat, 01 Aug 2026 00:00:00 UTC
Components: main
SHA256:
 {sha256} {size} main/binary-{architecture}/Packages
"""


def mirrored(mirror: Path, suite: str, code_name: str) -> str:
    """A suite on a mirror, which knows its code name. A line for apt's sources."""
    architecture = run("dpkg", "--print-architecture").stdout.strip()
    packages = mirror / "dists" / suite / f"main/binary-{architecture}/Packages"
    packages.parent.mkdir(parents=True)
    packages.write_bytes(PACKAGES)
    digest = {"sha256": sha256(PACKAGES).hexdigest(), "size": len(PACKAGES), "architecture": architecture}
    (mirror / "dists" / suite / "Release").write_text(RELEASE.format(suite=suite, code_name=code_name, **digest))
    return f"deb [trusted=yes] file:{mirror} {suite} main\n"


@pytest.mark.skipif(shutil.which("apt-get") is None, reason="there is no apt")
@pytest.mark.parametrize("looked", [False, True])
@pytest.mark.parametrize("named", ["by its code name", "stable"])
def test_the_machine_s_mirrors_are_found_whatever_its_sources_call_them(
    tmp_path: Path, named: str, looked: bool
) -> None:
    """Before the first apt-get update there are no lists; and sources may say `stable`."""
    own = platform.freedesktop_os_release()["VERSION_CODENAME"]
    suite = "stable" if named == "stable" else own
    mirror = tmp_path / "debian"
    sources = [mirrored(mirror, suite + more, own + more) for more in ("", "-updates")]
    sources.append(mirrored(tmp_path / "others", "stable", "theirs"))
    (tmp_path / "sources").write_text("".join(sources))
    (tmp_path / "lists/partial").mkdir(parents=True)
    (tmp_path / "apt.conf").write_text(
        f'Dir::State "{tmp_path}"; Dir::Cache "{tmp_path}"; Dir::Etc::SourceList "{tmp_path}/sources";\n'
        'Dir::Etc::SourceParts "-"; APT::Sandbox::User "root";\n#clear APT::Update::Post-Invoke;\n'
    )
    environment = {**os.environ, "APT_CONFIG": str(tmp_path / "apt.conf")}
    if looked:
        subprocess.run(["apt-get", "-qq", "update"], env=environment, check=True)
    done = subprocess.run(
        ["bash", "-c", SOURCES], cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines() == [f"deb file:{mirror}/ trixie{more} main" for more in ("", "-updates")], (
        done.stderr
    )


def test_the_lower_layer_s_key_names_all_that_it_depends_on(tmp_path: Path) -> None:
    sources = tmp_path / "sources"
    sources.write_text("Types: deb\n")

    def key(*options: str | Path) -> str:
        done = run(BUILD, "--base-key", *options)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    own = [
        key(),
        key("--role", "database"),
        key("--package", "nano"),
        key("--image", "x.qcow2"),
        key("--sources", sources),
    ]
    assert len(set(own)) == len(own)
    assert key() == own[0]


@pytest.mark.parametrize("path", LISTS, ids=lambda path: path.stem)
def test_what_is_to_be_installed_is_there(path: Path) -> None:
    for mode, source, destination in entries(path):
        assert not destination.startswith("/")
        if mode == "->":
            assert source.startswith("/")
        else:
            assert (REPOSITORY / source).is_file(), source
            assert bool(int(mode, 8) & 0o111) == os.access(REPOSITORY / source, os.X_OK), source


def test_no_two_lists_write_the_same_file() -> None:
    written = [destination for path in LISTS for _, _, destination in entries(path)]
    assert len(written) == len(set(written))


def test_every_unit_is_installed_somewhere() -> None:
    installed = {source for path in LISTS for _, source, _ in entries(path)}
    units = {str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "deploy" / "systemd").iterdir()}
    assert units <= installed


def test_the_commands_are_on_root_s_path() -> None:
    installed = {destination for path in LISTS for _, _, destination in entries(path)}
    wanted = ("provider", "failover", "bellwether", "agent", "broker-setup")
    assert {f"usr/local/bin/{name}" for name in wanted} <= installed
