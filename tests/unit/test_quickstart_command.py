"""What deploy/quickstart says where there is nothing to do or nothing to understand."""

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def _run(*arguments: str, directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "localcluster", *arguments, "--directory", str(directory)],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY / "deploy")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
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
