"""status.json: what `agent status` shows. Written by the daemon, beside its configuration, whenever it changes."""

import json
import os
from pathlib import Path
from typing import Any

from agent.placement import Placement
from agent.session import Session
from shared.files import write_atomically
from shared.logs import log
from shared.messages import ObservedInstance, now_text

_ENDED = ("Z", "X")
"""States of processes that have ended, and were not yet taken note of by their parents."""


class StatusFile:
    """Written from one thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._started = now_text()
        self._last: dict[str, Any] = {}
        self._why = self._why_since = ""

    def update(self, session: Session, placement: Placement, file_error: str | None) -> None:
        """Write what changed since the last call, if anything."""
        if placement.why != self._why:
            self._why, self._why_since = placement.why, now_text()
        content = {
            "state": "running",
            "pid": os.getpid(),
            "pid_started": process_start(os.getpid()),
            "started": self._started,
            "session": session.session,
            "endpoint": session.endpoint,
            "preferred_endpoint": placement.preferred,
            "why": self._why,
            "why_since": self._why_since,
            "epoch": session.broker.epoch,
            "primary": session.broker.primary,
            "revision": session.revision,
            "broker_file_error": file_error,
            "skipped": dict(session.skipped),
            "instances": [_instance(observed) for observed in session.observed_instances],
        }
        if content != self._last:
            self._write(content)

    def stopped(self) -> None:
        """Say that the daemon has ended by itself."""
        self._write(self._last | {"state": "stopped", "endpoint": None})

    def _write(self, content: dict[str, Any]) -> None:
        self._last = content
        try:
            write_atomically(self._path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
        except OSError as error:
            log(file=self._path).warning("not written: {}", error)


def read_status(path: Path) -> dict[str, Any] | None:
    """What the daemon last wrote, with `state` as it is now: `stopped` where that process is gone.

    None where there is no such file, or none that can be read.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        pid, started = int(content["pid"]), content["pid_started"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if content.get("state") == "running" and process_start(pid) != started:
        content |= {"state": "stopped", "endpoint": None}
    return dict(content)


def process_start(pid: int) -> int | None:
    """When process `pid` was started, in clock ticks since boot (proc(5)); None where there is none.

    With it a pid is not mistaken for a later process that got the same number.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    fields = text[text.rindex(")") + 2 :].split()
    return int(fields[19]) if fields[0] not in _ENDED else None


def _instance(observed: ObservedInstance) -> dict[str, Any]:
    results = [*observed.database_results, *observed.account_results]
    return {
        "id": observed.id,
        "engine": observed.engine,
        "state": observed.state,
        "message": observed.message,
        "version": observed.version,
        "role": observed.role,
        "read_only": observed.read_only,
        "databases": len(observed.databases),
        "accounts": len(observed.accounts),
        "failed": [f"{result.name}: {result.message}" for result in results if result.phase == "failed"],
    }
