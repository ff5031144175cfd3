"""Where a MariaDB of the local cluster listens: a socket's path has 107 bytes at most, see unix(7)."""

from pathlib import Path

import pytest
from localcluster.mariadb import LONGEST_SOCKET_PATH, MariaDB

LONG = "d" * 100


def test_the_socket_is_beside_the_data() -> None:
    assert MariaDB(Path("/srv/db1"), 1).socket == Path("/srv/db1/mariadb.sock")


def test_a_long_path_is_cut_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/var/tmp")
    one, two = (MariaDB(Path("/srv", LONG, name), 1).socket for name in ("db1", "db2"))
    assert one.parent == two.parent == Path("/var/tmp")
    assert one != two


def test_neither_directory_may_be_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", f"/var/tmp/{LONG}")
    path = MariaDB(Path("/srv", LONG, "db1"), 1).socket
    assert path.parent == Path("/tmp")
    assert len(str(path)) <= LONGEST_SOCKET_PATH
