"""Asking again, and saying what is waited for: a cluster and its brokers have moments in which they cannot answer."""

import time
from collections.abc import Callable
from typing import TypeVar

from provider.joining.steps import Tell
from shared.errors import BellwetherError

T = TypeVar("T")


def patiently(
    ask: Callable[[], T],
    again: Callable[[BellwetherError], bool],
    note: Tell,
    patience_s: float,
    pause_s: float = 1.0,
) -> T:
    """What `ask` gives, which is asked again for so long while what it raises is worth `again`; it must do no harm
    twice. `note` is told what is waited for, each reason once. Raises what it raises."""
    deadline_s, noted = time.monotonic() + patience_s, ""
    while True:
        try:
            return ask()
        except BellwetherError as error:
            if not again(error) or time.monotonic() >= deadline_s:
                raise
            if error.detail != noted:
                note(f"waiting: {error.detail}")
            noted = error.detail
            time.sleep(pause_s)
