"""Files beside a configuration: whole, of the right owner, and refused where others could read or change them."""

import os
import pwd
from pathlib import Path

import pytest

from shared.errors import Refused
from shared.files import check_private, make_private_directory, write_atomically

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
SOMEBODY = pwd.getpwnam("nobody")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "etc"
    path.mkdir(mode=0o700)
    return path


def _owner(path: Path) -> int:
    return path.stat().st_uid


def test_a_file_is_replaced_as_a_whole_and_is_private(directory: Path) -> None:
    write_atomically(directory / "token", "old")
    write_atomically(directory / "token", "new")
    assert (directory / "token").read_text() == "new"
    assert (directory / "token").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in directory.iterdir()] == ["token"]


@as_root
def test_what_root_writes_belongs_to_the_owner_of_the_directory(directory: Path) -> None:
    """`provider join` run by root: the daemon, another user, must be able to read it."""
    os.chown(directory, SOMEBODY.pw_uid, SOMEBODY.pw_gid)
    write_atomically(directory / "node.key", "secret")
    make_private_directory(directory / "data")
    assert _owner(directory / "node.key") == _owner(directory / "data") == SOMEBODY.pw_uid
    assert (directory / "data").stat().st_mode & 0o777 == 0o700


@as_root
def test_a_file_that_daemon_and_root_both_replace_stays_the_daemon_s(directory: Path) -> None:
    os.chown(directory, SOMEBODY.pw_uid, SOMEBODY.pw_gid)
    for text in ("one", "two"):
        write_atomically(directory / "broker.json", text)
    assert _owner(directory / "broker.json") == SOMEBODY.pw_uid


@as_root
def test_root_follows_no_link_that_the_owner_of_the_directory_has_put_there(directory: Path, tmp_path: Path) -> None:
    os.chown(directory, SOMEBODY.pw_uid, SOMEBODY.pw_gid)
    precious = tmp_path / "precious"
    precious.write_text("root's")
    (directory / "broker.json").symlink_to(precious)
    (directory / "data").symlink_to(tmp_path)
    write_atomically(directory / "broker.json", "mine")
    make_private_directory(directory / "data")
    assert precious.read_text() == "root's"
    assert _owner(precious) == _owner(tmp_path) == 0
    assert not (directory / "broker.json").is_symlink()


def test_a_directory_that_is_there_is_left_as_it_is(directory: Path) -> None:
    (directory / "data").mkdir(mode=0o750)
    make_private_directory(directory / "data")
    assert (directory / "data").stat().st_mode & 0o777 == 0o750


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o602, 0o610])
def test_a_secret_that_others_may_touch_is_refused(directory: Path, mode: int) -> None:
    secret = directory / "node.key"
    write_atomically(secret, "secret")
    check_private(directory, [secret])
    secret.chmod(mode)
    with pytest.raises(Refused, match=f"node.key can be read by others .*{mode:o}.*: chmod 600 {secret}"):
        check_private(directory, [secret])


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777])
def test_a_directory_that_others_may_change_is_refused(directory: Path, mode: int) -> None:
    directory.chmod(mode)
    with pytest.raises(Refused, match=f"can be changed by others .*{mode:o}.*: chmod go-w {directory}"):
        check_private(directory, [])


@as_root
def test_a_secret_of_somebody_else_is_refused(directory: Path) -> None:
    """Whoever owns it can change it, whatever its mode says."""
    secret = directory / "node.key"
    write_atomically(secret, "secret")
    os.chown(secret, SOMEBODY.pw_uid, -1)
    with pytest.raises(Refused, match=r"node.key belongs to nobody, expected root: chown root"):
        check_private(directory, [secret])


@as_root
def test_root_may_serve_the_owner_of_the_directory(directory: Path) -> None:
    os.chown(directory, SOMEBODY.pw_uid, SOMEBODY.pw_gid)
    secret = directory / "node.key"
    write_atomically(secret, "secret")
    check_private(directory, [secret])


def test_what_is_missing_is_no_secret(directory: Path) -> None:
    check_private(directory, [directory / "store.password"])
