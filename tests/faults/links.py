"""Links between the members of one machine, cut by the kernel: both ways or one way, or with packets that
are lost or late.

Each member has a control group. The connections that it opens are marked with its number (conntrack), and what belongs
to a marked connection is dropped, or held for a while, by mark, port and direction: so the link from p2 to the broker
can be cut while that from p1 stays. Clients have no mark and are always heard. All of it is in a network namespace of
our own.

It needs root, and what `tests/faults/alone` has made (`available`).
"""

import fcntl
import os
import secrets
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from localcluster.process import ProcessFailed

from tests.faults.delays import Delay
from tests.faults.disks import PRIVATE

GROUPS = Path("/sys/fs/cgroup")
"""Where nft looks for control groups. In our mount namespace it is the unified hierarchy."""
_TABLE, _GROUP = "bellwether_faults", "bellwether-faults"
_OLD_S = 86_400.0
SIOCSIFFLAGS, IFF_UP = 0x8914, 0x1  # netdevice(7)


@dataclass(frozen=True, slots=True)
class Cut:
    """What `member` sends to servers at `ports` (none: at any) is lost, or what they answer, or both; `percent` of it.

    With `visits`, so is what members other than it send to `ports`. With `late_s` nothing is lost: all of it arrives so
    many seconds later.
    """

    member: str
    ports: tuple[int, ...] = ()
    asked: bool = True
    answered: bool = True
    percent: int = 100
    visits: bool = False
    late_s: float = 0.0


def available() -> str | None:
    """Why links cannot be cut here; None where they can."""
    if PRIVATE not in os.environ:
        return "there is no network namespace of our own"
    if not _installed("nft"):
        return "nft is not installed"
    try:
        unify()
        probe = GROUPS / f"{_GROUP}-probe-{secrets.token_hex(3)}"
        probe.mkdir(exist_ok=True)
        _apply([f'socket cgroupv2 level 1 "{probe.name}" ct mark set 1'], ["ct mark 1 ct direction reply drop"])
        _apply([], [])
        probe.rmdir()
    except (OSError, ProcessFailed) as error:
        return f"this machine cannot: {error}"
    return None


def too_prompt() -> str | None:
    """Why nothing can arrive late here; None where it can."""
    if PRIVATE not in os.environ:
        return "there is no network namespace of our own"
    if not _installed("iptables-restore"):
        return "iptables is not installed"
    try:
        delay = Delay(0.0)
        try:
            _hold([f"-p tcp -m connmark --mark 1 -m conntrack --ctdir REPLY --sport 1 {_to(delay)}"])
            _hold([])
        finally:
            delay.end()
    except (OSError, ProcessFailed) as error:
        return f"this machine cannot: {error}"
    return None


def _installed(program: str) -> bool:
    return shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is not None


def loopback() -> None:
    """In a network namespace of our own nobody else does it: 127.0.0.1 is there."""
    if PRIVATE in os.environ:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))


def unify() -> None:
    """The unified hierarchy is where nft looks for it. Raises `ProcessFailed`."""
    if not (GROUPS / "cgroup.procs").exists():
        _run("mount", "-t", "cgroup2", "none", str(GROUPS))
    for group in GROUPS.glob(f"{_GROUP}-*"):  # of commands that were killed: groups alone outlive them
        if group.stat().st_mtime < time.time() - _OLD_S:
            with suppress(OSError):
                group.rmdir()


