"""What commands print."""

import io
import sys


def show_what_can_be_shown() -> None:
    """Characters that stdout or stderr have no code for, as in an 8-bit locale, are shown by number from now on: a
    command that says what has happened must not fail for one of them."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
