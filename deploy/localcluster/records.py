"""Which processes were started: written down at once, so that a later command can end exactly these."""

import fcntl
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from localcluster.process import Process
from shared.files import write_atomically


class Records:
    """Name → process, kept in `file`. Any thread."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = threading.Lock()
        known = json.loads(file.read_text()) if file.exists() else {}
        self._processes = {name: Process(**record) for name, record in known.items()}

    def get(self, name: str) -> Process | None:
        return self._processes.get(name)

    def put(self, name: str, process: Process) -> None:
        """Write down that `name` is `process` from now on."""
        with self._lock:
            self._processes[name] = process
            self._write()

    def forget(self, name: str) -> None:
        with self._lock:
            self._processes.pop(name, None)
            self._write()

    def alive(self, name: str) -> bool:
        process = self._processes.get(name)
        return process is not None and process.alive

    def _write(self) -> None:
        known = {name: asdict(process) for name, process in self._processes.items()}
        write_atomically(self._file, json.dumps(known, indent=2) + "\n")


@contextmanager
def exclusive(file: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Only one command at a time may change a cluster; `on_wait` is called when another one is at it.

    The lock goes with the process: a killed command leaves none behind.
    """
    with file.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
