"""`deploy/command` starts what is installed, and says what to do where the Python below it has become another one."""

import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = Path(__file__).resolve().parents[2] / "deploy" / "command"


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A virtual environment that has `failover` and `agent`, which say their arguments."""
    made = tmp_path / "opt"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", made], check=True, timeout=60)
    for name in ("failover", "agent"):
        program = made / "bin" / name
        program.write_text('#!/bin/sh\necho "$0:" "$@"\n')
        program.chmod(0o755)
        starter = tmp_path / name
        starter.write_text(COMMAND.read_text().replace("/opt/bellwether", str(made)))
        starter.chmod(0o755)
    return made


def run(installed: Path, name: str) -> tuple[int, str, str]:
    command = [installed.parent / name, "--operation", "a promotion"]
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout, done.stderr


def refused(installed: Path, name: str) -> str:
    code, out, err = run(installed, name)
    assert (code, out, err.count("\n")) == (1, "", 1), err
    return err


def test_what_fits_is_started(installed: Path) -> None:
    assert run(installed, "failover") == (0, f"{installed}/bin/failover: --operation a promotion\n", "")


def test_a_python_of_another_version_is_named_with_the_way_out(installed: Path) -> None:
    """After an upgrade of Debian: its libraries lie where this Python does not look."""
    (library,) = (installed / "lib").iterdir()
    library.rename(installed / "lib" / "python2.7")
    assert "was not made for the Python of this host" in refused(installed, "failover")
    assert "run deploy/install-provider again" in refused(installed, "failover")
    assert "run deploy/install-agent again" in refused(installed, "agent")


def test_so_is_one_that_has_gone(installed: Path) -> None:
    (installed / "bin" / "python").unlink()
    assert "run deploy/install-provider again" in refused(installed, "failover")


def test_a_python_of_an_unusual_name_is_asked(installed: Path) -> None:
    python = installed / "bin" / "python"
    python.unlink()
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    python.chmod(0o755)
    assert "run deploy/install-agent again" in refused(installed, "agent")
    python.write_text(f'#!/bin/sh\nPYTHONPATH={installed.parent}/packages exec {sys.executable} -S "$@"\n')
    (installed.parent / "packages" / "agent").mkdir(parents=True)
    (installed.parent / "packages" / "agent" / "__init__.py").touch()
    assert run(installed, "agent")[0] == 0
