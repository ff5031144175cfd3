"""What a broker and a database server have in common: a program that listens, in a directory of its own."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from localcluster.process import Process, ProcessFailed, tail, wait_until


class Server(ABC):
    """`process` is the real server, None before it was started; `ready_s`: how long it may take to be ready. Use from
    one thread."""

    kind: ClassVar[str]
    """What it is, in messages."""
    ready_s: ClassVar[float]
    directory: Path
    process: Process | None

    @property
    @abstractmethod
    def log(self) -> Path: ...

    @property
    def pid(self) -> int:
        """Of the server. Raises `ProcessFailed` where it was never started."""
        return self._started().pid

    @abstractmethod
    def launch(self) -> Process:
        """Start it on the data that is there, or new; does not wait. Raises `ProcessFailed`, `OSError`."""

    @abstractmethod
    def ready(self) -> bool:
        """Whether it takes connections."""

    def start(self) -> Process:
        """Launch it, and wait until it takes connections. Raises `ProcessFailed`."""
        process = self.launch()
        self.wait_ready()
        return process

    def wait_ready(self) -> None:
        """Wait until it takes connections. Raises `ProcessFailed` with the end of its log."""
        what = f"{self.kind} in {self.directory}"
        try:
            wait_until(self.ready, timeout_s=self.ready_s, what=what, process=self._started())
        except ProcessFailed as error:
            raise ProcessFailed(f"{error}; the end of {self.log}:\n{tail(self.log)}") from None

    def stop(self) -> None:
        """Shut it down cleanly; returns when it is gone."""
        if self.process is not None:
            self.process.stop()

    def kill(self) -> None:
        """`kill -9`; returns when it is gone. Its data stay."""
        self._started().kill()

    def restart(self) -> Process:
        """Stop it if it runs, and start it on the same data and ports."""
        self.stop()
        return self.start()

    def _started(self) -> Process:
        if self.process is None:
            raise ProcessFailed(f"{self.kind} in {self.directory} was never started")
        return self.process
