"""What is wrong with backups, or open after a restore, for as long as nobody changes it: standing warnings. Pure."""

from datetime import UTC, datetime

from provider.backup import schedule
from provider.backup.review import counts
from provider.core import commands as c
from provider.core.state import State
from provider.fleet.view import View


def warnings(state: State, view: View, now_ms: int) -> list[str]:
    """At `now_ms` (Unix ms); `view` is what was heard of the agents."""
    return [*schedule.warnings(state, now_ms), *_restored(state, view)]


def _restored(state: State, view: View) -> list[str]:
    known = c.restored(state)
    if known is None:
        return []
    made = datetime.fromtimestamp(known["backup"]["at"] / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    held, unmanaged = counts(state, view)
    return [
        f"restored from the backup of {made}: {held} wishes are held until their servers are seen to match or somebody "
        f"decides, {unmanaged} databases and accounts are on servers and in no wish: `provider adopt list`, and "
        "`provider adopt done` when all is decided"
    ]
