"""What was refused lately and is not in the log yet: what goes together, and when it is to be told. Pure.

Whoever is refused decides how often. So equal attempts become one with a count; what is told at once is limited, most
of all for each address; and who goes on for long is told of less often. A flood costs the log next to nothing, and does
not hide what others do meanwhile.
"""

from dataclasses import dataclass

from provider.core.entries import Attempt

SOON_S = 2.0
"""A kind of attempt that is new is told this long after the first one."""
BUSY_S, FLOOD_S = 10.0, 60.0
"""While there is always something new, the pause doubles up to the one; while there is more than is told, up to the
other."""
REPEAT_S = 60.0
"""What was told already is told again this long after, with how often it came meanwhile."""
KINDS_MAX = 100
KINDS_OF_ONE_MAX = 30
"""Of one address: a few addresses cannot take all the room from the others."""
SOURCES_MAX = 20
"""That are named of those who had more to say."""
REMEMBERED_MAX = 1000
ACTION_MAX, DETAIL_MAX = 300, 300
MORE = "…and more, of other kinds"


@dataclass(frozen=True, slots=True)
class Kind:
    """Attempts that are told as one."""

    principal: str
    source: str | None
    action: str
    code: str


@dataclass(slots=True)
class _Noted:
    at_ms: int
    status: int
    detail: str | None
    count: int = 1


class Book:
    """Plain state, for one thread at a time. `now_s` is monotonic; `at_ms` is Unix milliseconds."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._open: dict[Kind, _Noted] = {}
        self._of_source: dict[str | None, int] = {}
        self._more: dict[str | None, _Noted] = {}
        self._told: dict[Kind, float] = {}
        """When each kind was last told; the oldest first."""
        self._due_s: float | None = None
        self._taken_s = float("-inf")
        self._pause_s = SOON_S

    @property
    def due_s(self) -> float | None:
        """When to `take`; None while there is nothing."""
        return None if self._due_s is None else max(self._due_s, self._taken_s + self._pause_s)

    def note(self, kind: Kind, status: int, detail: str | None, at_ms: int, now_s: float) -> bool:
        """One attempt more. Whether it is of a kind that is told and was not known."""
        noted = self._open.get(kind)
        if noted is not None:
            noted.count += 1
            return False
        of_source = self._of_source.get(kind.source, 0)
        told_s = self._told.get(kind, float("-inf"))
        new = len(self._open) < KINDS_MAX and of_source < KINDS_OF_ONE_MAX
        if new:
            self._open[kind] = _Noted(at_ms, status, detail)
            self._of_source[kind.source] = of_source + 1
        else:
            self._note_more(kind, status, at_ms)
        due_s = max(now_s + SOON_S, told_s + REPEAT_S)
        self._due_s = due_s if self._due_s is None else min(self._due_s, due_s)
        return new and told_s + REPEAT_S <= now_s

    def _note_more(self, kind: Kind, status: int, at_ms: int) -> None:
        source = kind.source if kind.source in self._more or len(self._more) < SOURCES_MAX else None
        noted = self._more.get(source)
        if noted is None:
            self._more[source] = _Noted(at_ms, status, None)
        else:
            noted.count += 1

    def take(self, now_s: float) -> tuple[Attempt, ...]:
        """All that there is, which is then no more here."""
        attempts = [self._attempt(kind, noted) for kind, noted in self._open.items()]
        attempts += [self._attempt(Kind("?", source, MORE, "flood"), noted) for source, noted in self._more.items()]
        longest = FLOOD_S if self._more else BUSY_S
        busy = now_s - self._taken_s <= 2 * self._pause_s
        self._pause_s = min(2 * self._pause_s, longest) if busy or self._more else SOON_S
        for kind in self._open:
            self._told.pop(kind, None)
            self._told[kind] = now_s
        while len(self._told) > REMEMBERED_MAX:
            del self._told[next(iter(self._told))]
        self._open, self._of_source, self._more = {}, {}, {}
        self._due_s, self._taken_s = None, now_s
        return tuple(attempts)

    def _attempt(self, kind: Kind, noted: _Noted) -> Attempt:
        return Attempt(
            at=noted.at_ms,
            node=self._node,
            principal=kind.principal,
            source=kind.source,
            action=kind.action,
            code=kind.code,
            status=noted.status,
            count=noted.count,
            detail=noted.detail,
        )


def legible(text: str, limit: int) -> str:
    """`text` as it may stand in an audit: no control characters, nothing that could not be written, not too long."""
    if not text.isprintable():
        text = "".join(c if c.isprintable() else "\ufffd" for c in text[: limit + 1])
    return text if len(text) <= limit else text[: limit - 1] + "…"
