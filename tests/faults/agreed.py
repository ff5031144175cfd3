"""What the nodes agree on, to judge answers by; and what a judgement is. Pure."""

from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass

from tests.faults.history import Attempt, Entry, History

NOT_DONE = frozenset({"no_primary", "log_unavailable", "disk_full", "store_unavailable", "too_many_requests"})
"""Codes that say: nothing was done."""
REFUSED = frozenset({"stale_revision", "conflict", "not_found", "invalid", "refused", "forbidden"})
"""Codes that say: nothing was done, and nothing will be."""
FORGETFUL, SLACK_S = "clock far off", 3.0
"""Under a primary whose clock is a day ahead, idempotency keys are over at once, on all nodes alike; an entry of that
time may still be on its way when the clock is right again."""
CATCH_UP_S = 4.0
"""An answer that comes sooner is not one of a node that waited in vain for its own copy (5 s) before it passed on the
primary's."""


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken promise. `rule` is the name of the check, for tests; `text` for people."""

    rule: str
    text: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.text}"


@dataclass(frozen=True, slots=True)
class Put:
    revision: int
    setting: str
    value: str | None
    """None: it is deleted."""


class Log:
    """What the nodes agree on."""

    def __init__(self, history: History, entries: tuple[Entry, ...]) -> None:
        """`entries`: as nodes testify; of the log that was begun last, where one was begun."""
        begun = self.begun = history.begun
        if begun is not None:
            entries = (*begun.entries, *entries)
        self.entries = entries
        self.last = entries[-1].revision if entries else history.after
        self.puts = [Put(entry.revision, *put) for entry in entries for put in entry.puts]
        self.of_setting: dict[str, list[Put]] = defaultdict(list)
        self.of_value: dict[str, list[Put]] = defaultdict(list)
        for put in self.puts:
            self.of_setting[put.setting].append(put)
            if put.value is not None:
                self.of_value[put.value].append(put)
        self.wished: dict[str, int] = {}
        """Database → where it was asked for."""
        for entry in entries:
            for wish in entry.wishes:
                self.wished.setdefault(wish, entry.revision)
        begins = [one for one in entries if one.type == "claim" or (begun is not None and one.revision == begun.first)]
        self.primaries = {history.epoch: history.primary} | {entry.epoch: entry.node for entry in begins}
        self._begins = [entry.revision for entry in begins]
        self._epochs = [history.epoch, *(entry.epoch for entry in begins)]

    def epoch_at(self, revision: int) -> int:
        return self._epochs[bisect_right(self._begins, revision)]

    def lacks(self, revision: int) -> bool:
        """Whether there is no such revision: it is behind the end, or was given up."""
        return revision > self.last or (self.begun is not None and self.begun.gone(revision))

    def held(self, setting: str, revision: int) -> Put | None:
        """What a node at that revision has there."""
        puts = self.of_setting.get(setting, [])
        number = bisect_right(puts, revision, key=lambda put: put.revision)
        return puts[number - 1] if number and puts[number - 1].value is not None else None

    def settings_at(self, revision: int) -> dict[str, tuple[int, str]]:
        found = (self.held(setting, revision) for setting in self.of_setting)
        return {put.setting: (put.revision, put.value) for put in found if put is not None and put.value is not None}


def forgotten(history: History, attempts: list[Attempt]) -> bool:
    """Whether the key of this op may have been forgotten between two of its attempts: then it may be done again."""
    first_s, last_s = attempts[0].asked_s, attempts[-1].asked_s
    accepted = [entry for one in history.witnesses for entry in one.entries]
    primaries = {history.primary}
    if history.begun is not None:
        accepted += history.begun.entries
        primaries.add(history.begun.node)
    primaries |= {entry.node for entry in accepted if entry.type == "claim"}
    jumps = [one for one in history.faults if one.kind == FORGETFUL and one.why_not is None and one.target in primaries]
    return any(first_s <= one.ended_s + SLACK_S and last_s >= one.began_s - SLACK_S for one in jumps)
