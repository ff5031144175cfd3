"""`failover --operation promote`: shows each step as the provider on this host takes it.

It is run over ssh, at night, by people whose connections break. So it ends with one plain sentence about who is primary
now, whatever happens to it; and where only its reader is gone (`| head`), the promotion goes on.
"""

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import typer

from provider.cli.agree import agreed, tell_of
from provider.cli.console import plain, print_json, unanswered
from provider.client import Broken, Client, Problem, Unreachable

SILENCE_S = 10.0
"""The provider says something every second. One that is silent for so long hangs."""
INTERRUPTED = 130
"""Exit code, as of a shell's command that was ended by SIGINT."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ELSEWHERE = "; or promote another standby, on its host"
Node = str


class Interrupted(Exception):
    """Somebody pressed Ctrl-C, or ended this command."""


def undisturbed() -> None:
    """Nothing interrupts from now on, until the end of the block that is `interruptible`. Main thread."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def interruptible() -> Iterator[None]:
    """The first SIGINT, SIGTERM or SIGHUP raises `Interrupted` within this block; after it, while things are tidied up,
    more of them change nothing. A SIGHUP that whoever began this command has it ignore (nohup) it goes on to ignore."""

    def interrupt(number: int, _frame: FrameType | None) -> None:
        undisturbed()
        raise Interrupted(signal.Signals(number).name)

    nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    heeded = [number for number in SIGNALS if not (nohup and number == signal.SIGHUP)]
    before = {number: signal.signal(number, interrupt) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def tell(show: Callable[[], None]) -> None:
    """Shows something; where it cannot be shown (nobody reads it any more, its file's disk is full), all that follows
    goes nowhere."""
    try:
        show()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


@dataclass(slots=True)
class Promoting:
    """What came of asking one provider to become primary. `steps` grow while `run` goes on."""

    node: Node
    client: Client
    steps: list[dict[str, Any]] = field(default_factory=list)
    last: dict[str, Any] = field(default_factory=dict)

    def run(
        self,
        *,
        force: bool,
        wait_s: float,
        on_step: Callable[[dict[str, Any]], None],
        accept: str | None = None,
    ) -> dict[str, Any]:
        """The last line. With `accept` a log of its own is begun. Raises `Unreachable`, `Broken`, `Problem`; what was
        begun may then go on."""
        asked: dict[str, Any] = {"operation": "promote", "node": self.node, "force": force, "wait_s": wait_s}
        if accept is not None:
            asked |= {"operation": "begin_anew", "accept": accept}
        with closing(self.client.lines("POST", "/failover", asked, silence_s=SILENCE_S)) as lines:
            for text in lines:
                self.last = json.loads(text)
                if "step" in self.last:
                    self.steps.append(self.last)
                    on_step(self.last)
        return self.last

    @property
    def claimed(self) -> bool:
        """Whether the claim may be on its way, or more: behind the survey a log is begun, which may take a while."""
        return any(step["step"] in ("barrier", "survey", "begin", "claim", "advise") for step in self.steps)


def step_text(step: dict[str, Any]) -> str:
    return f"{step['ms'] / 1000:7.3f} s  {step['step']:<8} {step['detail']}"


def promote(node: Node, client: Client, *, force: bool, yes: bool, wait_s: float, as_json: bool) -> None:
    """With `force`, where the log is lost: asks, unless `yes`, and begins another one. Raises `typer.Exit` with 1 where
    the node is not primary then."""
    promoting = Promoting(node, client)

    def shown(step: dict[str, Any]) -> None:
        if not as_json:
            tell(lambda: plain(step_text(step)))

    try:
        with interruptible():
            try:
                found = promoting.run(force=force, wait_s=wait_s, on_step=shown)
                if "anew" in found and agreed(node, found, yes=yes, as_json=as_json):
                    found = promoting.run(force=True, wait_s=wait_s, on_step=shown, accept=found["anew"]["accept"])
            except Interrupted as signalled:
                found = {"result": "interrupted", "detail": f"interrupted by {signalled}: {_now(promoting)}"}
    except Broken as error:
        found = {"result": "broken", "detail": _broken(promoting, error)}
    except (Problem, Unreachable) as error:
        if not as_json:
            raise
        detail = unanswered(error) + ELSEWHERE if isinstance(error, Unreachable) else error.detail
        found = {"result": "failed", "code": getattr(error, "answer_code", error.code), "detail": detail}
    if as_json:
        tell(lambda: print_json({"node": node, **found, "steps": promoting.steps}))
    _conclude(node, found, as_json=as_json)


def _conclude(node: Node, found: dict[str, Any], *, as_json: bool) -> None:
    if found.get("result") in ("promoted", "already_primary"):
        if not as_json:
            tell(lambda: _tell(node, found))
        return
    ended = "the provider ended the promotion without a result; see `failover --operation status`"
    plain(f"error: {found.get('detail', ended)}", file=sys.stderr)
    raise typer.Exit(INTERRUPTED if found.get("result") == "interrupted" else 1)


def _tell(node: Node, found: dict[str, Any]) -> None:
    if found["result"] == "already_primary":
        plain(f"{node} is already primary: epoch {found['epoch']}, revision {found['revision']}. Nothing was changed.")
    else:
        writes = f"Writes wait: {found['waits']}; see `provider status`" if "waits" in found else "Writes are accepted"
        plain(f"{node} is primary: epoch {found['epoch']}, revision {found['revision']}. {writes}.")
        plain(f"advised: primary {node}, brokers {', '.join(found['advice']['endpoints'])}")
    if "anew" in found:
        tell(lambda: tell_of(found))
    agents = found["agents"]
    if agents["missing"]:
        plain(
            f"not advised yet: {', '.join(agents['missing'])} ({agents['advised']} of {agents['total']} agents follow)."
        )
        plain("They are advised as soon as they are heard of again; `provider status` shows who is still missing.")


def _now(promoting: Promoting) -> str:
    """Who is primary after an interruption. The provider gives up what it had not sent yet as soon as it notices."""
    look = {"operation": "preflight", "node": promoting.node, "wait_s": 2}
    try:
        # It reads the log behind a claim that may have been made: then it is known.
        promoting.client.request("POST", "/failover", look)
        cluster = promoting.client.get("/cluster")
    except (Problem, Unreachable) as error:
        return f"who is primary now cannot be told ({error.detail}); see `failover --operation status`"
    primary, at = cluster["primary"], f"epoch {cluster['epoch']}"
    if primary == promoting.node:
        return f"{primary} is primary all the same, {at}: its claim was made already"
    if promoting.claimed:
        return f"{primary} is primary as yet, {at}, but the claim may be on its way: see `failover --operation status`"
    return f"{primary} is still primary, {at}; nothing was changed and nothing goes on"


def _broken(promoting: Promoting, error: Broken) -> str:
    may = "its claim may be on its way" if promoting.claimed else "nothing was changed, as far as this command was told"
    return (
        f"the provider on this host stopped answering ({error.detail}): {may}. See `systemctl status "
        "bellwether-provider`, then `failover --operation status`; or promote another standby, on its host"
    )
