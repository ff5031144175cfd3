"""One detached process: start, stop, kill, suspend; and the record by which a later command finds it again.

A process is known by pid, start time and boot, never by pid alone: pids are used again, and what we did not start we do
not touch. Signals go through a pidfd, which cannot come to mean another process between the look and the shot.
"""

import contextlib
import os
import pwd
import select
import shutil
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

LONGEST_LOOK_S = 0.25


class ProcessFailed(RuntimeError):
    """A process did not start, did not become ready, or ended by itself. The text names it and tells why."""


class _Stat(NamedTuple):
    state: str
    parent: int
    started: int


@dataclass(frozen=True, slots=True)
class Process:
    """A process that we started. Any thread may use it; equal where it is the same process."""

    pid: int
    identity: str
    """Boot and start time; with the pid it names one process for ever."""

    @classmethod
    def find(cls, pid: int) -> Self:
        """The process that has `pid` now. Raises `ProcessLookupError`."""
        stat = _stat(pid)
        if stat is None or stat.state in "ZX":
            raise ProcessLookupError(f"no process {pid}")
        return cls(pid, _identity(stat))

    @property
    def alive(self) -> bool:
        """Whether it runs (also when suspended). A zombie does not; our own is reaped here."""
        stat = _stat(self.pid)
        if stat is None or _identity(stat) != self.identity:
            return False
        if stat.state in "ZX":
            self._reap()
            return False
        return True

    @property
    def suspended(self) -> bool:
        stat = _stat(self.pid)
        return stat is not None and stat.state in "Tt" and _identity(stat) == self.identity

    def stop(self, *, grace_s: float = 15.0) -> None:
        """End it: SIGTERM, and SIGKILL when it still runs after `grace_s` seconds. Returns when it is gone."""
        self.signal(signal.SIGTERM)
        self.signal(signal.SIGCONT)  # one that is suspended could not hear us
        if not self.wait(grace_s):
            self.kill()

    def kill(self) -> None:
        """`kill -9`. Returns when it is gone. Raises `ProcessFailed` should the kernel not let go of it in 10 s."""
        self.signal(signal.SIGKILL)
        if not self.wait(10.0):
            raise ProcessFailed(f"process {self.pid} survives SIGKILL; it waits for a disk or a debugger")

    def suspend(self) -> None:
        """SIGSTOP: it hangs, connections stay open. Returns when each of its threads has stopped: on a busy machine
        they go on for a while. Raises `ProcessFailed` should one not stop in 10 s.
        """
        self.signal(signal.SIGSTOP)
        wait_until(
            lambda: not self.alive or all(state in "TtZX" for state in _thread_states(self.pid)),
            timeout_s=10.0,
            what=f"process {self.pid} goes on although it is suspended",
        )

    def resume(self) -> None:
        self.signal(signal.SIGCONT)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens where the process is gone."""
        with self._pidfd() as descriptor:
            if descriptor is not None:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(descriptor, number)

    def wait(self, timeout_s: float) -> bool:
        """Wait until it has ended, all its threads too, at most `timeout_s` seconds; whether it has."""
        with self._pidfd() as descriptor:
            if descriptor is not None:
                poll = select.poll()
                poll.register(descriptor, select.POLLIN)  # said when the last thread has gone
                if not poll.poll(timeout_s * 1000):
                    return False
        return not self.alive

    @contextlib.contextmanager
    def _pidfd(self) -> Iterator[int | None]:
        """A pidfd of exactly this process; None where it is gone."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            yield None
            return
        try:
            # Looked at after the open: a later owner of the pid fails here. A zombie passes, its threads may still run.
            stat = _stat(self.pid)
            yield descriptor if stat is not None and _identity(stat) == self.identity else None
        finally:
            os.close(descriptor)

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):  # its parent was an earlier command, then init reaps it
            os.waitpid(self.pid, os.WNOHANG)


