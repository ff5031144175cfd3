"""A thread that runs an I/O loop, for one link or for many.

An agent has one link and wants no second thread. Whoever speaks for a thousand agents cannot have a thousand threads.
"""

import threading
from collections.abc import Callable
from typing import Any

from shared.logs import log

_TURNS_TO_END = 4
"""Of the loop, at least as many as pika 1.4 takes from an abort to the closed socket, also while it connects."""


class IOThread:
    """`loop` is pika's. It is used by the thread alone, but for `add_callback_threadsafe`. `start` and `stop` may be
    called from any thread, and again."""

    def __init__(self, loop: Any, name: str) -> None:
        self.loop = loop
        self._stopping = threading.Event()
        self._begun = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.on_error: Callable[[Exception], None] = self._log
        """Called on the thread with what a callback raised: a bug of ours or pika's. The loop goes on."""
        self.at_end: set[Callable[[], None]] = set()
        """Called on the thread before the loop is closed: whoever uses it ends with it."""

    @property
    def is_current(self) -> bool:
        return self._thread is threading.current_thread()

    def start(self) -> None:
        if not self._begun:
            self._begun = True
            self._thread.start()

    def stop(self) -> None:
        """Have it end soon. What was put before is still done."""
        self._stopping.set()
        self.loop.add_callback_threadsafe(self.loop.stop)

    def join(self, timeout_s: float) -> None:
        if self._thread.is_alive() and not self.is_current:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.loop.start()
            except Exception as error:  # noqa: BLE001 - must not leave dead links behind
                self.on_error(error)
        for end in list(self.at_end):
            end()
        self._let_pika_finish()
        self.loop.close()

    def _let_pika_finish(self) -> None:
        """An aborted connection's socket is closed by a callback that pika puts on the loop, and that by another."""
        for _turn in range(_TURNS_TO_END):
            self.loop.add_callback_threadsafe(self.loop.stop)
            self.loop.start()

    @staticmethod
    def _log(error: Exception) -> None:
        log().opt(exception=error).error("something failed on an I/O thread")
