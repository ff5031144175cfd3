"""A disk for each host, whose power can be cut: what was not synced is gone then.

Each is an ext4 image in memory, mounted through a loop device. To cut the power is to shut the file system down without
a word to its journal (the ioctl that file system developers test crashes with): every page that was written and not
synced is dropped, and what comes back is what a disk would have held. A mount replays the journal, as at a boot.

It needs root, and a mount namespace of one's own (`available`): mounts are then gone with the process that made them.
"""

import fcntl
import os
import struct
import subprocess
from contextlib import suppress
from pathlib import Path

from localcluster.process import ProcessFailed, wait_until

SHUTDOWN, WITHOUT_THE_JOURNAL = 0x8004587D, 2  # EXT4_IOC_SHUTDOWN, EXT4_GOING_FLAGS_NOLOGFLUSH
FILLER = "filler"
BOOT_S = 20.0
PRIVATE = "BELLWETHER_FAULTS_PRIVATE"
"""In the environment of a process that has a mount namespace of its own: `tests/faults/run` makes it."""


def available() -> str | None:
    """Why there can be no such disks here; None where there can."""
    if os.geteuid() != 0:
        return "only root can make disks whose power can be cut"
    if PRIVATE not in os.environ:
        return "there is no mount namespace of our own"
    return None


class Disk:
    """One disk, mounted at `directory`. One thread at a time."""

    def __init__(self, images: Path, directory: Path, *, size: str) -> None:
        self.directory = directory
        self._image = images / f"{directory.name}.img"
        self._size = size
        self._why = ""
        self.off = False
        """Its power was cut, and it was not mounted again."""

    def make(self) -> None:
        """An empty one, mounted. Raises `CalledProcessError`."""
        self.directory.mkdir(mode=0o700, exist_ok=True)
        _run("truncate", "-s", self._size, str(self._image))
        _run("mkfs.ext4", "-q", "-F", "-m", "0", "-O", "^has_journal,^resize_inode", str(self._image))
        _run("tune2fs", "-O", "has_journal", "-J", "size=4", str(self._image))
        self._mount()
        self.directory.chmod(0o700)

    def cut_power(self) -> None:
        """From this moment on nothing gets to the disk any more. Who has it open is to be ended before `mount`."""
        descriptor = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(descriptor, SHUTDOWN, struct.pack("I", WITHOUT_THE_JOURNAL))
            self.off = True
        finally:
            os.close(descriptor)

    def boot(self) -> None:
        """What the disk held when its power was cut, mounted again. Raises `ProcessFailed`."""
        try:
            wait_until(self._unmounted, timeout_s=BOOT_S, what=f"{self.directory} cannot be unmounted")
        except ProcessFailed as error:
            raise ProcessFailed(f"{error}: {self._why}; open: {_open_below(self.directory)}") from None
        self._mount()
        self.off = False

    def sync(self) -> None:
        """All that was written so far is on the disk."""
        _run("sync", "--file-system", str(self.directory))

    def fill(self) -> None:
        """Not a byte more fits on it."""
        with (self.directory / FILLER).open("wb", buffering=0) as file:
            for size in (1 << 20, 1 << 12):
                try:
                    while file.write(b"\0" * size) == size:
                        pass
                except OSError:
                    continue

    def empty(self) -> None:
        """There is room again."""
        (self.directory / FILLER).unlink(missing_ok=True)

    def _unmounted(self) -> bool:
        done = subprocess.run(["umount", self.directory], capture_output=True, text=True, check=False)
        self._why = done.stderr.strip()
        return done.returncode == 0

    def _mount(self) -> None:
        _run("mount", "-o", "loop", str(self._image), str(self.directory))


class Disks:
    """The disks of all hosts; their images lie in memory."""

    def __init__(self, images: Path) -> None:
        self._images = images
        self._disks: dict[str, Disk] = {}
        images.mkdir()
        _run("mount", "-t", "tmpfs", "-o", "mode=0700", "tmpfs", str(images))

    def make(self, name: str, directory: Path, *, size: str = "96M") -> Disk:
        """A new disk for the host `name`, unless it has one."""
        if name not in self._disks:
            disk = Disk(self._images, directory, size=size)
            disk.make()
            self._disks[name] = disk
        return self._disks[name]

    def of(self, name: str) -> Disk:
        return self._disks[name]

    def is_off(self, name: str) -> bool:
        return name in self._disks and self._disks[name].off


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ProcessFailed(f"{' '.join(command)}: {done.stderr.strip()}")


def _open_below(directory: Path) -> list[str]:
    """Who has what open below `directory`, as `pid: path`."""
    found = []
    for link in [*Path("/proc").glob("[0-9]*/fd/*"), *Path("/proc").glob("[0-9]*/cwd")]:
        with suppress(OSError):
            path = link.readlink()
            if path.is_relative_to(directory):
                found.append(f"{link.parts[2]}: {path}")
    return found
