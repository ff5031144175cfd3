"""One host of a bed: a Debian that boots its own units, with an address, a host name, a disk and an sshd of its own."""

import contextlib
import json
import secrets
import shlex
import subprocess
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from localcluster.process import Process, wait_until

from tests.testbed.notices import Notices
from tests.testbed.space import CommandFailed, Said, run

if TYPE_CHECKING:
    from tests.testbed.bed import Bed

BOOT_S = 120.0
COMMAND_S = 300.0
CLOCK = "/etc/bed-clock"
CLOCK_VARIABLES = (
    "LD_PRELOAD=/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1 "
    "FAKETIME_DONT_FAKE_MONOTONIC=1 FAKETIME_NO_CACHE=1 FAKETIME_DISABLE_SHM=1"
)
MACHINE_OPTIONS = (
    "--quiet --boot --register=no --keep-unit --notify-ready=yes --console=pipe --link-journal=no --resolv-conf=off "
    "--timezone=off --capability=CAP_NET_ADMIN"
)


@dataclass(slots=True)
class Running:
    """A host that is switched on."""

    nspawn: subprocess.Popen[bytes]
    init: Process
    """Its process 1, as seen from the machine."""


class Host:
    """See the module. Made by `Bed`; one thread at a time."""

    def __init__(self, bed: "Bed", name: str, address: str, layers: Sequence[Path], disk_mb: int) -> None:
        self.bed = bed
        self.name = name
        self.address = address
        self.place = ".".join(address.split(".")[2:])
        """What is its own for ever, also with another address."""
        self._running: Running | None = None
        self._frozen = self._slow = self._full = False
        self._shifted: set[str] = set()
        self._notices: Notices | None = None
        self._make_disk(layers, disk_mb)

    def __repr__(self) -> str:
        return f"<{self.name} {self.address} {'on' if self.on else 'off'}>"

    @property
    def on(self) -> bool:
        return self._running is not None and self._running.init.alive

    @property
    def disk(self) -> Path:
        """Its own file system: `upper` holds what differs from the common root file system."""
        return self.bed.space.state / self.name

    @property
    def root(self) -> Path:
        return self.disk / "root"

    # ── commands ──

    def run(self, script: str, *, data: str = "", check: bool = True, timeout_s: float = COMMAND_S) -> Said:
        """A shell script, run by root on this host. Raises `CommandFailed` where `check` and it fails."""
        if self._running is None:
            raise CommandFailed(f"{self.name} is off")
        target = str(self._running.init.pid)
        argv = ["nsenter", "--target", target, "--all", "--root", "--", "sh", "-c", f"cd /root\n{script}"]
        said = run(argv, name=f"{self.name}# {script}", data=data, timeout_s=timeout_s)
        return said.ok() if check else said

    def ssh(
        self, script: str, *, source: "Host | None" = None, check: bool = False, timeout_s: float = COMMAND_S
    ) -> Said:
        """The same through this host's sshd, from the client host, or from `source`. Exit code 255: no connection."""
        source = source or self.bed.client()
        options = "-i /root/.ssh/bed -o BatchMode=yes -o ConnectTimeout=10 -o UserKnownHostsFile=/root/.ssh/bed.hosts"
        said = source.run(f"ssh {options} root@{self.address} {shlex.quote(script)}", check=False, timeout_s=timeout_s)
        said = Said(f"{self.name}$ {script}", said.code, said.out, said.err)
        return said.ok() if check else said

    def json(self, script: str) -> Any:
        """What a command prints as JSON."""
        return json.loads(self.run(script).out)

    def read(self, path: str) -> str:
        return self.run(f"cat {shlex.quote(path)}").out

    def write(self, path: str, text: str, mode: str = "644") -> None:
        self.run(f"cat >{shlex.quote(path)} && chmod {mode} {shlex.quote(path)}", data=text)

    def wait_for(self, script: str, *, timeout_s: float = BOOT_S) -> Said:
        """What the script says, once its exit code is 0. Raises `ProcessFailed`."""
        last: list[Said] = []

        def works() -> bool:
            last[:] = [self.run(script, check=False)]
            return last[0].code == 0

        try:
            wait_until(works, timeout_s=timeout_s, what=f"{self.name}# {script}")
        except Exception as error:
            error.add_note(f"it said: {last}")
            raise
        return last[0]

    def start(self, *units: str) -> None:
        """Starts units and waits until they are up."""
        self.run(f"systemctl start {' '.join(units)}")

    # ── power ──

    def boot(self, *, wait: bool = True) -> None:
        """Switch it on. Waits until all units that start at boot have; without `wait`, until its process 1 runs."""
        if self.on:
            return
        self.bed.join_network(self)
        if self._notices is not None:
            self._notices.close()
        self._notices = Notices(self.bed.space.state / f"{self.name}.notify")
        own = f"--machine={self.name} --directory={self.root} --network-namespace-path=/run/netns/{self.name}"
        enter = self.bed.space.groups.entering(self.name)
        script = f"{enter}NOTIFY_SOCKET={self._notices.path} exec systemd-nspawn {MACHINE_OPTIONS} {own}"
        with (self.bed.space.state / f"{self.name}.console").open("ab") as console:
            nspawn = subprocess.Popen(
                self.bed.space.command(["sh", "-ec", script]),
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )
        self._running = Running(nspawn, self._await_init(nspawn))
        self.bed.reachable(self, yes=True)
        if wait:
            self.wait_booted()

    def wait_booted(self, timeout_s: float = BOOT_S) -> None:
        """Waits until systemd says that it has started all that starts at boot. Raises `CommandFailed`."""
        self._await_notice("READY=1", timeout_s)

    def power_off(self) -> None:
        """The power fails: nobody on it can do anything any more, and nobody elsewhere is told."""
        if self._running is None:
            return
        self.bed.reachable(self, yes=False)
        self._running.init.kill()
        self._running.nspawn.wait()
        self._running = None
        self._frozen = False
        self.bed.leave_network(self)

    def shut_down(self) -> None:
        """Switch it off as an administrator does: all units are stopped first."""
        if self._running is None:
            return
        self.run("systemctl --no-block poweroff")
        self._running.nspawn.wait(COMMAND_S)
        self._running = None
        self.bed.leave_network(self)

    def freeze(self) -> None:
        """Stop the whole machine, as a hypervisor pauses one: it neither runs nor answers."""
        self.bed.reachable(self, yes=False)
        self.bed.space.groups.freeze(self.name, True)
        self._frozen = True

    def thaw(self) -> None:
        """It goes on as if nothing had been. Its clocks have gone on, as after a short pause of a real one."""
        self.bed.space.groups.freeze(self.name, False)
        self._frozen = False
        self.bed.reachable(self, yes=self.on)

    def slow(self, share: float | None) -> None:
        """It gets at most `share` of one core; None: as much as there is."""
        self.bed.space.groups.limit_cpu(self.name, share)
        self._slow = share is not None

    # ── clock ──

    def shift_clock(self, shift_s: float, *, unit: str = "bellwether-provider.service") -> None:
        """The processes of `unit` see the time so many seconds later (negative: earlier). The monotonic clock and all
        others on the host stay. The first time restarts the unit; later changes count at once."""
        self.run(f"mkdir -p {CLOCK} && echo '{shift_s:+g}' >{CLOCK}/new && mv {CLOCK}/new {CLOCK}/{unit}")
        drop_in = f"/etc/systemd/system/{unit}.d/bed-clock.conf"
        if self.run(f"test -e {drop_in}", check=False).code:
            self.run(
                f"mkdir -p $(dirname {drop_in}) && cat >{drop_in}",
                data=f"[Service]\nEnvironment={CLOCK_VARIABLES}\nEnvironment=FAKETIME_TIMESTAMP_FILE={CLOCK}/{unit}\n",
            )
            self.run(f"systemctl daemon-reload && systemctl restart {unit}")
        self._shifted.add(unit)

    def restore(self) -> None:
        """Takes back what the methods here did: it is on, goes on, has its full speed and room on its disk."""
        if self._frozen:
            self.thaw()
        if self._slow:
            self.slow(None)
        if self._full:
            self.unfill()
        self.boot(wait=False)
        for unit in self._shifted:
            self.run(f"echo +0 >{CLOCK}/new && mv {CLOCK}/new {CLOCK}/{unit}")
        self._shifted.clear()

    # ── disk ──

    def fill(self) -> None:
        """Its disk is full: not a byte is left."""
        self._full = True
        self.bed.space.run(
            f"cd {self.disk}; fallocate -l $(stat -f -c '%a * %S' . | xargs expr) ballast || true\n"
            "dd if=/dev/zero of=ballast bs=4k oflag=append conv=notrunc 2>/dev/null || true"
        )

    def unfill(self) -> None:
        self.bed.space.run(f"rm -f {self.disk}/ballast")
        self._full = False

    def mask(self, *units: str) -> None:
        """These units do not start on this host, from its next boot on."""
        links = " ".join(f"{self.root}/etc/systemd/system/{unit}" for unit in units)
        self.bed.space.run(f"for link in {links}; do ln -sf /dev/null $link; done")

    def _make_disk(self, layers: Sequence[Path], size_mb: int) -> None:
        """An image with ext4, mounted for as long as the bed is. No barriers: no power fails below it."""
        lower = ":".join(map(str, layers))
        self.bed.space.run(
            f"""
            truncate -s {size_mb}M {self.disk}.img
            mkfs.ext4 -q -m 0 -O ^has_journal -E lazy_itable_init=1,nodiscard {self.disk}.img
            mkdir {self.disk}
            mount -o loop,noatime {self.disk}.img {self.disk}
            mkdir {self.disk}/upper {self.disk}/work {self.disk}/root
            mount -t overlay overlay -o lowerdir={lower},upperdir={self.disk}/upper,workdir={self.disk}/work {self.root}
            cat >{self.root}/etc/machine-id
            echo {self.name} >{self.root}/etc/hostname
            printf '127.0.0.1 localhost\\n127.0.1.1 {self.name}\\n' >{self.root}/etc/hosts
        """,
            data=secrets.token_hex(16) + "\n",
        )

    def forget(self) -> None:
        """Its bed has ended, and it with that."""
        if self._running is not None:
            self._running.nspawn.wait()
            self._running = None
        if self._notices is not None:
            self._notices.close()
            self._notices = None

    # ── what is kept ──

    def keep(self, directory: Path) -> None:
        """Its journal, as text, and what came to its console."""
        (directory / f"{self.name}.console").write_text(self._console())
        journal = f"journalctl --no-pager -o short-precise --no-hostname -D {self.root}/var/log/journal"
        done = run(self.bed.space.command(["sh", "-c", journal]), name=journal)
        (directory / f"{self.name}.journal").write_text(done.out + done.err)

    # ── what systemd-nspawn tells ──

    def _await_init(self, nspawn: subprocess.Popen[bytes]) -> Process:
        inner = int(self._await_notice("X_NSPAWN_LEADER_PID=", BOOT_S))
        for pid in _descendants(nspawn.pid):
            if _number_in_bed(pid) == inner:
                return Process.find(pid)
        raise CommandFailed(f"{self.name}: systemd-nspawn has no child {inner}")

    def _await_notice(self, start: str, timeout_s: float) -> str:
        said = self._notices.wait_for(start, timeout_s) if self._notices is not None else None
        if said is None:
            raise CommandFailed(f"{self.name} did not boot in {timeout_s:g} s ({start}): {self._console()}")
        return said

    def _console(self) -> str:
        path = self.bed.space.state / f"{self.name}.console"
        return textwrap.indent(path.read_text(errors="replace")[-2000:], "  ") if path.exists() else ""


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += [int(child), *_descendants(int(child))]
    return found


def _number_in_bed(pid: int) -> int | None:
    """The number that process `pid` has in the bed's pid namespace, the one below ours; None where it is in none."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            numbers = line.split()[1:] if line.startswith("NSpid:") else []
            if len(numbers) > 1:
                return int(numbers[1])
    return None
