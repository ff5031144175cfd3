"""When tokens were last used. Kept in memory by each node, and in the state coarsely: a commit a minute at the most
for all tokens together, and no more than one in five minutes for each.

A standby tells the primary what it saw; the primary adds it to what it saw itself and commits.
"""

import time
from collections.abc import Iterable

from provider.core.commands import USES_MAX, TokenUse, is_news
from provider.core.documents import Document
from provider.core.state import State

YOUNG_S = 60.0
"""A token that the state does not know may be on its way here for so long."""
KEPT_MAX = 10_000
"""Tokens whose uses are remembered; the one that was not used for the longest time goes first."""


class Uses:
    """On the event loop only."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, str | None]] = {}

    def note(self, token_id: str, source: str | None) -> None:
        """That token is used now, from that address. On the way of each request."""
        self._seen[token_id] = (int(time.time() * 1000), source)

    def heard(self, uses: Iterable[TokenUse]) -> None:
        """What another node saw."""
        for use in uses:
            if use.at > self._seen.get(use.id, (0, None))[0]:
                self._seen[use.id] = (use.at, use.source)

    def last(self, token: Document) -> tuple[int | None, str | None]:
        """When (Unix ms) and from where a token was last used, as far as this node knows."""
        recorded = (token.status.get("last_used_at"), token.status.get("last_used_from"))
        seen = self._seen.get(token.id)
        return seen if seen is not None and seen[0] > (recorded[0] or 0) else recorded

    def due(self, state: State) -> tuple[TokenUse, ...]:
        """What should be recorded and is not. What is of no use any more is forgotten."""
        found: list[TokenUse] = []
        by_age = sorted(self._seen.items(), key=lambda item: item[1][0])
        for token_id, (at, source) in by_age:
            token = state.get("token", token_id)
            if token is None:
                if at < (time.time() - YOUNG_S) * 1000:
                    del self._seen[token_id]
            elif is_news(token, at):
                found.append(TokenUse(token_id, at, source))
        for token_id, _ in by_age[: max(0, len(by_age) - KEPT_MAX)]:
            self._seen.pop(token_id, None)
        return tuple(found[:USES_MAX])
