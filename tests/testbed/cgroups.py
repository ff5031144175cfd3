"""Control groups: what stops a host and what makes it slow.

Both versions are known. A machine with version 1 for the cpu has version 2 beside it, without controllers
(`/sys/fs/cgroup/unified`): freezing is always done there, the share of the cpu where its controller is. Host H of bed B
is in B/H; its own systemd makes its groups below.
"""

import select
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
PERIOD_US = 100_000


def unified() -> Path | None:
    """Where version 2 is mounted; None where it is not."""
    return next((path for path in (ROOT, ROOT / "unified") if (path / "cgroup.controllers").exists()), None)


def cpu() -> Path | None:
    """Where shares of the cpu are given: the hierarchy of version 1, else that of version 2."""
    if (ROOT / "cpu" / "cpu.cfs_quota_us").exists():
        return ROOT / "cpu"
    found = unified()
    return found if found is not None and "cpu" in (found / "cgroup.controllers").read_text().split() else None


@dataclass(frozen=True, slots=True)
class Groups:
    """The groups of one bed."""

    freezer: Path
    cpu: Path

    @classmethod
    def of(cls, name: str) -> list[Path]:
        """Where the groups of the bed `name` are, if there are any."""
        return list(dict.fromkeys(path / name for path in (unified(), cpu()) if path is not None))

    @classmethod
    def make(cls, name: str) -> "Groups":
        """Raises `OSError` where this machine does not let us."""
        freezer, slow = unified(), cpu()
        if freezer is None or slow is None:
            raise OSError("no control groups")
        for path in cls.of(name):
            path.mkdir()
            if (path / "cgroup.subtree_control").exists() and freezer == slow:
                _write(path.parent / "cgroup.subtree_control", "+cpu")
                _write(path / "cgroup.subtree_control", "+cpu")
        return cls(freezer / name, slow / name)

    @property
    def roots(self) -> Sequence[Path]:
        return list(dict.fromkeys([self.freezer, self.cpu]))

    def entering(self, host: str) -> str:
        """Shell commands by which a shell becomes part of `host`, and all that it starts."""
        paths = [root / host for root in self.roots]
        return "".join(f"mkdir -p {path}\necho 0 >{path}/cgroup.procs\n" for path in paths)

    def freeze(self, host: str, frozen: bool) -> None:
        """Stops all of the host, or lets it go on. Returns when the kernel says that it is so."""
        group = self.freezer / host
        _write(group / "cgroup.freeze", str(int(frozen)))
        events = group / "cgroup.events"
        with events.open() as file:
            poll = select.poll()
            poll.register(file, select.POLLPRI)
            while f"frozen {int(frozen)}" not in file.read():
                poll.poll(1000)
                file.seek(0)

    def limit_cpu(self, host: str, share: float | None) -> None:
        """All of the host gets at most `share` of one core; None: as much as there is."""
        group = self.cpu / host
        quota = None if share is None else max(1000, int(share * PERIOD_US))
        if (group / "cpu.cfs_quota_us").exists():
            _write(group / "cpu.cfs_period_us", str(PERIOD_US))
            _write(group / "cpu.cfs_quota_us", str(-1 if quota is None else quota))
        else:
            _write(group / "cpu.max", f"{'max' if quota is None else quota} {PERIOD_US}")


def _write(path: Path, text: str) -> None:
    path.write_text(text)
