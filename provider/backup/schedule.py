"""When backups are due, and by whom they are made: what the settings `backup.*` say. Pure but for `Backups`."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from provider.backup.content import Content
from provider.backup.making import Made, make, recovery_of, tidy
from provider.backup.port import Target
from provider.backup.targets import target_of
from provider.client import local
from provider.core import commands as c
from provider.core.state import Accepted, State
from provider.settings import Files, ProviderSettings, set_apart
from provider.trust.vault import Vault
from shared.errors import BellwetherError, Refused
from shared.logs import log

LOOK_S = 30.0
RETRY_MS = 10 * 60 * 1000
"""After a backup that could not be made."""
LATE = 2.0
"""So many times `backup.every_h` without a scheduled backup is late."""
AHEAD_MS = 10 * 60 * 1000
"""What says that it was so much later than now was told by a clock that was wrong. Less is what hosts differ by."""
LEAST_MS = 60_000
"""From one backup to the next, whatever the state says: else clocks that are wrong could make them without end, and
each would push out an older one. What a person sets does not wait."""
HOUR_MS = 3_600_000
NO_KEY = "there is no recovery key, so nobody could open a backup: make one (`provider backup key --out FILE`)"


@dataclass(frozen=True, slots=True)
class Schedule:
    """What is set. `node` None: the primary."""

    to: str
    every_h: float
    keep: int
    node: str | None
    endpoint: str | None

    @classmethod
    def of(cls, state: State) -> "Schedule | None":
        """None where no place for backups is set: then none are made by themselves."""
        to = _value(state, c.BACKUP_TO)
        if to is None:
            return None
        every_h, keep = _value(state, c.BACKUP_EVERY_H), _value(state, c.BACKUP_KEEP)
        return cls(
            to=str(to),
            every_h=float(every_h) if every_h is not None else c.BACKUP_EVERY_H_DEFAULT,
            keep=int(keep) if keep is not None else c.BACKUP_KEEP_DEFAULT,
            node=_value(state, c.BACKUP_NODE),
            endpoint=_value(state, c.BACKUP_S3_ENDPOINT),
        )

    def maker(self, state: State) -> str:
        """The node that makes them: the primary, where the one that is named is no member."""
        named = self.node is not None and state.get("node", self.node) is not None
        return self.node if named and self.node is not None else state.primary

    def due_ms(self, state: State, now_ms: int) -> int:
        """When the next one is due (Unix ms), as known at `now_ms`; 0: at once. At once also where the place is another
        one than before; after one that failed, where anything was set anew since; and where the last one was made in
        the future. What came first is told by revisions: clocks differ."""
        done = c.backups_done(state)
        last, failed = done.get("scheduled"), done.get("failed")
        due = 0
        if last is not None and last["revision"] >= _set_at(state, c.BACKUP_TO) and not _ahead(last, now_ms):
            due = last["at"] + int(self.every_h * HOUR_MS)
        if failed is None or failed.get("revision", 0) < max(_set_at(state, key) for key in _SETTINGS):
            return due
        return due if _ahead(failed, now_ms) else max(due, int(failed["at"]) + RETRY_MS)


_SETTINGS = (c.BACKUP_TO, c.BACKUP_EVERY_H, c.BACKUP_KEEP, c.BACKUP_NODE, c.BACKUP_S3_ENDPOINT)
_SET_BY_PEOPLE = frozenset({*(("setting", key) for key in _SETTINGS), ("credential", c.RECOVERY)})


def _set_at(state: State, key: str) -> int:
    """At which revision; 0: it is not set."""
    known = state.get("setting", key)
    return known.revision if known is not None else 0


def _ahead(what: Mapping[str, Any], now_ms: int) -> bool:
    return int(what["at"]) > now_ms + AHEAD_MS


def _value(state: State, key: str) -> Any:
    known = state.get("setting", key)
    return known.spec["value"] if known is not None else None


def standing(state: State, now_ms: int) -> dict[str, Any]:
    """How backups are at `now_ms`, for `GET /cluster` and `GET /backups`. Times are Unix ms."""
    schedule, done, key = Schedule.of(state), c.backups_done(state), state.get("credential", c.RECOVERY)
    return {
        "recovery_key": key.spec["username"] if key is not None else None,
        "schedule": None
        if schedule is None
        else {
            "to": schedule.to,
            "every_h": schedule.every_h,
            "keep": schedule.keep,
            "node": schedule.maker(state),
            "due_at": schedule.due_ms(state, now_ms),
        },
        "last": done.get("last"),
        "scheduled": done.get("scheduled"),
        "failed": done.get("failed"),
    }


def warnings(state: State, now_ms: int) -> list[str]:
    """What is wrong with the schedule at `now_ms` (Unix ms)."""
    schedule = Schedule.of(state)
    if schedule is None:
        return []
    if state.get("credential", c.RECOVERY) is None:
        return [f"backups are scheduled, and {NO_KEY}"]
    done = c.backups_done(state)
    last, failed = done.get("scheduled"), done.get("failed")
    why = f": {failed['why']}" if failed is not None else ""
    if last is None:
        return [f"no scheduled backup was made yet{why}"] if failed is not None else []
    age_h = (now_ms - last["at"]) / HOUR_MS
    if _ahead(last, now_ms):
        return [
            f"the last scheduled backup says that it was made {-age_h:.1f} h from now: the clock of {last['node']} was "
            f"ahead, or this node's is behind (chrony, NTP); it counts for nothing, another one is due{why}"
        ]
    if failed is not None or age_h > LATE * schedule.every_h:
        return [f"the last scheduled backup is {age_h:.1f} h old, one is due each {schedule.every_h:g} h{why}"]
    return []


class Backups:
    """One thread, which sleeps nearly always. It makes the backups that are due, on the node whose turn it is."""

    def __init__(
        self,
        settings: ProviderSettings,
        files: Files,
        vault: Vault,
        state: Callable[[], State],
        well: Callable[[], bool],
    ) -> None:
        """`well` says whether this node has read the log to its end."""
        self._settings, self._files, self._vault = settings, files, vault
        self._state, self._well = state, well
        self._stopping = False
        self._tried_ms = self._pause_ms = 0
        """When the last attempt was (Unix ms), and how long after it no other one is made, whatever the state says."""
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="backups", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """One that is being made is given some seconds; what is half-written counts for nothing."""
        self._stopping = True
        self._wake.set()
        self._thread.join(5.0)

    def applied(self, accepted: Sequence[Accepted]) -> None:
        """Engine's thread."""
        for one in accepted:
            touched = {(put.kind, put.id) for put in one.delta.put} | set(one.delta.deleted)
            if not touched.isdisjoint(_SET_BY_PEOPLE):
                self._pause_ms = 0
                self._wake.set()
            elif one.record.type == "claim":
                self._wake.set()

    def _run(self) -> None:
        while not self._stopping:
            self._wake.wait(LOOK_S)
            self._wake.clear()
            if not self._stopping:
                self.look(int(time.time() * 1000))

    def look(self, now_ms: int) -> None:
        """Makes the backup that is due at `now_ms` (Unix ms), if it is this node's turn."""
        state = self._state()
        schedule = Schedule.of(state)
        if schedule is None or schedule.maker(state) != self._settings.name or not self._well():
            return
        if state.get("credential", c.RECOVERY) is None:  # `warnings` tells of that
            return
        if now_ms < schedule.due_ms(state, now_ms) or 0 <= now_ms - self._tried_ms < self._pause_ms:
            return
        self._tried_ms, self._pause_ms = now_ms, RETRY_MS
        try:
            made, target = self._make(state, schedule)
        except (BellwetherError, OSError) as error:  # OSError: no room for what is only passing through, say
            detail = error.detail if isinstance(error, BellwetherError) else str(error)
            log(to=schedule.to, why=detail).error("the scheduled backup could not be made")
            self._note({"failed": detail if schedule.to in detail else f"{schedule.to}: {detail}"})
            return
        if self._note({"made": dict(made.noted())}):  # else another one follows soon, and must not push out older ones
            self._pause_ms = min(self._pause_ms, LEAST_MS)
            gone = tidy(target, made.name, schedule.keep)
            log(where=made.where, revision=made.revision, bytes=made.size_bytes, removed=len(gone)).info("backup made")

    def _note(self, what: dict[str, Any]) -> bool:
        """Tells the cluster what became of it; whether that could be done. From then on the state says when the next is
        due."""
        try:
            with closing(local(self._settings, self._files)) as client:
                client.request("POST", "/backups", {**what, "scheduled": True})
        except BellwetherError as error:
            log(why=error.detail).warning("what became of the backup could not be noted")
            return False
        return True

    def _make(self, state: State, schedule: Schedule) -> tuple[Made, Target]:
        recovery = recovery_of(state, self._vault)
        if recovery is None:
            raise Refused(NO_KEY)
        keys = {document.id: self._vault.key(document.id) for document in state.of("key")}
        target = target_of(schedule.to, endpoint=schedule.endpoint, credentials=self._files.s3_credentials)
        content = Content(state, keys, set_apart(self._settings))
        return make(content, self._settings.name, [recovery], target), target
