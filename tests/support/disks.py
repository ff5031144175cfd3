"""Disks that are soon full."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

AS_ROOT = [] if os.geteuid() == 0 else ["sudo", "-n"]
BLOCK = b"\0" * 4096


@contextmanager
def small_disk(directory: Path, size: str) -> Iterator[Path]:
    """A file system of its own that is soon full."""
    directory.mkdir()
    subprocess.run([*AS_ROOT, "mount", "-t", "tmpfs", "-o", f"size={size},mode=1777", "tmpfs", directory], check=True)
    try:
        yield directory
    finally:
        left = subprocess.run([*AS_ROOT, "umount", directory], check=False, capture_output=True, text=True)
        if left.returncode:
            subprocess.run([*AS_ROOT, "umount", "--lazy", directory], check=True)
    assert not left.stderr, "something still has a file open"


def fill(path: Path) -> None:
    """Write to `path` until nothing more fits on its disk."""
    with path.open("wb", buffering=0) as file:
        try:
            while file.write(BLOCK) == len(BLOCK):
                pass
        except OSError as error:
            assert error.errno == 28, error
