"""Backups: who can open them, and what is remembered of the last ones."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from provider.core import documents as docs
from provider.core.commands.base import Plan, put
from provider.core.entries import Change
from provider.core.state import State

RECOVERY = "backup-recovery"
"""The credential for which backups are closed: user name is the recovery key's public half, the password a secret that
the cluster and the recovery key's file share."""
BACKUPS_DONE = "backup.done"
"""The setting that tells of the last backups."""


@dataclass(frozen=True, slots=True)
class PutRecoveryKey:
    """Close backups for this recovery key from now on. Those made before stay with the one that they were made for."""

    public: str
    sealed: str

    def plan(self, state: State, now: int) -> Plan:
        spec = docs.CredentialSpec(username=self.public, passwords=(self.sealed,))
        return Plan(200, ("credential", RECOVERY), (put("credential", RECOVERY, spec),))


@dataclass(frozen=True, slots=True)
class NoteBackup:
    """Remember that a backup was made, or that a scheduled one could not be. `made`: what is told of it; None: `failed`
    says why not."""

    made: Mapping[str, Any] | None
    scheduled: bool
    failed: str | None = None

    def plan(self, state: State, now: int) -> Plan:
        known = state.get("setting", BACKUPS_DONE)
        value: dict[str, Any] = dict(known.spec["value"]) if known is not None else {}
        if self.made is not None:
            value["last"] = dict(self.made)
            if self.scheduled:
                value["scheduled"] = dict(self.made)
                value.pop("failed", None)
        else:
            why = (self.failed or "")[: docs.STATUS_TEXT_MAX]
            value["failed"] = {"at": now, "revision": state.revision, "why": why}
        change = Change(kind="setting", id=BACKUPS_DONE, spec={"value": value})
        return Plan(200, ("setting", BACKUPS_DONE), (change,))


def backups_done(state: State) -> dict[str, Any]:
    """`last`, and `scheduled`: the last one that was; `failed`: why the last attempt since was none. Each may lack."""
    known = state.get("setting", BACKUPS_DONE)
    return dict(known.spec["value"]) if known is not None else {}
