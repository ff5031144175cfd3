"""Where backups lie: a directory, or a bucket of S3-compatible storage.

In both, backups are files named `bellwether-<cluster>-<time, UTC>-r<revision>.backup`. Which of a cluster's is newer is
told by the revision, which never goes back, also not over a restore (`provider.core.anew`); the time is for people: it
is the maker's clock, and that may have been wrong. Whatever else lies there is never touched.
"""

import os
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Protocol
from urllib.parse import urlsplit

from provider.backup.container import Head, Written, fsync, verify
from shared.errors import BellwetherError, Invalid, NotFound, Refused
from shared.files import give_to_owner_of, make_private_directory

Write = Callable[[BinaryIO], Written]
S3 = "s3://"
_NAME = re.compile(r"bellwether-([0-9a-f-]{1,36})-(\d{8}T\d{6}Z)-r(\d+)\.backup")
_PART = ".bellwether-"
_LEFT_S = 86_400.0
"""What a process that was killed left half-written is removed when it is so old."""


class TargetFailed(BellwetherError):
    """A place for backups cannot be used now. The detail says which, and why."""

    code, status, retryable = "backup_failed", 503, True


class Target(Protocol):
    """Blocking; any thread, one at a time. Every method raises `TargetFailed` where the place cannot be used."""

    def store(self, name: str, write: Write) -> Written:
        """What `write` writes, under `name`: all of it, or nothing."""

    def names(self) -> list[str]:
        """Of the backups that lie there: see `by_age`."""

    def fetch(self, name: str, file: BinaryIO) -> None:
        """Writes the backup `name` to `file`. Raises `NotFound`."""

    def remove(self, name: str) -> None: ...

    def shown(self, name: str) -> str:
        """Where a person finds the backup `name`."""


def name_of(head: Head) -> str:
    at = datetime.fromtimestamp(head.at / 1000, UTC).strftime("%Y%m%dT%H%M%SZ")
    return f"bellwether-{_short(head.cluster)}-{at}-r{head.revision}.backup"


def _short(cluster: str) -> str:
    return cluster[:8] if re.fullmatch(r"[0-9a-f-]{8,}", cluster) else "0"


def outlived(names: Sequence[str], made: str, keep: int) -> list[str]:
    """Those of `names` that go once `made` is there, which is one of them: all backups of the same cluster but the
    newest `keep`. Pure."""
    known = _NAME.fullmatch(made)
    cluster = known[1] if known else ""
    ours = by_age(name for name in names if (found := _NAME.fullmatch(name)) and found[1] == cluster)
    return [name for name in ours[: max(0, len(ours) - max(1, keep))] if name != made]


def by_age(names: Iterable[str]) -> list[str]:
    """Those that are names of backups, each cluster's together, the oldest of it first. Pure."""
    found = ((known[1], int(known[3]), known[2], name) for name in names if (known := _NAME.fullmatch(name)))
    return [name for *_, name in sorted(found)]


def newest(names: Sequence[str]) -> str | None:
    """The one with the highest revision. Pure. Raises `Refused` where backups of several clusters are among them: these
    cannot be compared."""
    found = by_age(names)
    clusters = sorted({known[1] for name in found if (known := _NAME.fullmatch(name))})
    if len(clusters) > 1:
        raise Refused(f"backups of {len(clusters)} clusters lie there ({', '.join(clusters)}): name the file")
    return found[-1] if found else None


def target_of(text: str, *, endpoint: str | None = None, credentials: Path | None = None) -> Target:
    """The place that `text` names: an absolute path, or `s3://bucket/prefix`. `endpoint`: URL of a storage that is not
    Amazon's; `credentials`: a file in AWS' form, else what the environment says. Raises `Invalid`."""
    if not text.startswith(S3):
        if not Path(text).is_absolute():
            raise Invalid(f"{text!r}: expected a directory's absolute path, or s3://bucket/prefix")
        return Directory(Path(text))
    from provider.backup.s3 import Bucket

    parts = urlsplit(text)
    if not parts.netloc or parts.query or parts.fragment:
        raise Invalid(f"{text!r}: expected s3://bucket or s3://bucket/prefix")
    return Bucket(parts.netloc, parts.path.strip("/"), endpoint=endpoint, credentials=credentials)


class Directory:
    """Implements `Target`. A backup that is listed was on disk before, whole, and was read back."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def store(self, name: str, write: Write) -> Written:
        try:
            make_private_directory(self._path)
            self._tidy()
            descriptor, temporary = tempfile.mkstemp(dir=self._path, prefix=_PART)
        except OSError as error:
            raise self._failed(error) from None
        try:
            with os.fdopen(descriptor, "w+b") as file:
                give_to_owner_of(self._path, file.fileno())
                written = write(file)
                fsync(file)
                file.seek(0)
                if verify(file)[1] != written:
                    raise TargetFailed(f"{self._path}: what was written is not what is read there")
            Path(temporary).replace(self._path / name)
            self._fsync()
        except OSError as error:
            raise self._failed(error) from None
        finally:
            Path(temporary).unlink(missing_ok=True)
        return written

    def names(self) -> list[str]:
        try:
            found = [one.name for one in self._path.iterdir() if _NAME.fullmatch(one.name)]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise self._failed(error) from None
        return by_age(found)

    def fetch(self, name: str, file: BinaryIO) -> None:
        try:
            with (self._path / name).open("rb") as source:
                while piece := source.read(1 << 20):
                    file.write(piece)
        except FileNotFoundError:
            raise NotFound(f"there is no backup {self.shown(name)}") from None
        except OSError as error:
            raise self._failed(error) from None

    def remove(self, name: str) -> None:
        try:
            (self._path / name).unlink(missing_ok=True)
        except OSError as error:
            raise self._failed(error) from None

    def shown(self, name: str) -> str:
        return str(self._path / name)

    def _tidy(self) -> None:
        for left in self._path.glob(f"{_PART}*"):
            with suppress(OSError):
                if left.stat().st_mtime < time.time() - _LEFT_S:
                    left.unlink()

    def _fsync(self) -> None:
        descriptor = os.open(self._path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _failed(self, error: OSError) -> TargetFailed:
        return TargetFailed(f"{self._path}: {error.strerror or error}")


def opened(text: str, **how: Any) -> tuple[BinaryIO, str]:
    """A backup to be read: a file, or one in a bucket (`s3://bucket/prefix/name`); and what it is called. A directory,
    or a prefix that ends with a slash, stands for the newest backup there. Raises `NotFound`, `Refused`,
    `TargetFailed`."""
    if not text.startswith(S3):
        path = Path(text)
        if path.is_dir():
            path = path / _newest(Directory(path), text)
        try:
            return path.open("rb"), str(path)
        except FileNotFoundError:
            raise NotFound(f"there is no backup {path}") from None
        except OSError as error:
            raise Refused(f"{path} cannot be read: {error.strerror}") from None
    place, _, name = text.rpartition("/")
    target = target_of(place, **how)
    name = name or _newest(target, text)
    file = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    try:
        target.fetch(name, file)
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return file, target.shown(name)


def _newest(target: Target, text: str) -> str:
    try:
        found = newest(target.names())
    except Refused as error:
        raise Refused(f"{text}: {error.detail}") from None
    if found is None:
        raise NotFound(f"there is no backup in {text}")
    return found
