"""Files that must be whole and private.

A command that root runs on a host whose daemon has a user of its own must not leave files there that the daemon cannot
read. So what root writes belongs to the owner of the directory it is in. The owner of that directory is trusted less
than root: nothing here follows a link that it may have put there.
"""

import fcntl
import os
import pwd
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from shared.errors import Invalid, Refused

_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def write_atomically(path: Path, text: str | Iterable[str], *, mode: int = 0o600) -> None:
    """Replace `path` with `text`: after a crash at any point it holds the old text or the new, never a part.

    What is long may come in pieces. The file never exists with wider permissions than `mode`. Written by root, it
    belongs to the directory's owner.
    Raises `OSError`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), mode)
            give_to_owner_of(path.parent, file.fileno())
            file.writelines([text] if isinstance(text, str) else text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)  # the rename itself must survive a power cut
    finally:
        os.close(directory)


def read_text(path: Path) -> str:
    """What the text file `path` holds. Raises `Invalid` with the path and why it cannot be read; never with a part of
    what is in it, which may be secret."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise Invalid(f"{path} cannot be read: {error.strerror}") from None
    except ValueError:
        raise Invalid(f"{path} cannot be read: it is not text") from None


@contextmanager
def locked(path: Path, message: str) -> Iterator[None]:
    """Holds the file `path`, made where it is not there, for one process. Raises `Refused` with `message` where another
    one has it; `OSError`."""
    flags = os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(path, flags, 0o600)
    try:
        give_to_owner_of(path.parent, descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise Refused(message) from None
    finally:
        os.close(descriptor)


def make_private_directory(path: Path) -> None:
    """Make the directory `path` (mode 700) unless it is there; made by root, it belongs to its parent's owner.

    Raises `OSError`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        give_to_owner_of(path.parent, descriptor)
    finally:
        os.close(descriptor)


def give_to_owner_of(directory: Path, descriptor: int) -> None:
    """Root gives an open file to the owner of `directory`; for everybody else nothing happens. Raises `OSError`."""
    if os.geteuid() == 0:
        owner = directory.stat()
        os.fchown(descriptor, owner.st_uid, owner.st_gid)


def check_private(directory: Path, secrets: Iterable[Path]) -> None:
    """Raises `Refused`, in one line that says what to do, where another user of this host could have a part in them.

    `directory` must be writable by its owner only, and `secrets` readable by their owner only. The owner is whoever
    runs this, or root; a daemon that root runs may also serve the owner of the directory. Files that are missing are
    passed over. Raises `OSError` where `directory` is missing.
    """
    found = directory.stat()
    owners = {os.geteuid(), 0} | ({found.st_uid} if os.geteuid() == 0 else set())
    _check_owner(directory, found, owners)
    if found.st_mode & _WRITABLE_BY_OTHERS:
        raise Refused(f"{directory} can be changed by others (mode {_mode(found)}): chmod go-w {directory}")
    for path in secrets:
        try:
            found = path.stat()
        except FileNotFoundError:
            continue
        _check_owner(path, found, owners)
        if found.st_mode & _OTHERS:
            raise Refused(f"{path} can be read by others (mode {_mode(found)}): chmod 600 {path}")
        if not os.access(path, os.R_OK, effective_ids=True):
            who = user_name(os.geteuid())
            raise Refused(f"{path} belongs to {user_name(found.st_uid)}, {who} cannot read it: chown {who} {path}")


def user_name(number: int) -> str:
    """The name of a user of this host; the number where it has none."""
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _check_owner(path: Path, found: os.stat_result, owners: set[int]) -> None:
    if found.st_uid not in owners:
        who = user_name(os.geteuid())
        raise Refused(f"{path} belongs to {user_name(found.st_uid)}, expected {who}: chown {who} {path}")


def _mode(found: os.stat_result) -> str:
    return f"{stat.S_IMODE(found.st_mode):o}"
