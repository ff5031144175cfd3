"""Whether a node may write what is new: what it makes of what the other members say of themselves. Pure.

A log may have lost its end without a sign to be seen by a node that had not read that far. Whoever had read it puts it
back, as soon as he is there; what this node, as primary or candidate, writes first would stand in its place. So it
asks:

- somebody has accepted more than this node: it waits until that has come through the log;
- everybody answered: nobody has more;
- somebody is silent: a witness will do, a node that has followed the log since before the newest record that this one
  knows, without a break: had there been more, it would know it. This node itself may be one;
- without a witness those who are silent are waited for, but not for ever.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from shared.wording import listed

MARGIN_MS = 5_000
"""By which clocks may differ."""
START_PATIENCE_S = 30.0
"""How long a primary that begins anew waits for members that do not answer: hosts that were switched on together do not
come up together."""
CLAIM_PATIENCE_S = 3.0
"""The same before a promotion: somebody has decided that they do not come."""
LOSS_PATIENCE_S = 60.0
"""The same where the log is seen to have lost something."""


@dataclass(frozen=True, slots=True)
class Word:
    """What a member says of itself."""

    generation: str
    epoch: int
    revision: int
    since_ms: int
    """Since when its process has followed the log without a sign that it lost anything; Unix ms."""
    lost: bool = False
    """It cannot go on with the log: what it has beyond the others is not to be waited for."""

    @property
    def reached(self) -> tuple[int, int]:
        return self.epoch, self.revision


class Verdict(Enum):
    GO = "go"
    WAIT = "wait"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Finding:
    verdict: Verdict
    why: str = ""
    silent: tuple[str, ...] = ()
    """With GO: members that did not answer, without a witness."""


@dataclass(frozen=True, slots=True)
class Question:
    """Asked by a node that is `own` and whose newest record is of `newest_ms`."""

    own: Word
    newest_ms: int
    promotion: bool
    loss_seen: bool
    """This node's process has seen that the log lost something."""
    in_touch: bool = False
    """It has heard from the primary since it started, and has all that was told."""


def judge(question: Question, words: Mapping[str, Word | None], waited_s: float) -> Finding:
    """`words`: of each other member, None where it does not answer. `waited_s`: since this was first asked."""
    own = question.own
    other = [name for name, word in words.items() if word is not None and newer_log(word, own)]
    if other:
        return Finding(Verdict.REFUSE, f"{listed(other)} follows another log, begun later: this node's is given up")
    ahead = [name for name, word in words.items() if word is not None and not word.lost and _ahead(word, own)]
    if ahead:
        known = ", ".join(f"{name} has revision {words[name].revision}" for name in ahead)  # type: ignore[union-attr]
        return Finding(Verdict.WAIT, f"{known}, this node {own.revision}: waiting for what is between")
    silent = tuple(name for name, word in words.items() if word is None)
    if not silent:
        return Finding(Verdict.GO)
    touch = question.promotion and question.in_touch
    if not question.loss_seen and (touch or _witness(question, words)):
        return Finding(Verdict.GO)
    if waited_s < _patience_s(question):
        return Finding(Verdict.WAIT, f"{listed(silent)} does not answer, and may know more than the log holds")
    if question.promotion and question.loss_seen:
        return Finding(
            Verdict.REFUSE,
            f"the brokers have lost the end of the log, and {listed(silent)} does not answer: what was acknowledged "
            f"last may be there alone. Start {listed(silent)}, which puts it back; or --force, which gives that up",
        )
    return Finding(Verdict.GO, silent=silent)


def _patience_s(question: Question) -> float:
    if question.promotion:
        return CLAIM_PATIENCE_S
    return LOSS_PATIENCE_S if question.loss_seen else START_PATIENCE_S


def newer_log(word: Word, own: Word) -> bool:
    """Whether who says so follows another log than `own`, begun later. Of two that were begun in the same second, one
    counts as later, for everybody the same."""
    other = word.generation not in ("", own.generation)
    return other and (word.epoch, word.generation) > (own.epoch, own.generation)


def _ahead(word: Word, own: Word) -> bool:
    return word.generation == own.generation and word.reached > own.reached


def _witness(question: Question, words: Mapping[str, Word | None]) -> bool:
    """Also where a member that has lost the log is silent about it."""
    own = question.own
    following = [own, *(word for word in words.values() if word is not None and word.generation == own.generation)]
    return any(not word.lost and word.since_ms + MARGIN_MS <= question.newest_ms for word in following)
