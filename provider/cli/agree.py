"""`failover --operation promote --force`, where the log is lost: what a new one costs, and the question before it."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import typer

from provider.cli.console import fail, plain


def before(node: str, plan: Mapping[str, Any]) -> list[str]:
    """What is said before anybody is asked."""
    lost, broker = plan["lost"], plan["own_broker"]
    lines = [f"{node} cannot reach the log, and no member that answers can.", *(f"  {line}" for line in plan["told"])]
    lines.append(f"--force has {node} begin a NEW log with what it holds:")
    if broker is not None:
        lines.append(f"  RabbitMQ on this host ({broker}) starts again, empty. What it holds now is kept beside it.")
    else:
        lines.append("  the broker is not Bellwether's: a new stream is made, nothing else on it is touched. If it has")
        lines.append(
            "  only stopped, answer no, start it (empty will do), and promote without --force: nothing is lost"
        )
    if lost:
        lines.append(f"  {_and(lost)} removed for ever: if a host comes back, it has to join anew, under another name.")
    lines.append("  databases and accounts are held until their servers are seen to match: provider adopt list")
    if lost:
        lines.append(f"If {_or(lost)} can be brought back with its disk, answer no and do that: nothing is lost then.")
    return lines


def agreed(node: str, found: Mapping[str, Any], *, yes: bool, as_json: bool) -> bool:
    """Whether a person, or `yes`, agrees to it. Raises `typer.Exit` where nobody does."""
    plan = found["anew"]
    plain(f"{found['detail']}.", file=sys.stderr)
    for line in before(node, plan):
        plain(line, file=sys.stderr if as_json else None)
    if yes:
        return True
    if not sys.stdin.isatty():
        fail("there is no terminal to ask on: --yes agrees to what stands above; nothing was changed")
    without = f" without {' and '.join(plan['lost'])}" if plan["lost"] else ""
    question = f"Type yes to begin a new log on {node}{without}; anything else changes nothing"
    if str(typer.prompt(question, default="", show_default=False, err=as_json)).strip().lower() != "yes":
        fail("nothing was changed")
    return True


def tell_of(found: Mapping[str, Any]) -> None:
    """What is said afterwards: what is gone, and what is left to do."""
    plan = found["anew"]
    for line in plan["told"]:
        plain(line)
    if plan["lost"]:
        plain(f"given up, and never back under these names: {', '.join(plan['lost'])}. Join others: docs/MEMBERS.md")
    plain(f"{found['held']} databases and accounts are held until their servers are seen to match: provider adopt list")
    if found["forgotten"]:
        plain(f"They were being dropped, and are left alone now: {', '.join(found['forgotten'])}.")


def _and(names: Sequence[str]) -> str:
    return f"{names[0]} is" if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]} are"


def _or(names: Sequence[str]) -> str:
    return " or ".join(names)
