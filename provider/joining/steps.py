"""What a long command tells: each step when it has ended, and how long it took."""

import time
from collections.abc import Callable

Tell = Callable[[str], None]


class Steps:
    """Times each step since the one before it. One thread."""

    def __init__(self, tell: Tell = lambda _: None) -> None:
        """`tell` is given one line for each step."""
        self._tell, self._since_s = tell, time.monotonic()

    def done(self, name: str, detail: str) -> None:
        now_s = time.monotonic()
        took_s, self._since_s = now_s - self._since_s, now_s
        self._tell(f"{took_s:7.3f} s  {name:<8} {detail}")

    def note(self, text: str) -> None:
        """Something within a step, while it lasts."""
        self._tell(f"{'':11}{text}")
