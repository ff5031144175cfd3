"""Processes that quickstart and the cluster tests start: found again, ended for certain, never mistaken for another."""

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from localcluster import process
from localcluster.process import Process, ProcessFailed

SLEEPER = ["sleep", "600"]
DEAF = [
    sys.executable,
    "-c",
    "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); signal.pause()",
]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def test_a_process_is_detached_from_us_and_logs_into_its_file(log: Path) -> None:
    child = process.start(["sh", "-c", "cat; echo out; echo err >&2; exec sleep 600"], log=log)
    process.wait_until(lambda: "err" in process.tail(log), timeout_s=10, what="the log", process=child)
    assert process.tail(log) == "out\nerr"
    assert os.getsid(child.pid) == child.pid
    child.stop()


def test_stop_ends_it_and_leaves_no_zombie(log: Path) -> None:
    child = process.start(SLEEPER, log=log)
    assert child.alive
    child.stop()
    assert not child.alive
    assert not Path(f"/proc/{child.pid}").exists()


def test_stop_kills_one_that_does_not_listen(log: Path) -> None:
    child = process.start(DEAF, log=log)
    process.wait_until(lambda: process.tail(log), timeout_s=10, what="the deaf one", process=child)
    child.stop(grace_s=0.1)
    assert not child.alive


def test_stop_ends_one_that_is_suspended(log: Path) -> None:
    child = process.start(SLEEPER, log=log)
    child.suspend()
    assert child.suspended
    assert child.alive
    child.stop()
    assert not child.alive


def test_a_suspended_process_goes_on_when_resumed(log: Path) -> None:
    child = process.start(SLEEPER, log=log)
    child.suspend()
    assert child.suspended
    child.resume()
    process.wait_until(lambda: not child.suspended, timeout_s=10, what="resumed")
    child.kill()


def test_a_recycled_pid_is_not_ours_and_is_left_alone(log: Path) -> None:
    """The record names pid 7; by now pid 7 is somebody else's: same number, another start time."""
    stranger = process.start(SLEEPER, log=log)
    record = replace(stranger, identity="another-boot/12345")
    assert not record.alive
    record.stop()
    record.kill()
    assert stranger.alive
    stranger.kill()


def test_a_later_command_finds_the_same_process(log: Path) -> None:
    child = process.start(SLEEPER, log=log)
    assert Process.find(child.pid) == child
    child.kill()
    with pytest.raises(ProcessLookupError):
        Process.find(child.pid)


def test_waiting_for_a_server_that_dies_ends_at_once(log: Path) -> None:
    child = process.start(["sh", "-c", "exit 3"], log=log)
    with pytest.raises(ProcessFailed, match="ended by itself"):
        process.wait_until(lambda: False, timeout_s=60, what="the server", process=child)


def test_waiting_has_a_deadline() -> None:
    with pytest.raises(ProcessFailed, match=r"the server: not within 0\.05 s"):
        process.wait_until(lambda: False, timeout_s=0.05, what="the server")


def test_a_program_that_is_missing_is_named(log: Path) -> None:
    with pytest.raises(ProcessFailed, match="no-such-program is not installed"):
        process.start(["no-such-program"], log=log)


def test_kill_returns_when_nothing_is_left_not_even_of_one_with_threads(log: Path) -> None:
    threads = (
        "import signal, threading; [threading.Thread(target=signal.sigwait, args=[[10]]).start() for _ in range(50)]"
    )
    for _ in range(5):
        child = process.start([sys.executable, "-c", f"{threads}; print('up', flush=True)"], log=log)
        process.wait_until(lambda: "up" in process.tail(log), timeout_s=10, what="its threads", process=child)
        child.kill()
        assert not Path(f"/proc/{child.pid}").exists()
        log.unlink()
