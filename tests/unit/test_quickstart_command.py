"""What deploy/quickstart says where there is nothing to do or nothing to understand."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from localcluster.cluster import Cluster

REPOSITORY = Path(__file__).resolve().parents[2]
NOBODY = 65534


def _run(*arguments: str, directory: Path, user: int | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "localcluster", *arguments, "--directory", str(directory)],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY / "deploy")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        user=user,
    )


def test_looking_at_nothing_makes_nothing(tmp_path: Path) -> None:
    directory = tmp_path / "none"
    assert _run("status", directory=directory).returncode == 1
    assert _run("down", directory=directory).returncode == 0
    assert _run("clean", directory=directory).returncode == 0
    assert not directory.exists()


def test_wrong_usage_is_told_from_failure(tmp_path: Path) -> None:
    for arguments in (["restart"], ["start"], ["down", "p1"], ["--force"]):
        done = _run(*arguments, directory=tmp_path / "none")
        assert done.returncode == 2
        assert "usage: deploy/quickstart" in done.stderr


def test_nothing_can_be_started_before_the_first_up(tmp_path: Path) -> None:
    done = _run("start", "p1", directory=tmp_path / "none")
    assert done.returncode == 1
    assert "Nothing has been started" in done.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run something as another user")
def test_somebody_elses_cluster_is_one_line() -> None:
    """It ended with a traceback."""
    with tempfile.TemporaryDirectory() as open_to_all:
        directory = Path(open_to_all)
        directory.chmod(0o755)
        (directory / "ports.json").write_text("{}")
        try:
            readable = _run("--help", directory=directory, user=NOBODY).returncode == 0
        except PermissionError:
            readable = False
        if not readable:
            pytest.skip("others cannot run what is in this repository")
        for action in ("status", "down"):
            done = _run(action, directory=directory, user=NOBODY)
            assert done.returncode == 1
            assert done.stderr.startswith("deploy/quickstart: ")
            assert done.stderr.endswith("run it as root\n")
            assert done.stderr.count("\n") == 1


def test_the_authorities_file_follows_the_nodes(tmp_path: Path) -> None:
    """After `provider ca rotate` and `drop`, the tour's `BELLWETHER_CA` trusted an authority that is gone."""
    cluster = Cluster(tmp_path / "one", providers=2, databases=0)
    for age, (name, provider) in enumerate(cluster.providers.items()):
        provider.ca.parent.mkdir(parents=True, exist_ok=True)
        provider.ca.write_text(f"trust of {name}")
        os.utime(provider.ca, (1000 - age, 1000 - age))
    cluster.take_ca()
    assert cluster.layout.ca.read_text() == "trust of p1"
    os.utime(cluster.providers["p2"].ca, (2000, 2000))
    cluster.take_ca()
    assert cluster.layout.ca.read_text() == "trust of p2"
    assert cluster.layout.ca.stat().st_mode & 0o777 == 0o600
