"""Whether this node may begin a log of its own, without the members that are gone (`failover --force`), and what that
costs. Pure: from what it knows, and what members said when they were asked just now.

Only where nothing else is left. The log could not be read to its end by this node, a moment ago; so it must not by any
other member that answers either, nobody who answers may hold more, and the primary must not be among them: it has all
that it acknowledged.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from provider.core.vouching import Word
from provider.states import Condition
from shared.wording import listed


@dataclass(frozen=True, slots=True)
class Heard:
    """The last that was heard of a member or an agent, since this node was started."""

    name: str
    revision: int
    at_ms: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What another member said when it was asked."""

    word: Word
    primary: bool
    """It takes itself for the primary."""
    reads: bool
    """It has read the log to its end, just now."""


@dataclass(frozen=True, slots=True)
class Asked:
    """All that is to be judged. `answers` of each other member; None: it does not answer."""

    node: str
    here: Condition
    own: Word
    primary: str
    """Who is, by this node's state."""
    blocked: str | None
    """Why the brokers take nothing although they answer."""
    own_broker: str | None
    """The broker of this host, where it is ours: it is begun anew."""
    broker_problem: str | None
    """With `own_broker`: why that cannot be done."""
    waits: bool
    """This log was begun by force already, and nothing was written to it yet."""
    heard: Sequence[Heard]
    heard_agents: Heard | None
    """The agent that has said the highest revision."""
    answers: Mapping[str, Answer | None]
    stored: int | None = None
    """The revision that this node's store has, where that is more than it has read: others keep theirs there, too."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What would be done, and lost."""

    node: str
    revision: int
    epoch: int
    primary: str
    lost: tuple[str, ...]
    """Members that do not answer: given up."""
    kept: tuple[str, ...]
    """Others that answer: they go on with this one."""
    newest: int
    """The highest revision that was heard of."""
    told: tuple[str, ...]
    """For people, before they decide."""
    own_broker: str | None

    @property
    def accept(self) -> str:
        """Stands for what was shown: whoever agrees says it, and if it is another by then nothing is done."""
        said = repr((self.node, self.revision, self.epoch, self.primary, self.lost, self.kept, self.newest))
        return hashlib.sha256(said.encode()).hexdigest()[:16]

    def shown(self) -> dict[str, Any]:
        return {
            "node": self.node,
            "revision": self.revision,
            "epoch": self.epoch,
            "primary": self.primary,
            "lost": list(self.lost),
            "kept": list(self.kept),
            "newest": self.newest,
            "own_broker": self.own_broker,
            "told": list(self.told),
            "accept": self.accept,
        }


def survey(asked: Asked) -> Plan | str:
    """What would be done; or why it must not be, in a sentence that says what to do instead."""
    refused = _unfit(asked) or _others(asked)
    if refused is not None:
        return refused
    lost = tuple(sorted(name for name, answer in asked.answers.items() if answer is None))
    kept = tuple(sorted(name for name, answer in asked.answers.items() if answer is not None))
    heard = [*asked.heard, *([asked.heard_agents] if asked.heard_agents is not None else [])]
    newest = max([asked.own.revision, *(one.revision for one in heard)])
    return Plan(
        asked.node,
        asked.own.revision,
        asked.own.epoch,
        asked.primary,
        lost,
        kept,
        newest,
        tuple(_told(asked, lost, kept, newest)),
        asked.own_broker,
    )


def _unfit(asked: Asked) -> str | None:
    here, node = asked.here, asked.node
    if here.state in ("out_of_sync", "removed") or here.part == "store":
        return f"{node} is {here.state}: {here.reason}. Nothing can be begun with what it holds: take another node"
    if asked.blocked is not None:
        return f"{asked.blocked}: they are not lost. Make room, and promote without --force"
    if asked.stored is not None:
        return (
            f"the database of {node} has revision {asked.stored} by now, {node} only {asked.own.revision}: it takes "
            "that from there within seconds, and nothing of it is lost. Ask again"
        )
    if asked.waits:
        why = asked.broker_problem or here.reason or "nobody knows why"
        return (
            f"this log was begun by force already, and waits for its broker ({why}). Nothing more has to be given up: "
            "look at RabbitMQ (`provider broker status`, `systemctl status rabbitmq-server bellwether-broker`)"
        )
    if asked.broker_problem is not None:
        return asked.broker_problem
    return None


def _others(asked: Asked) -> str | None:
    """What another member that answers makes of it."""
    there = {name: answer for name, answer in sorted(asked.answers.items()) if answer is not None}
    for name, answer in there.items():
        word = answer.word
        if word.generation != asked.own.generation:
            if word.epoch > asked.own.epoch:
                return f"{name} follows another log, begun later: {asked.node} takes its state by itself, in seconds"
            return f"{name} follows another log, begun earlier, and has not noticed yet: wait some seconds, ask again"
        if answer.reads:
            return (
                f"{name} answers, and reads the log to its end: it is not lost. Promote there, without --force: "
                f"nothing is lost then. And look at the broker and the network of {asked.node}"
            )
    for name, answer in there.items():
        if answer.word.reached > asked.own.reached and not answer.word.lost:
            return (
                f"{name} answers, and is at revision {answer.word.revision}, {asked.node} only at "
                f"{asked.own.revision}: run this on {name}, or more is lost than has to be"
            )
        # One that had not read the last of its own entries yet holds less, and would send people back to this node.
        if answer.primary and not answer.word.lost and answer.word.reached >= asked.own.reached:
            return f"{name} answers, and was the primary: it holds all that it acknowledged. Run this on {name}"
    return None


def _told(asked: Asked, lost: Sequence[str], kept: Sequence[str], newest: int) -> list[str]:
    own = asked.own.revision
    holds = f"{asked.node} holds everything up to revision {own} (epoch {asked.own.epoch})"
    if asked.primary == asked.node:
        lines = [f"{holds}. It was the primary: all that it acknowledged is there."]
    else:
        lines = [f"{holds}. The primary was {asked.primary}."]
    by_name = {one.name: one for one in asked.heard}
    for name in lost:
        one = by_name.get(name)
        if one is None:
            lines.append(f"{name} does not answer, and was not heard of since {asked.node} was started.")
        else:
            lines.append(f"{name} does not answer; last heard of {_time(one.at_ms)}, at revision {one.revision}.")
    agent = asked.heard_agents
    if agent is not None and agent.revision > own:
        lines.append(f"agent {agent.name} was told of revision {agent.revision}, {_time(agent.at_ms)}.")
    without = f"{listed(lost)} alone" if lost else "brokers alone"
    if newest > own:
        lines.append(f"LOST: revisions {own + 1} to {newest}, and whatever came behind them and is with {without}.")
    elif asked.primary == asked.node:
        lines.append("Nothing is known to be missing, unless another node was promoted since.")
    else:
        lines.append(
            f"LOST: whatever was acknowledged behind revision {own}, and is with {without}. How much, nobody knows."
        )
    if kept:
        if len(kept) == 1:
            lines.append(f"{kept[0]} answers, holds no more, and goes on with {asked.node} by itself.")
        else:
            lines.append(f"{listed(kept)} answer, hold no more, and go on with {asked.node} by themselves.")
    return lines


def _time(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
