"""The hosts' common root file system: made once by `deploy/appliance/build`, kept, and laid under each host's own disk.

Two layers, as the build has them. The lower one (Debian's packages, Python's libraries; minutes) is kept under the key
that the build gives for it; the upper one (this project; seconds) under a hash of the project's files. So whoever tests
a change of the project waits for seconds, and for nothing when nothing has changed.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

PROJECT = Path(__file__).parents[2]
BUILD = PROJECT / "deploy/appliance/build"
CACHE = Path("/var/cache/bellwether-testbed")
ROLES = ("provider", "database")
OPTIONS = ("--role", "provider", "--role", "database", "--package", "libfaketime")
UNUSED_S = 3 * 86_400.0
"""What nobody used for so long is deleted."""

# What does nothing for a test but cost, or would meddle with what the bed gives the host.
MASKED = (
    "systemd-firstboot.service", "systemd-networkd.service", "systemd-networkd.socket", "systemd-resolved.service",
    "networking.service", "nftables.service", "console-getty.service", "getty.target", "ldconfig.service",
    "systemd-journal-catalog-update.service", "systemd-update-done.service", "e2scrub_all.timer",
    "e2scrub_reap.service", "fstrim.timer", "apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer",
    "man-db.timer", "systemd-networkd-wait-online.service", "chrony.service", "chrony-wait.service",
)  # fmt: skip


class BuildFailed(RuntimeError):
    """The root file system could not be made. The text has the build's last words."""


def layers(role: str) -> list[Path]:
    """The directories that make a host of that role, uppermost first. Made where they are not there yet; two processes
    at a time make each only once. Raises `BuildFailed`, `OSError`."""
    base = CACHE / f"base-{_said('--base-key')}"
    make(base, lambda directory: _build("--base", directory))
    project = CACHE / f"{role}-{_project_key(base)}"
    make(project, lambda directory: _build_over(base, directory, role))
    _forget({base, project})
    return [project, base]


def own_layer(directory: Path) -> Path:
    """What the bed itself wants on each host: few units, journals that survive a power cut, no names but its own."""
    units = directory / "etc/systemd/system"
    units.mkdir(parents=True)
    for unit in MASKED:
        (units / unit).symlink_to("/dev/null")
    (directory / "var/log/journal").mkdir(parents=True)
    (directory / "etc/resolv.conf").write_text("")
    (directory / "etc/systemd/journald.conf.d").mkdir(parents=True)
    journal = "[Journal]\nStorage=persistent\nSystemMaxUse=64M\nSyncIntervalSec=1s\nRateLimitIntervalSec=0\n"
    (directory / "etc/systemd/journald.conf.d/zz-bed.conf").write_text(journal)
    return directory


def make(target: Path, build: Callable[[Path], None]) -> None:
    """Fills a directory beside `target`, which is in the cache, and renames it, so that what is there is whole. Nothing
    is built where it is there; two processes at a time make it only once."""
    CACHE.mkdir(mode=0o755, parents=True, exist_ok=True)
    if not target.exists():
        with _alone(target.name):
            if not target.exists():
                _make(target, build)
    os.utime(target)


def _make(target: Path, build: Callable[[Path], None]) -> None:
    for left in target.parent.glob(f"making-{target.name}*"):  # of an interrupted build
        shutil.rmtree(left)
    new = target.parent / f"making-{target.name}"
    new.mkdir()
    new.chmod(0o755)
    build(new)
    new.rename(target)


def _build(layer: str, directory: Path, *options: str) -> None:
    run([str(BUILD), layer, *(options or OPTIONS), str(directory)])


def _build_over(base: Path, upper: Path, role: str) -> None:
    """The project layer alone: built into an overlay whose lower directory is `base`. In a mount namespace of its own,
    so that nothing stays mounted whatever happens."""
    work = upper.with_name(f"{upper.name}-work")
    merged = upper.with_name(f"{upper.name}-merged")
    for directory in (work, merged):
        directory.mkdir()
    mount = f"mount -t overlay overlay -o lowerdir={base},upperdir={upper},workdir={work} {merged}"
    build = f"{BUILD} --project --role {role} {merged}"
    run(["unshare", "--mount", "--propagation=private", "sh", "-ec", f"{mount}\n{build}"])
    for directory in (work, merged):
        shutil.rmtree(directory)


def run(argv: list[str]) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, errors="replace", check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise BuildFailed(f"{' '.join(argv)}: {(done.stdout + done.stderr)[-3000:]}")


def _said(option: str) -> str:
    done = subprocess.run([str(BUILD), option, *OPTIONS], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _project_key(base: Path) -> str:
    """A hash of all that the upper layer is made of."""
    found = hashlib.sha256(base.name.encode())
    for top in ("provider", "agent", "shared", "deploy", "pyproject.toml", "constraints.txt"):
        path = PROJECT / top
        files = [path] if path.is_file() else sorted(path.rglob("*"))
        for file in files:
            if file.is_file() and "__pycache__" not in file.parts:
                found.update(f"{file.relative_to(PROJECT)} {file.stat().st_mode:o}\n".encode())
                found.update(file.read_bytes())
    return found.hexdigest()[:32]


def _forget(needed: set[Path]) -> None:
    """Deletes layers that nobody has used for long, and what builds left that were interrupted as long ago. By the time
    of change of the inode: what was unpacked a moment ago has the date that its archive gives it."""
    for path in CACHE.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if path in needed or time.time() - path.stat().st_ctime < UNUSED_S:
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


@contextlib.contextmanager
def _alone(name: str) -> Iterator[None]:
    """One process at a time makes what has that name."""
    descriptor = os.open(CACHE / f"{name}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
