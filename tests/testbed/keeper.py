"""Process 1 of a bed: `python keeper.py STATE CGROUP…`, in namespaces of its own (mount, network, pid).

All of a bed lives below it: hosts, mounts, links. It waits until its stdin ends, which is when the test process
closes it or dies, however it dies. Then it ends everything in its pid namespace, unmounts, and deletes the bed's
directory and control groups. Should it be killed itself, the kernel ends all the rest, and what stays on the disk is
swept by the next bed (`space.sweep`). Standard library only, so that it is there at once.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

LONGEST_S = 10.0


def main(state: Path, groups: list[Path]) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # orphans come to process 1, and nobody else buries them
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.buffer.read()
    end_processes()
    unmount(state)
    remove_groups(groups)
    shutil.rmtree(state, ignore_errors=True)


def end_processes() -> None:
    """Everybody in this pid namespace but us. Returns when they are gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        while True:  # with SIGCHLD ignored it returns when the last child is gone, by this error
            os.waitpid(-1, 0)


def unmount(state: Path) -> None:
    """What is mounted below the bed's directory, the newest first, so that loop devices are free when we are gone."""
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for point in reversed(mounts):
        if point.startswith(f"{state}/"):
            subprocess.run(["umount", "--lazy", point], check=False, capture_output=True)


def remove_groups(groups: list[Path]) -> None:
    """Control groups of the bed, leaves first. A process that has just died leaves its group a moment later."""
    deadline_s = time.monotonic() + LONGEST_S
    for group in groups:
        for directory, _, _ in os.walk(group, topdown=False):
            while Path(directory).exists() and time.monotonic() < deadline_s:
                with contextlib.suppress(OSError):
                    Path(directory).rmdir()
                    break
                time.sleep(0.01)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(group) for group in sys.argv[2:]])
