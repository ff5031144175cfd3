"""Whether a node may write what is new: what it makes of what the other members say of themselves. Pure.

A log may have lost its end without a sign to be seen by a node that had not read that far. Whoever had read it puts it
back, as soon as he is there; what this node, as primary or candidate, writes first would stand in its place. So it
asks:

- somebody has accepted more than this node: it waits until that has come through the log;
- everybody answered: nobody has more;
- somebody is silent: a witness will do, a node that has read the log over one connection since it knew that nothing was
  missing in it, up to where this node reads now (`following`). Had there been more, it would be there still. This node
  itself may be one. Not where nobody else answers, members' hosts have three brokers or more, and the log was gone for
  a while: the brokers of the silent may have had what its own had not yet, and have lost it with their power;
- who was gone already before this node, which knew all then, was without the log for a moment, needs no witness;
- without a witness those who are silent are waited for. A primary does not wait for ever: nobody else would write. A
  promotion is refused then, since people can decide about it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from provider.core.state import State
from shared.wording import agreeing, listed

START_PATIENCE_S = 30.0
"""How long a primary that begins anew waits for members that do not answer: hosts that were switched on together do not
come up together."""
CLAIM_PATIENCE_S = 3.0
"""The same before a promotion: somebody waits for it, and may know that they do not come."""
LOSS_PATIENCE_S = 60.0
"""The same where the log is seen to have lost something."""
BROKERS_APART = 3
"""Of so many brokers a majority can do without any one of them. Of two it cannot."""


@dataclass(frozen=True, slots=True)
class Word:
    """What a member says of itself."""

    generation: str
    epoch: int
    revision: int
    lost: bool = False
    """It cannot go on with the log: what it has beyond the others is not to be waited for."""
    whole: bool = False
    """It knows that the log has lost nothing up to the newest of its marks. See `following.Chain`."""
    marks: tuple[str, ...] = ()
    """What it has read over the connection of which it knows that."""

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
    absolute: bool = False
    """It holds for a promotion by force as well."""


@dataclass(frozen=True, slots=True)
class Question:
    """Asked by a node that is `own`, and has read the log to its end."""

    own: Word
    promotion: bool
    loss_seen: bool
    """This node's process has seen that the log lost something."""
    away: frozenset[str] = frozenset()
    """Members that were gone while this node still knew all, which was a moment ago."""
    alone: bool = True
    """This node is a witness also where nobody else answers: the brokers on the hosts of the others are no majority, or
    have not been away for so long that they can have lost their power."""
    force: bool = False
    """A promotion that goes on without what only others may have."""


def counts_alone(state: State) -> bool:
    """See `Question.alone`. Of brokers that are not on members' hosts a silent member says nothing."""
    return sum(bool(node.spec.get("broker")) for node in state.of("node")) < BROKERS_APART


def judge(question: Question, words: Mapping[str, Word | None], waited_s: float) -> Finding:
    """`words`: of each other member, None where it does not answer. `waited_s`: since this was first asked."""
    own = question.own
    other = [name for name, word in words.items() if word is not None and newer_log(word, own)]
    if other:
        return Finding(Verdict.REFUSE, _another_log(other), absolute=True)
    if question.force:
        return Finding(Verdict.GO)
    ahead = [name for name, word in words.items() if word is not None and not word.lost and _ahead(word, own)]
    if ahead:
        known = ", ".join(f"{name} has revision {words[name].revision}" for name in ahead)  # type: ignore[union-attr]
        return Finding(Verdict.WAIT, f"{known}, this node {own.revision}: waiting for what is between")
    silent = tuple(name for name, word in words.items() if word is None and name not in question.away)
    if not silent or _witness(question, words):
        return Finding(Verdict.GO)
    if waited_s < _patience_s(question):
        return Finding(Verdict.WAIT, f"{_do_not_answer(silent)}, and may know more than the log holds")
    if question.promotion:
        return Finding(Verdict.REFUSE, _may_be_lost(question, silent), silent)
    return Finding(Verdict.GO, silent=silent)


def _may_be_lost(question: Question, silent: Sequence[str]) -> str:
    seen = "the log was interrupted, and nobody who answers can tell whether it has lost its end"
    start = f"Start {listed(silent)}, which puts it back"
    if question.loss_seen:
        seen = "the brokers have lost the end of the log"
    elif question.own.whole:
        seen = (
            "nobody else answers, and this node alone cannot tell whether the others' brokers have lost what it lacks"
        )
        start = f"Start {' or '.join(silent)}"
    return (
        f"{seen}, and {_do_not_answer(silent)}: what was acknowledged last may be there alone. Nothing was changed. "
        f"{start}; where that is not possible: --force goes on without it, for good"
    )


def _do_not_answer(silent: Sequence[str]) -> str:
    return f"{agreeing(silent, 'does', 'do')} not answer"


def _another_log(nodes: Sequence[str]) -> str:
    return f"{agreeing(nodes, 'follows', 'follow')} another log, begun later: this node's is given up"


def _patience_s(question: Question) -> float:
    if question.promotion:
        return CLAIM_PATIENCE_S
    return LOSS_PATIENCE_S if question.loss_seen else START_PATIENCE_S


def newer_log(word: Word, own: Word) -> bool:
    """Whether who says so follows another log than `own`, begun later. Of two that were begun in the same second, one
    counts as later, for everybody the same."""
    other = word.generation not in ("", own.generation)
    return other and (word.epoch, word.generation) > (own.epoch, own.generation)


def beyond(stored: tuple[str, int, int], own: Word) -> int | None:
    """The revision of what a store has (generation, epoch, revision), where that is more than `own`; else None."""
    generation, epoch, revision = stored
    has_read = (epoch, revision) <= own.reached if generation == own.generation else epoch <= own.epoch
    return None if has_read else revision


def _ahead(word: Word, own: Word) -> bool:
    return word.generation == own.generation and word.reached > own.reached


def _witness(question: Question, words: Mapping[str, Word | None]) -> bool:
    """Another one's word is worth something for the log that this node reads: they have a mark in common."""
    own, marks = question.own, set(question.own.marks)
    answers = [word for word in words.values() if word is not None and not word.lost]
    if own.whole and (question.alone or any(word.generation == own.generation for word in answers)):
        return True
    return any(word.whole and not marks.isdisjoint(word.marks) for word in answers)
