"""Invariant: in a bucket a backup is as in a directory: there as a whole, found again, and outlived ones go."""

import io
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from provider.backup.container import Head, Written, read, write
from provider.backup.making import tidy
from provider.backup.names import name_of
from provider.backup.port import Target, TargetFailed
from provider.backup.recovery import RecoveryKey
from provider.backup.targets import opened, target_of
from shared.errors import NotFound
from tests.support.s3_server import Storage, storage

KEY = RecoveryKey.new()


@pytest.fixture
def server() -> Iterator[Storage]:
    with storage() as found:
        yield found


@pytest.fixture
def credentials(tmp_path: Path) -> Path:
    file = tmp_path / "s3.credentials"
    file.write_text("[default]\naws_access_key_id = a\naws_secret_access_key = b\n")
    return file


@pytest.fixture
def bucket(server: Storage, credentials: Path) -> Target:
    return target_of("s3://backups/fleet", endpoint=server.endpoint, credentials=credentials)


def head(at: int) -> Head:
    return Head("0a1b2c3d-0000", "p1", "1.0", "g", 4, 17, at * 1000, 3)


def stored(bucket: Target, at: int) -> str:
    def whole(file: BinaryIO) -> Written:
        return write(file, head(at), [KEY.clusters_half], [f"made at {at}"])

    bucket.store(name_of(head(at)), whole)
    return name_of(head(at))


def test_what_is_stored_is_found_and_read_again(bucket: Target, server: Storage, credentials: Path) -> None:
    names = [stored(bucket, at) for at in (1, 3, 2)]
    server.objects["/backups/fleet/deeper/x.backup"] = server.objects["/backups/fleet/notes"] = b"somebody's"
    assert bucket.names() == sorted(names)
    assert bucket.shown(names[0]) == f"s3://backups/fleet/{names[0]}"
    how = {"endpoint": server.endpoint, "credentials": credentials}
    for text, content in ((bucket.shown(names[2]), "made at 2"), ("s3://backups/fleet/", "made at 3")):
        file, _ = opened(text, **how)
        with file:
            assert list(read(file, KEY)) == [content]
    with pytest.raises(NotFound):
        bucket.fetch("bellwether-none.backup", io.BytesIO())


def test_what_has_outlived_goes_and_nothing_else(bucket: Target, server: Storage) -> None:
    server.objects["/backups/fleet/notes"] = b"somebody's"
    names = [stored(bucket, at) for at in (1, 2, 3)]
    assert tidy(bucket, names[-1], keep=2) == names[:1]
    assert bucket.names() == names[1:]
    assert "/backups/fleet/notes" in server.objects


def test_a_storage_that_refuses_is_quoted(server: Storage, credentials: Path) -> None:
    elsewhere = target_of("s3://nothing/x", endpoint=server.endpoint, credentials=credentials)
    with pytest.raises(TargetFailed, match="bucket does not exist"):
        elsewhere.names()
    server.full = True
    with pytest.raises(TargetFailed, match="full"):
        stored(target_of("s3://backups", endpoint=server.endpoint, credentials=credentials), 1)
    assert server.objects == {}


def test_a_storage_that_breaks_off_is_an_error_of_the_storage(bucket: Target, server: Storage) -> None:
    name = stored(bucket, 1)
    server.torn = True
    with pytest.raises(TargetFailed, match=r"s3://backups/fleet/: .*(broken|incomplete|expected)"):
        bucket.fetch(name, io.BytesIO())


def test_a_host_without_room_for_what_passes_through_says_so(bucket: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/dev/null/nowhere")
    with pytest.raises(TargetFailed, match="nowhere"):
        stored(bucket, 1)