def start(
    argv: Sequence[str | Path],
    *,
    log: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    user: str | None = None,
) -> Process:
    """Start `argv` detached: in a session of its own, stdin empty, stdout and stderr appended to `log`.

    `argv[0]` is looked up in `PATH` and in the sbin directories. `env` replaces the environment (see `environment`).
    `user` is who it runs as, which only root can choose; the log is that user's then. Each step before the program is
    an exec, so the pid is the program's own. Raises `ProcessFailed` where there is no such program.
    """
    program = find_program(str(argv[0]))
    log.parent.mkdir(parents=True, exist_ok=True)
    command = as_user(user, [program, *map(str, argv[1:])])
    if user is not None and cwd is None:
        cwd = Path("/")  # where we are may be closed to others
    if cwd is not None:  # posix_spawn knows no working directory
        command = ["/usr/bin/env", f"--chdir={cwd}", *command]
    output = _open_log(log, user)
    try:
        pid = os.posix_spawn(
            command[0],
            command,
            environment(user) if env is None else env,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, output, 1),
                (os.POSIX_SPAWN_DUP2, output, 2),
            ],
            setsid=True,
            setsigmask=[],
            setsigdef=[signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGHUP],
        )
    finally:
        os.close(output)
    stat = _stat(pid)
    if stat is None:  # cannot be while we have not waited for it
        raise ProcessFailed(f"{program} was gone at once; see {log}")
    return Process(pid, _identity(stat))


def _open_log(log: Path, user: str | None) -> int:
    """A descriptor that appends. Opened by us: a link that the directory's owner may have put there is not followed."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    if user is None:
        return os.open(log, flags, 0o600)
    descriptor = os.open(log, flags | os.O_NOFOLLOW, 0o600)
    found = pwd.getpwnam(user)
    os.fchown(descriptor, found.pw_uid, found.pw_gid)
    return descriptor


def as_user(user: str | None, argv: Sequence[str | Path]) -> list[str]:
    """`argv`, run by `user` and unable to become anybody else. None: as whoever runs it."""
    command = list(map(str, argv))
    if user is None:
        return command
    found = pwd.getpwnam(user)
    identity = [f"--reuid={found.pw_uid}", f"--regid={found.pw_gid}", "--init-groups", "--no-new-privs"]
    return [find_program("setpriv"), *identity, "--", *command]


def environment(user: str | None = None, **extra: str) -> dict[str, str]:
    """A small environment for servers: nothing of the caller's virtual environment or locale reaches them."""
    if user is None:
        kept = {name: os.environ[name] for name in ("HOME", "USER", "LOGNAME", "TMPDIR") if name in os.environ}
    else:
        kept = {"HOME": "/nonexistent", "USER": user, "LOGNAME": user}
    return {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8", "PYTHONSAFEPATH": "1"} | kept | extra


def find_program(name: str) -> str:
    """The absolute path of a program; sbin is searched too, it is not in every user's PATH. Raises `ProcessFailed`."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])
    found = shutil.which(name, path=path)
    if found is None:
        raise ProcessFailed(f"{name} is not installed")
    return str(Path(found).absolute())


def wait_until(condition: Callable[[], object], *, timeout_s: float, what: str, process: Process | None = None) -> None:
    """Ask `condition` until it is true. Raises `ProcessFailed` after `timeout_s` seconds, or once `process` has ended.

    Between two looks it waits for the end of `process`, so that a server that dies is known at once.
    """
    deadline = time.monotonic() + timeout_s
    pause_s = 0.02
    while not condition():
        if process is not None and not process.alive:
            raise ProcessFailed(f"{what}: process {process.pid} ended by itself")
        if time.monotonic() > deadline:
            raise ProcessFailed(f"{what}: not within {timeout_s:g} s")
        if process is None:
            time.sleep(pause_s)
        else:
            process.wait(pause_s)
        pause_s = min(LONGEST_LOOK_S, pause_s * 1.5)


def tail(log: Path, lines: int = 15) -> str:
    """The last lines of a log; empty where there is none."""
    try:
        with log.open(encoding="utf-8", errors="replace") as file:
            return "".join(deque(file, maxlen=lines)).rstrip()
    except FileNotFoundError:
        return ""


def children(pid: int) -> list[int]:
    """The direct children of `pid`: behind a wrapper script, the real process."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            stat = _stat(int(entry.name))
            if stat is not None and stat.parent == pid:
                found.append(int(entry.name))
    return found


def _stat(pid: int) -> _Stat | None:
    """What we need of /proc/PID/stat, see proc(5); None where there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text[text.rindex(")") + 2 :].split()  # the name before it may hold spaces and brackets
    return _Stat(fields[0], int(fields[1]), int(fields[19]))


def _thread_states(pid: int) -> list[str]:
    """The state of each thread, see /proc/PID/task in proc(5)."""
    states = []
    for file in Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            text = file.read_text()
            states.append(text[text.rindex(")") + 2])
    return states


def _identity(stat: _Stat) -> str:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}/{stat.started}"