class Links:
    """The links of all members. Any thread."""

    def __init__(self, mark: str) -> None:
        """`mark` tells the groups of this cluster from those of others on the machine."""
        self._prefix = f"{_GROUP}-{mark}"
        self._lock = threading.Lock()
        self._members: dict[str, int] = {}
        self._cuts: list[tuple[Cut, Delay | None]] = []
        self._holding = False

    def group(self, member: str) -> Path:
        """The control group that the member is to be in before it opens a connection."""
        with self._lock:
            number = self._members.setdefault(member, len(self._members) + 1)
            made = GROUPS / f"{self._prefix}-{number}"
            made.mkdir(exist_ok=True)
            self._change()
        return made

    def cut(self, cut: Cut) -> None:
        with self._lock:
            self._cuts.append((cut, Delay(cut.late_s) if cut.late_s else None))
            self._change()

    def mend(self, cut: Cut) -> None:
        """What is on its way arrives now."""
        with self._lock:
            self._mend([one for one in self._cuts if one[0] == cut][:1])

    def mend_all(self) -> None:
        with self._lock:
            self._mend(list(self._cuts))

    def _mend(self, mended: list[tuple[Cut, Delay | None]]) -> None:
        for one in mended:
            self._cuts.remove(one)
        self._change()
        for _, delay in mended:
            if delay is not None:
                delay.end()

    def close(self) -> None:
        """All is mended. The groups go, once nobody is in them any more."""
        self.mend_all()
        for number in self._members.values():
            with suppress(OSError):
                (GROUPS / f"{self._prefix}-{number}").rmdir()

    def _change(self) -> None:
        marks = [
            f'ct mark 0 socket cgroupv2 level 1 "{self._prefix}-{number}" ct mark set {number}'
            for number in self._members.values()
        ]
        drops = [rule for cut, delay in self._cuts if delay is None for rule in _dropping(cut, self._members)]
        held = [rule for cut, delay in self._cuts if delay is not None for rule in _holding(cut, self._members, delay)]
        _apply(marks, drops)
        if held or self._holding:
            _hold(held)
            self._holding = bool(held)


def _ways(cut: Cut) -> Iterator[tuple[str, str]]:
    """Direction, and which of a packet's ports is the server's."""
    if cut.asked:
        yield "original", "dport"
    if cut.answered:
        yield "reply", "sport"


def _whose(cut: Cut, members: dict[str, int]) -> list[int]:
    """The marks of the connections that it hits."""
    number = members[cut.member]
    return [other for other in members.values() if other != number] if cut.visits else [number]


def _dropping(cut: Cut, members: dict[str, int]) -> list[str]:
    whose = ", ".join(map(str, _whose(cut, members)))
    some = "" if cut.percent == 100 else f"numgen random mod 100 < {cut.percent}"
    rules = []
    for way, port in _ways(cut):
        at = f"tcp {port} {{ {', '.join(map(str, cut.ports))} }}" if cut.ports else ""
        rules.append(f"ct mark {{ {whose} }} ct direction {way} {at} {some} drop")
    return rules


def _holding(cut: Cut, members: dict[str, int], delay: Delay) -> list[str]:
    """As `_dropping`, in the words of iptables."""
    return [
        f"-p tcp -m connmark --mark {mark} -m conntrack --ctdir {way.upper()} {at} {_to(delay)}"
        for mark in _whose(cut, members)
        for way, port in _ways(cut)
        for at in ([f"--{port} {number}" for number in cut.ports] or [""])
    ]


def _to(delay: Delay) -> str:
    return f"-j NFQUEUE --queue-num {delay.number} --queue-bypass"


def _hold(rules: Collection[str]) -> None:
    """These rules, and no others: where a packet arrives, before it may be dropped. Not by nft, whose own statement for
    it (`queue`) is in fewer kernels."""
    lines = ["*mangle", ":INPUT ACCEPT", *(f"-A INPUT {rule}" for rule in rules), "COMMIT\n"]
    _run("iptables-restore", text="\n".join(lines))


def _apply(marks: Collection[str], drops: Collection[str]) -> None:
    """These rules, and no others. Marked where a packet is sent, dropped where it arrives: who sends learns nothing."""
    rules = "\n".join(
        [
            f"table inet {_TABLE} {{}}",
            f"delete table inet {_TABLE}",
            f"table inet {_TABLE} {{",
            "chain sent { type filter hook output priority 0;",
            *marks,
            "}",
            "chain arrived { type filter hook input priority 0;",
            *drops,
            "}",
            "}\n",
        ]
    )
    _run("nft", "-f", "-", text=rules)


def _run(*command: str, text: str | None = None) -> None:
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ProcessFailed(f"{' '.join(command)}: {done.stderr.strip()}\n{text or ''}")
