"""What the nodes agree on, to judge answers by; and what a judgement is. Pure."""

from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass

from tests.faults.history import Entry, History


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
    value: str


class Log:
    """What the nodes agree on."""

    def __init__(self, history: History, entries: tuple[Entry, ...]) -> None:
        self.entries = entries
        self.last = entries[-1].revision if entries else history.after
        self.puts = [Put(entry.revision, *put) for entry in entries for put in entry.puts]
        self.of_setting: dict[str, list[Put]] = defaultdict(list)
        self.of_value: dict[str, list[Put]] = defaultdict(list)
        for put in self.puts:
            self.of_setting[put.setting].append(put)
            self.of_value[put.value].append(put)
        self.wished: dict[str, int] = {}
        """Database → where it was asked for."""
        for entry in entries:
            for wish in entry.wishes:
                self.wished.setdefault(wish, entry.revision)
        self.primaries = {history.epoch: history.primary}
        self.primaries |= {entry.epoch: entry.node for entry in entries if entry.type == "claim"}
        self._claims = [entry.revision for entry in entries if entry.type == "claim"]
        self._epochs = [history.epoch, *(entry.epoch for entry in entries if entry.type == "claim")]

    def epoch_at(self, revision: int) -> int:
        return self._epochs[bisect_right(self._claims, revision)]

    def held(self, setting: str, revision: int) -> Put | None:
        """What a node at that revision has there."""
        puts = self.of_setting.get(setting, [])
        number = bisect_right(puts, revision, key=lambda put: put.revision)
        return puts[number - 1] if number else None

    def settings_at(self, revision: int) -> dict[str, tuple[int, str]]:
        found = ((setting, self.held(setting, revision)) for setting in self.of_setting)
        return {setting: (put.revision, put.value) for setting, put in found if put is not None}
