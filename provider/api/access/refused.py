"""Tokens that were refused: counted, and logged."""

import time
from collections import Counter

from shared.errors import TokenRefused
from shared.logs import log

LINES_A_MINUTE = 60
"""Logged; the rest is counted. Whoever tries a million tokens shall not fill the disk with them."""
_ID_MAX = 63
"""No id of ours is longer; a secret is, and somebody may have mixed up the parts."""


class TokensRefused:
    """On the event loop only."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        """By reason."""
        self._minute, self._lines = 0, 0

    def note(self, error: TokenRefused, source: str | None) -> None:
        self.counts[error.reason] += 1
        minute = int(time.monotonic() // 60)
        if minute != self._minute:
            self._minute, self._lines = minute, 0
        self._lines += 1
        if self._lines > LINES_A_MINUTE:
            return
        shown = ascii(error.token_id)[1:-1] if len(error.token_id) <= _ID_MAX else "(too long)"
        log(reason=error.reason, token=shown, source=source).warning("a token was refused")
        if self._lines == LINES_A_MINUTE:
            log().warning("more tokens are refused in this minute; they are counted, not logged")
