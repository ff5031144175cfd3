"""What systemd is told: ready, ending, alive. A service that hangs must not say that it is alive."""

import os
import socket
from pathlib import Path

import pytest

from shared.systemd import Watchdog, notify


def test_what_is_told_arrives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        notify("READY=1")
        assert listener.recv(100) == b"READY=1"


@pytest.mark.parametrize("address", [None, "", "/nowhere/notify", "@bellwether-nobody"])
def test_where_nobody_listens_nothing_happens(address: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if address is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    notify("READY=1")


def test_a_sign_of_life_is_asked_of_this_process_alone() -> None:
    asked = {"WATCHDOG_USEC": "60000000"}
    assert Watchdog.from_environment(asked).limit_s == 60.0
    assert Watchdog.from_environment(asked | {"WATCHDOG_PID": str(os.getpid())}).limit_s == 60.0
    assert Watchdog.from_environment(asked | {"WATCHDOG_PID": "1"}).limit_s is None, "meant for our parent"


@pytest.mark.parametrize("wrong", [{}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "soon"}, {"WATCHDOG_USEC": "-1"}])
def test_without_a_watchdog_nothing_is_said(wrong: dict[str, str]) -> None:
    watchdog = Watchdog.from_environment(wrong)
    assert watchdog.pause_s is None
    assert not watchdog.is_well(0.0, 0.0)


def test_signs_come_more_often_than_systemd_asks() -> None:
    watchdog = Watchdog(60.0)
    assert watchdog.pause_s == 15.0


def test_a_part_that_hangs_is_not_called_alive_for_long() -> None:
    watchdog = Watchdog(60.0)
    assert watchdog.is_well(now_s=129.9, beat_s=100.0), "a slow disk is no hang"
    assert not watchdog.is_well(now_s=130.0, beat_s=100.0)
