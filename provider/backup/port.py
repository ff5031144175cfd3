"""A place where backups lie: what is asked of it, whichever it is."""

from collections.abc import Callable
from typing import BinaryIO, Protocol

from provider.backup.container import Written
from shared.errors import BellwetherError

Write = Callable[[BinaryIO], Written]


class TargetFailed(BellwetherError):
    """A place for backups cannot be used now. The detail says which, and why."""

    code, status, retryable = "backup_failed", 503, True


class Target(Protocol):
    """Blocking; any thread, one at a time. Every method raises `TargetFailed` where the place cannot be used."""

    def store(self, name: str, write: Write) -> Written:
        """What `write` writes, under `name`: all of it, or nothing."""

    def names(self) -> list[str]:
        """Of the backups that lie there: see `names.by_age`."""

    def fetch(self, name: str, file: BinaryIO) -> None:
        """Writes the backup `name` to `file`. Raises `NotFound`."""

    def remove(self, name: str) -> None: ...

    def shown(self, name: str) -> str:
        """Where a person finds the backup `name`."""
