"""The namespaces in which a bed lives, and how commands get into them.

`unshare` makes a mount, a network and a pid namespace with `keeper.py` as process 1. /run is a file system of the
bed's own there. Nothing of it reaches the machine: no address, no mount; no process outlives the bed. See keeper.py
for the end.
"""

import contextlib
import ctypes
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tests.testbed import cgroups, keeper

PREFIX = "bwbed-"
COMMAND_S = 60.0
INOTIFY_INSTANCES = 2048
CLONE_NEWNET = 0x4000_0000
PATHS = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class CommandFailed(AssertionError):
    """A command that had to succeed did not."""


@dataclass(frozen=True, slots=True)
class Said:
    """How a command ended, and what it printed."""

    command: str
    code: int
    out: str
    err: str

    def ok(self) -> "Said":
        """Itself. Raises `CommandFailed` where the exit code is not 0."""
        if self.code:
            raise CommandFailed(f"{self.command}: exit code {self.code}\n{self.out}{self.err}")
        return self


class Space:
    """A running keeper. `state` is the bed's directory, the same path inside and outside. Any thread may use it."""

    def __init__(self) -> None:
        """Raises `OSError`, `CommandFailed` where this machine cannot make it (see `machine.why_not`)."""
        sweep()
        raise_limits()
        self.state = Path(tempfile.mkdtemp(prefix=PREFIX))
        self._lock: int | None = _locked(self.state)
        self.groups = cgroups.Groups.make(self.state.name)
        namespaces = ["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation=private"]
        program = [sys.executable, "-I", keeper.__file__, str(self.state), *map(str, self.groups.roots)]
        self._unshare = subprocess.Popen(
            ["unshare", *namespaces, *program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the test process alone
        )
        assert self._unshare.stdout is not None
        if self._unshare.stdout.readline() != b"ready\n":
            raise CommandFailed("no namespaces: unshare failed, its message is above")
        self.pid = _only_child(self._unshare.pid)
        self.run("mount -t tmpfs -o mode=755 bed /run && mkdir /run/netns && ip link set lo up")

    def command(self, argv: Sequence[str | Path]) -> list[str]:
        """`argv`, to be run within the bed."""
        target = str(self.pid)
        return ["nsenter", "--target", target, "--mount", "--net", "--pid", "--", *map(str, argv)]

    def run(self, script: str, *, data: str = "", timeout_s: float = COMMAND_S) -> Said:
        """A shell script within the bed, `data` on its stdin. Raises `CommandFailed` where a command of it fails."""
        return run(self.command(["sh", "-ec", script]), name=script, data=data, timeout_s=timeout_s).ok()

    @contextlib.contextmanager
    def network_of(self, name: str) -> Iterator[None]:
        """Sockets that this thread makes in the block belong to the network namespace `name` of the bed."""
        with Path("/proc/thread-self/ns/net").open("rb") as home, self._netns(name) as there:
            _setns(there.fileno())
            try:
                yield
            finally:
                _setns(home.fileno())

    def _netns(self, name: str) -> IO[bytes]:
        return Path(f"/proc/{self.pid}/root/run/netns/{name}").open("rb")

    def close(self) -> None:
        """End everything in it. Returns when nothing is left. Again does no harm."""
        assert self._unshare.stdin is not None and self._unshare.stdout is not None
        self._unshare.stdin.close()
        self._unshare.wait()
        self._unshare.stdout.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def run(argv: Sequence[str], *, name: str, data: str | None = None, timeout_s: float = COMMAND_S, **more: Any) -> Said:
    """Runs a command to its end. Raises `subprocess.TimeoutExpired`."""
    done = subprocess.run(
        argv,
        input=data or "",
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=timeout_s,
        cwd="/",
        env={"PATH": PATHS, "LANG": "C.UTF-8", "HOME": "/root"},
        **more,
    )
    return Said(name, done.returncode, done.stdout, done.stderr)


def sweep() -> None:
    """Deletes what beds left whose keeper was killed. Their lock is free: nobody who lives has them."""
    for state in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(BlockingIOError, FileNotFoundError, NotADirectoryError):
            os.close(_locked(state))
            keeper.remove_groups(cgroups.Groups.of(state.name))
            shutil.rmtree(state, ignore_errors=True)


def raise_limits() -> None:
    """Makes room for inotify: systemd takes ten a host, and the kernel counts those of all hosts as this machine's
    root's, of which it allows 128. The one thing that a bed changes on the machine: a limit, until the next boot."""
    limit = Path("/proc/sys/fs/inotify/max_user_instances")
    if int(limit.read_text()) < INOTIFY_INSTANCES:
        limit.write_text(str(INOTIFY_INSTANCES))


def _locked(state: Path) -> int:
    """The descriptor of the bed's lock file. Raises `BlockingIOError` where a living process has it."""
    descriptor = os.open(state / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    return descriptor


def _only_child(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


_libc = ctypes.CDLL(None, use_errno=True)


def _setns(descriptor: int) -> None:
    if _libc.setns(descriptor, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")
