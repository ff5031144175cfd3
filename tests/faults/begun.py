"""A log that was begun by force: what the command said, and what that excuses. Pure."""

import re
from dataclasses import dataclass, replace
from typing import Any

from tests.faults.history import Attempt, Beginning, Followed, History

_BEGINS = re.compile(r"log \S+ begins at epoch (\d+), revision (\d+)")
BEFORE_S = 10.0
"""So long before the disaster a refusal may have had a reason that is lost."""


@dataclass(frozen=True, slots=True)
class Begun:
    """A log that was begun by force. `events` are those which `node` told of before: all of the day."""

    node: str
    lost: tuple[str, ...]
    began_s: float
    ended_s: float
    said: dict[str, Any]
    """What the command said: its last line."""
    events: tuple[dict[str, Any], ...]

    @property
    def first(self) -> tuple[int, int]:
        """Epoch and revision with which the new log begins."""
        for step in self.said["steps"]:
            if (found := _BEGINS.match(step["detail"])) is not None:
                return int(found[1]), int(found[2])
        raise ValueError(f"the command did not say where the log begins: {self.said}")

    @property
    def costs(self) -> bool:
        """Whether it said that something acknowledged may be missing."""
        return any(line.startswith("LOST") for line in self.said["anew"]["told"])


def excused(history: History) -> History:
    """The history without what was lost: what those who are given up showed from behind the revision that the new log
    goes on from counts no more. What was acknowledged there may have been done or not, where the command said so; where
    it said that nothing is missing, it counts."""
    begun = history.begun
    if begun is None:
        return history
    return replace(
        history,
        attempts=tuple(_excused(begun, one) for one in history.attempts),
        followed=tuple(_cut(begun, one) for one in history.followed),
        backups=tuple(one for one in history.backups if not begun.gone(one.revision)),
    )


def cost(history: History) -> list[str]:
    """What was lost where a log was begun by force, for people."""
    begun = history.begun
    if begun is None:
        return []
    ops = {one.op for one in history.attempts if one.done and one.document is not None and begun.gone(one.document)}
    said = "some may be lost" if begun.costs else "nothing is missing"
    kept = f"{begun.node} began a log with what it held, up to {begun.revision}, and said that {said}"
    return [f"{kept}: acknowledged behind it, or read, by {len(ops)} requests"]


def _excused(begun: Beginning, one: Attempt) -> Attempt:
    acknowledged = one.action in ("put", "wish", "delete") and one.done
    shown = one.node in begun.lost and one.revision is not None and begun.gone(one.revision)
    if not begun.costs:
        return _unanswered(one) if shown and not acknowledged else one
    told = one.action in ("put", "wish") and one.done and one.document is not None and begun.gone(one.document)
    near = begun.began_s - BEFORE_S <= one.asked_s <= begun.ended_s
    unsure = near and (one.code == "stale_revision" or one.action == "delete")
    return _unanswered(one) if shown or told or unsure else one


def _unanswered(one: Attempt) -> Attempt:
    return replace(one, status=0, code=None, node=None, role=None, epoch=None, revision=None, document=None)


def _cut(begun: Beginning, one: Followed) -> Followed:
    if one.node not in begun.lost:
        return one
    return replace(one, entries=tuple(entry for entry in one.entries if not begun.gone(entry.revision)))
