"""What decides about a promotion, apart from the log itself: who may try, how long it is waited, what is said. Pure."""

from dataclasses import dataclass

from provider.states import Condition, Maintenance

WAIT_S = 30.0
"""How long a log that gives no sign is waited for, unless asked otherwise. A cluster of brokers agrees again within
2 to 6 s after it lost a member; where it is slow to notice, within 26 s."""
CATCH_UP_S = 600.0
"""How long a standby that goes on reading may take. 10,000 records a second are read."""
TELL_EVERY_S = 5.0
SLOW_S = 1.0
"""What takes longer than this is told."""


def refusal(
    node: str, here: Condition, maintenance: Maintenance | None, *, force: bool, leads: bool = False
) -> str | None:
    """Why `node` is not promoted, whatever the log says; None where it may be tried. `here`: maintenance left aside.
    `leads`: it is the primary already."""
    if here.state in ("out_of_sync", "removed") or here.part == "store":
        return f"{node} is {here.state}: {here.reason}. Promote another standby, or mend this first"
    if maintenance is not None and not force and not leads:
        why = f" ({maintenance.reason})" if maintenance.reason else ""
        return (
            f"{node} is in maintenance{why}: somebody is about to stop it. Promote another standby, or end that "
            "(`provider maintenance off`); --force promotes it all the same, and loses no write"
        )
    return None


@dataclass(slots=True)
class Patience:
    """How long it is still worth waiting. Times are monotonic seconds."""

    began_s: float
    wait_s: float
    revision: int
    moved_s: float
    """When it last came nearer to its end: a revision more."""
    told_s: float = float("-inf")
    _told: str = ""

    @classmethod
    def begin(cls, now_s: float, wait_s: float, revision: int) -> "Patience":
        return cls(now_s, wait_s, revision, now_s)

    def look(self, now_s: float, revision: int) -> bool:
        """Whether to go on waiting, now that this revision is reached."""
        if revision > self.revision:
            self.revision, self.moved_s = revision, now_s
        return now_s - self.moved_s < self.wait_s and now_s - self.began_s < max(CATCH_UP_S, self.wait_s)

    def to_tell(self, now_s: float, what: str) -> bool:
        """Whether `what` is news, or a reminder that is due."""
        if now_s - self.began_s < SLOW_S or (what == self._told and now_s - self.told_s < TELL_EVERY_S):
            return False
        self._told, self.told_s = what, now_s
        return True


@dataclass(frozen=True, slots=True)
class Awaited:
    """What is waited for: `what` in a word or two, the same as long as it is the same; `detail` with figures."""

    what: str
    detail: str


def awaited(
    here: Condition, patience: Patience, now_s: float, newest: int, *, claimed: bool, members: str | None = None
) -> Awaited:
    """What a promotion waits for that is not done yet. `newest`: the highest revision heard of; `members`: what other
    members, who were asked, are waited for."""
    patient = f"waited {now_s - patience.began_s:.0f} s; given up after {patience.wait_s:g} s without a sign"
    if here.part == "log" and here.no_room:
        return Awaited("room", f"{here.reason}: `rabbitmq-diagnostics alarms` says on which host; {patient}")
    if here.part == "log":
        return Awaited("log", f"{here.reason}; waiting for the brokers, {patient}")
    if here.part == "store":
        return Awaited("store", f"{here.reason}; {patient}")
    if members is not None:
        return Awaited("members", f"{members}; {patient}")
    left = newest - patience.revision
    if left > 0 and not claimed:
        return Awaited("catch up", f"at revision {patience.revision}, {left} to go; {patient}")
    if here.state == "syncing":
        return Awaited("catch up", f"reading the log, at revision {patience.revision}; {patient}")
    what = "the claim is" if claimed else "a record is"
    return Awaited("answer", f"{what} on its way, the brokers have not agreed on it yet; {patient}")
