"""What is wrong with backups, or open after a restore, for as long as nobody changes it: standing warnings. Pure."""

from datetime import UTC, datetime

from provider.backup import schedule
from provider.core import commands as c
from provider.core.state import State


def warnings(state: State, now_ms: int) -> list[str]:
    """At `now_ms` (Unix ms)."""
    return [*schedule.warnings(state, now_ms), *_restored(state)]


def _restored(state: State) -> list[str]:
    """Without figures: to compare a hundred thousand wishes with what servers have takes longer than an answer may."""
    known = c.restored(state)
    if known is None:
        return []
    made = datetime.fromtimestamp(known["backup"]["at"] / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    survivor = known["backup"].get("survivor")
    if survivor is not None:
        return [
            f"begun anew with what {survivor} held ({made}); what differs on the servers waits for a decision: "
            "`provider adopt list`, and `provider adopt done` when all is decided"
        ]
    return [
        f"restored from the backup of {made}; what differs on the servers waits for a decision: `provider adopt list`, "
        "and `provider adopt done` when all is decided"
    ]
