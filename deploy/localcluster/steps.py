"""Named steps, some at the same time, each told with its seconds."""

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

Tell = Callable[[str], None]


def quiet(line: str) -> None:
    """Tells nobody; for tests."""


class Steps:
    """Runs steps and tells each one's end through `tell`, which is called by one thread at a time.

    As a context manager it waits at its end for whatever still runs; the first failure is raised then.
    """

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(thread_name_prefix="step")
        self._running: list[Future[None]] = []

    def __enter__(self) -> "Steps":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and not issubclass(kind, Exception):  # Ctrl-C: do not wait for anybody
            self._pool.shutdown(wait=False, cancel_futures=True)
            return
        self._pool.shutdown()
        if kind is None:
            self.join()

    def run(self, what: str, step: Callable[[], None]) -> None:
        """Do it now, in this thread. Raises its failure, or at once that of a step that was begun before."""
        _wait([future for future in self._running if future.done()])
        self._do(what, step)

    def _do(self, what: str, step: Callable[[], None]) -> None:
        began = time.monotonic()
        try:
            step()
        except Exception:
            self._say("FAIL", what, began)
            raise
        self._say("ok", what, began)

    def begin(self, what: str, step: Callable[[], None]) -> None:
        """Do it at the same time as what follows."""
        self._running.append(self._pool.submit(self._do, what, step))

    def together(self, steps: Mapping[str, Callable[[], None]]) -> None:
        """Do these at the same time, and wait for all of them. Raises the first failure."""
        futures = [self._pool.submit(self._do, what, step) for what, step in steps.items()]
        _wait(futures)

    def join(self) -> None:
        """Wait for what was begun. Raises the first failure."""
        running, self._running = self._running, []
        _wait(running)

    def _say(self, verdict: str, what: str, began: float) -> None:
        with self._lock:
            self._tell(f"  {verdict:<4} {what:<44} {time.monotonic() - began:5.1f} s")


def _wait(futures: list[Future[None]]) -> None:
    failures = [error for future in futures if (error := future.exception()) is not None]
    if failures:
        raise failures[0]
