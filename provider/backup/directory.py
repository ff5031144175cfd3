"""Backups in a directory."""

import os
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from provider.backup.container import Written, fsync, verify
from provider.backup.names import NAME, by_age
from provider.backup.port import TargetFailed, Write
from shared.errors import NotFound
from shared.files import give_to_owner_of, make_private_directory

_PART = ".bellwether-"
_LEFT_S = 86_400.0
"""What a process that was killed left half-written is removed when it is so old."""


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
            found = [one.name for one in self._path.iterdir() if NAME.fullmatch(one.name)]
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
