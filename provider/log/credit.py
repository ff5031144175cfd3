"""Acknowledgements of what was read, many at once."""

from collections.abc import Callable

ACK_EVERY = 100
"""Records that are acknowledged together. An acknowledgement is credit for more, nothing else; the log hands out
several times as many (`PREFETCH`), so none is ever waited for. One for each record cost a tenth of a commit."""


class Credit:
    """For one thread."""

    def __init__(self) -> None:
        self._ack: Callable[[], None] | None = None
        self._read = 0

    def read(self, ack: Callable[[], None]) -> None:
        """One record more; `ack` acknowledges it and all before it."""
        self._ack, self._read = ack, self._read + 1

    def give(self) -> None:
        """All that was read is safe here: it is acknowledged, if it is enough to be worth it."""
        if self._ack is not None and self._read >= ACK_EVERY:
            self._ack()
            self.forget()

    def forget(self) -> None:
        """What was read came from a log that is closed."""
        self._ack, self._read = None, 0
