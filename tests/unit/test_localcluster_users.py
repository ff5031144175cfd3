"""Who runs what in a local cluster: users of their own where root makes it and they can get there, else one for all."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from localcluster.process import ProcessFailed, as_user, environment
from localcluster.process import start as start_process
from localcluster.users import Users, choose_users, exists, kept_users, own_directory

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can run something as another user")


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """One that other users may go through. pytest's own is closed to them."""
    with tempfile.TemporaryDirectory() as path:
        Path(path).chmod(0o711)
        yield Path(path)


def test_where_others_cannot_get_all_of_it_is_one_user_s(tmp_path: Path) -> None:
    told: list[str] = []
    tmp_path.parent.chmod(0o700)
    choose_users(tmp_path, tmp_path / "users.json", told.append)
    assert kept_users(tmp_path / "users.json") == Users()
    assert len(told) == 1
    assert "All of it runs as" in told[0]
    assert tmp_path.stat().st_mode & 0o777 == 0o700


@as_root
def test_what_was_decided_is_kept(open_directory: Path) -> None:
    told: list[str] = []
    choose_users(open_directory, open_directory / "users.json", told.append)
    users = kept_users(open_directory / "users.json")
    if not users.own:
        assert "other users cannot reach" in told[0]
        pytest.skip("other users cannot run this Python")
    assert (users.provider, users.agent) == ("bellwether", "bellwether-agent")
    assert users.broker == ("rabbitmq" if exists("rabbitmq") else "bellwether")
    assert "Providers run as bellwether, agents as bellwether-agent" in told[-1]


@as_root
def test_a_process_of_another_user_keeps_the_pid_that_we_were_told(open_directory: Path) -> None:
    own_directory(open_directory / "its", "nobody")
    child = start_process(["sleep", "600"], log=open_directory / "its/log", env=environment("nobody"), user="nobody")
    try:
        wait = Path(f"/proc/{child.pid}/comm")
        while wait.read_text() != "sleep\n":
            assert child.alive
        assert Path(f"/proc/{child.pid}").owner() == "nobody"
        assert (open_directory / "its/log").owner() == "nobody"
    finally:
        child.kill()


@as_root
def test_a_log_that_is_a_link_is_not_written(open_directory: Path) -> None:
    """Its directory belongs to a user who could point it at any file of root's."""
    own_directory(open_directory / "its", "nobody")
    precious = open_directory / "precious"
    precious.write_text("root's")
    (open_directory / "its/log").symlink_to(precious)
    with pytest.raises(OSError, match="symbolic links"):
        start_process(["echo", "mine"], log=open_directory / "its/log", user="nobody")
    assert precious.read_text() == "root's"
    assert precious.owner() == "root"


def test_without_a_user_nothing_is_changed() -> None:
    assert as_user(None, ["true", Path("/x")]) == ["true", "/x"]


def test_a_program_that_is_missing_is_named_for_another_user_too(tmp_path: Path) -> None:
    with pytest.raises(ProcessFailed, match="no-such-program"):
        start_process(["no-such-program"], log=tmp_path / "log", user="nobody")
