"""Invariant: what a place for backups lists is whole; and only its own outlived backups are ever removed from it."""

import os
import time
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider.backup.container import Head, Written, write
from provider.backup.directory import Directory
from provider.backup.names import by_age, name_of, newest, outlived
from provider.backup.port import TargetFailed
from provider.backup.recovery import RecoveryKey
from provider.backup.targets import opened, target_of
from shared.errors import Invalid, NotFound, Refused

CLUSTER = "0a1b2c3d-0000-4000-8000-000000000000"
KEY = RecoveryKey.new()


def head(at: int, cluster: str = CLUSTER, revision: int = 17) -> Head:
    return Head(cluster, "p1", "1.0", "g", 4, revision, at, 3)


def name(at: int, cluster: str = CLUSTER, revision: int = 17) -> str:
    return name_of(head(at * 1000, cluster, revision))


def whole(file: BinaryIO) -> Written:
    return write(file, head(1_700_000_000_000), [KEY.clusters_half], ["x"])


def test_a_backup_is_listed_when_it_is_whole_and_readable_by_nobody_else(tmp_path: Path) -> None:
    target = Directory(tmp_path / "new" / "place")
    written = target.store(name(1), whole)
    assert target.names() == [name(1)]
    file = tmp_path / "new" / "place" / name(1)
    assert (file.stat().st_size, file.stat().st_mode & 0o777) == (written.size_bytes, 0o600)


def test_what_could_not_be_written_leaves_nothing(tmp_path: Path) -> None:
    def full(file: BinaryIO) -> Written:
        file.write(b"half of it")
        raise OSError(28, os.strerror(28))

    target = Directory(tmp_path)
    with pytest.raises(TargetFailed, match="No space left"):
        target.store(name(1), full)
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_read_back_as_it_was_written_counts_for_nothing(tmp_path: Path) -> None:
    def lying(file: BinaryIO) -> Written:
        written = whole(file)
        return Written(written.size_bytes, "0" * 64)

    with pytest.raises(TargetFailed, match="not what is read"):
        Directory(tmp_path).store(name(1), lying)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_removed_when_it_is_old(tmp_path: Path) -> None:
    for left, age_s in ((".bellwether-old", 100_000), (".bellwether-new", 10), ("mine", 100_000)):
        (tmp_path / left).touch()
        os.utime(tmp_path / left, (time.time() - age_s,) * 2)
    Directory(tmp_path).store(name(1), whole)
    assert {one.name for one in tmp_path.iterdir()} == {name(1), ".bellwether-new", "mine"}


def test_a_place_that_cannot_be_used_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TargetFailed, match="file"):
        Directory(tmp_path / "file").store(name(1), whole)
    assert Directory(tmp_path / "nowhere").names() == []


REVISIONS = st.dictionaries(st.integers(0, 10**13), st.integers(0, 4_000_000_000), min_size=1, max_size=12)


@given(REVISIONS, st.integers(1, 15))
def test_the_newest_are_kept_whatever_clocks_said_and_nothing_else_is_touched(at: dict[int, int], keep: int) -> None:
    ours = [name(at[revision], revision=revision) for revision in sorted(at)]
    others = ["notes.txt", name(5, "ffffffff-0000"), f"{ours[0]}.copy"]
    gone = outlived([*others, *ours], ours[-1], keep)
    assert [one for one in ours if one not in gone] == ours[-keep:]
    assert not set(gone) & set(others)
    assert newest(["notes.txt", f"{ours[0]}.copy", *ours]) == ours[-1]
    assert by_age([*ours, "notes.txt"]) == ours


def test_backups_of_several_clusters_are_not_chosen_from(tmp_path: Path) -> None:
    for cluster in (CLUSTER, "ffffffff-0000"):
        Directory(tmp_path).store(name(1, cluster), whole)
    with pytest.raises(Refused, match=r"2 clusters lie there \(0a1b2c3d, ffffffff\): name the file"):
        opened(str(tmp_path))


def test_what_was_just_made_stays_also_where_the_clock_went_back() -> None:
    assert outlived([name(1), name(2), name(3)], name(1), 1) == [name(2)]


def test_a_directory_stands_for_its_newest_backup(tmp_path: Path) -> None:
    for at in (1, 3, 2):
        Directory(tmp_path).store(name(at), whole)
    file, shown = opened(str(tmp_path))
    file.close()
    assert shown == str(tmp_path / name(3))
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFound, match="no backup in"):
        opened(str(tmp_path / "empty"))
    with pytest.raises(NotFound, match="no backup"):
        opened(str(tmp_path / "none"))


@pytest.mark.parametrize("text", ["", "relative/path", "s3://", "ftp://x"])
def test_what_is_no_place_is_refused(text: str) -> None:
    with pytest.raises((Invalid, Refused)):
        target_of(text)
