"""Runs a program under the restrictions of a systemd unit, where there is no systemd to do it.

It reads the unit and does what systemd would: a mount namespace (ProtectSystem=, ProtectHome=,
PrivateTmp=, PrivateDevices=, ProtectProc=, ProcSubset=), the user without capabilities, a user namespace, filters of
system calls (SystemCallFilter=, RestrictAddressFamilies=, RestrictNamespaces=, MemoryDenyWriteExecute=).

As a program it is the last step before the service: it loads the filters and becomes what its arguments say.
"""

import ctypes
import json
import mmap
import os
import shlex
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WITHOUT_RIGHTS = ("--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all")

_ALLOW, _EPERM, _EAFNOSUPPORT, _ENOSYS = 0x7FFF0000, 0x00050001, 0x00050000 | 97, 0x00050000 | 38
_EQ, _MASKED_EQ = 4, 7
_FAMILIES = {"AF_UNIX": 1, "AF_INET": 2, "AF_INET6": 10}
_FAMILIES_END = 46
_NAMESPACES = (0x00000080, 0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000)


def read_unit(path: Path) -> dict[str, list[str]]:
    """The settings of `[Service]`, each with all its values in order."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    section = ""
    for raw in path.read_text(encoding="utf-8").splitlines():
        line = raw.strip()
        if line.startswith("["):
            section = line
        elif line and not line.startswith("#") and section == "[Service]":
            key, _, value = line.partition("=")
            found[key].append(value)
    return dict(found)


def available() -> str | None:
    """Why it cannot be done on this machine; None where it can."""
    if os.geteuid() != 0:
        return "only root can make the restrictions that systemd makes"
    try:
        ctypes.CDLL("libseccomp.so.2")
    except OSError:
        return "libseccomp is not there"
    tried = subprocess.run(
        ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, check=False
    )
    if tried.returncode != 0:
        return "this machine allows no mount namespaces"
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *WITHOUT_RIGHTS]
    nobody += ["unshare", "--user", "--map-user=65534", "--map-group=65534", sys.executable, "-c", ""]
    if subprocess.run(nobody, capture_output=True, check=False, cwd="/").returncode != 0:
        return f"other users cannot run {sys.executable}: remove .venv, and tests/run makes one that they can"
    return None


def command(unit: Mapping[str, Sequence[str]], argv: Sequence[str | Path], writable: Sequence[Path]) -> list[str]:
    """`argv` as the unit's user under the unit's restrictions; `writable` instead of the directories that it names."""
    user = unit["User"][-1]
    identity = [f"--reuid={user}", f"--regid={unit['Group'][-1]}", "--init-groups", "--no-new-privs"]
    identity += WITHOUT_RIGHTS
    program = [sys.executable, __file__, json.dumps(_filters(unit)), *map(str, argv)]
    namespace = ["unshare", "--user", f"--map-user={user}", f"--map-group={unit['Group'][-1]}"]
    inner = ["setpriv", *identity, *(namespace if unit["PrivateUsers"] == ["yes"] else []), *program]
    script = [
        *_mounts(unit, writable),
        "cd /",
        "ulimit -c 0",
        f"umask {unit['UMask'][-1]}",
        f"exec {shlex.join(inner)}",
    ]
    return ["unshare", "--mount", "--propagation=private", "sh", "-ec", "\n".join(script)]


def _mounts(unit: Mapping[str, Sequence[str]], writable: Sequence[Path]) -> list[str]:
    script = [f"mount --bind {shlex.quote(str(path))} {shlex.quote(str(path))}" for path in writable]
    keep = [*map(str, writable), "/dev", "/proc", "/tmp", "/var/tmp"]
    if unit["ProtectSystem"] == ["strict"]:
        needed = " ".join(f"{shlex.quote(path)}|{shlex.quote(path)}/*" for path in keep)
        script.append(
            "while read -r _ _ _ _ where _; do case $where in "
            + needed.replace(" ", "|")
            + ") ;; *) mount -o remount,bind,ro $where 2>/dev/null || true ;; esac; done </proc/self/mountinfo"
        )
    programs = Path(sys.prefix).resolve(), Path(sys.executable).resolve(), Path(__file__).resolve()

    def hides_programs(directory: str) -> bool:
        return any(path.is_relative_to(directory) for path in programs)

    if unit["PrivateTmp"] == ["yes"]:
        script += ["mount -t tmpfs -o mode=1777 tmpfs /tmp", "mount -t tmpfs -o mode=1777 tmpfs /var/tmp"]
        if hides_programs("/tmp"):  # a clone there: as a unit would, had it been installed elsewhere
            root, aside = shlex.quote(str(ROOT)), shlex.quote(str(writable[0] / ".programs"))
            script[len(writable) : len(writable)] = [f"mkdir -p {aside}", f"mount --bind {root} {aside}"]
            script += [f"mkdir -p {root}", f"mount --bind {aside} {root}", f"umount -l {aside}"]
    if unit["ProtectHome"] == ["yes"]:
        homes = (home for home in ("/home", "/root", "/run/user") if Path(home).is_dir() and not hides_programs(home))
        script += [f"mount -t tmpfs -o mode=000,ro tmpfs {home}" for home in homes]
    if unit["PrivateDevices"] == ["yes"]:
        devices = ("null", "zero", "full", "random", "urandom", "tty")
        script += ["mkdir /tmp/dev", "mount -t tmpfs -o mode=755 tmpfs /tmp/dev"]
        script += [f"touch /tmp/dev/{name} && mount --bind /dev/{name} /tmp/dev/{name}" for name in devices]
        script += ["mount --rbind /tmp/dev /dev", "umount -l /tmp/dev", "rmdir /tmp/dev"]
    if unit["ProtectProc"] == ["invisible"]:
        script.append("mount -t proc -o hidepid=invisible,subset=pid proc /proc")
    return script


# ── system calls ──


def _filters(unit: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    allowed: set[str] = set()
    for line in unit["SystemCallFilter"]:
        names = {name for word in line.removeprefix("~").split() for name in _expand(word)}
        allowed = allowed - names if line.startswith("~") else allowed | names
    families = [str(_FAMILIES[name]) for name in unit["RestrictAddressFamilies"][-1].split()]
    return {"allowed": sorted(allowed), "families": families}


def _expand(word: str) -> set[str]:
    """The system calls of a group, as this systemd knows it."""
    if not word.startswith("@"):
        return {word}
    told = subprocess.run(
        ["systemd-analyze", "syscall-filter", "--no-pager", word], capture_output=True, text=True, check=True
    )
    lines = [line.strip() for line in told.stdout.splitlines()[1:]]
    return {name for line in lines if line and not line.startswith("#") for name in _expand(line)}


class _Argument(ctypes.Structure):
    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


class _Filter:
    """One filter; loaded ones add up, and the strictest answer counts."""

    def __init__(self, default: int) -> None:
        self._library = ctypes.CDLL("libseccomp.so.2")
        self._library.seccomp_init.restype = ctypes.c_void_p
        self._context = ctypes.c_void_p(self._library.seccomp_init(ctypes.c_uint32(default)))

    def rule(self, action: int, name: str, *arguments: tuple[int, int, int, int]) -> None:
        number = self._library.seccomp_syscall_resolve_name(name.encode())
        if number < 0:  # not on this machine
            return
        array = (_Argument * len(arguments))(*(_Argument(*one) for one in arguments))
        done = self._library.seccomp_rule_add_array(
            self._context, ctypes.c_uint32(action), number, len(arguments), array
        )
        if done != 0:
            raise OSError(-done, f"seccomp rule for {name}")

    def load(self) -> None:
        done = self._library.seccomp_load(self._context)
        if done != 0:
            raise OSError(-done, "seccomp_load")


def _load(filters: Mapping[str, Sequence[str]]) -> None:
    write_and_execute = mmap.PROT_WRITE | mmap.PROT_EXEC
    denied = _Filter(_ALLOW)
    denied.rule(_EPERM, "mmap", (2, _MASKED_EQ, write_and_execute, write_and_execute))
    denied.rule(_EPERM, "mprotect", (2, _MASKED_EQ, mmap.PROT_EXEC, mmap.PROT_EXEC))
    denied.rule(_EPERM, "pkey_mprotect", (2, _MASKED_EQ, mmap.PROT_EXEC, mmap.PROT_EXEC))
    for family in set(range(_FAMILIES_END)) - {int(family) for family in filters["families"]}:
        denied.rule(_EAFNOSUPPORT, "socket", (0, _EQ, family, 0))
    denied.rule(_ENOSYS, "clone3")  # its flags are out of a filter's sight
    for name in ("unshare", "setns"):
        denied.rule(_EPERM, name)
    for flag in _NAMESPACES:
        denied.rule(_EPERM, "clone", (0, _MASKED_EQ, flag, flag))
    denied.load()
    allowed = _Filter(_EPERM)
    for name in filters["allowed"]:
        allowed.rule(_ALLOW, name)
    allowed.load()


if __name__ == "__main__":
    _load(json.loads(sys.argv[1]))
    os.execv(sys.argv[2], sys.argv[2:])
