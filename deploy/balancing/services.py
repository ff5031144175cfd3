"""What this host is to run: files written where they differ, checked first, and then loaded."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from balancing.configurations import haproxy, keepalived
from balancing.options import COMMAND_S, Options, Wrong


@dataclass(frozen=True, slots=True)
class Service:
    """One of the two: its files and what they should hold, the command that checks a configuration, its unit."""

    unit: str
    file: Path
    text: str
    check: tuple[str, ...]
    copies: Mapping[Path, bytes] = field(default_factory=dict)

    def apply(self) -> bool:
        """Whether anything was changed. A configuration that its program refuses changes nothing. Raises `Wrong`."""
        wanted = {**self.copies, self.file: self.text.encode()}
        changed = {file: content for file, content in wanted.items() if not _holds(file, content)}
        unused = self.file.with_name(f".{self.file.name}.unused")  # there until what is in the files is in use
        if not changed and not unused.exists():
            return False
        _replace(unused, b"")
        for file in self.copies:  # what the configuration names must be there for the check
            if file in changed:
                _replace(file, changed[file])
        if self.file in changed:
            _checked(self.check, self.file, self.text)
            _replace(self.file, changed[self.file])
        _run(["systemctl", "reload-or-restart", self.unit])
        unused.unlink()
        return True


def services(options: Options) -> list[Service]:
    """What this host is to run. Raises `Wrong`."""
    found = []
    if options.haproxy is not None:
        wanted = options.haproxy
        file = Path(wanted.file)
        found.append(
            Service(
                "haproxy",
                file,
                haproxy(options, file.read_text(encoding="utf-8") if file.exists() else ""),
                ("haproxy", "-c", "-q", "-f"),
                {Path(wanted.ca): read(Path(options.ca))},
            )
        )
    if options.keepalived is not None:
        found.append(
            Service("keepalived", Path(options.keepalived.file), keepalived(options), ("keepalived", "-t", "-f"))
        )
    return found


def read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise Wrong(f"{file}: {error.strerror}") from None


def _holds(file: Path, content: bytes) -> bool:
    return file.exists() and file.read_bytes() == content


def _replace(file: Path, content: bytes) -> None:
    """The whole file or the old one, also where the power fails."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=file.parent, prefix=f".{file.name}.", delete=False) as new:
        new.write(content)
        new.flush()
        os.fsync(new.fileno())
    made = Path(new.name)
    made.chmod(0o644)
    made.replace(file)


def _checked(command: Sequence[str], file: Path, text: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        trial = Path(directory) / file.name
        trial.write_text(text, encoding="utf-8")
        _run([*command, str(trial)])


def _run(command: Sequence[str]) -> None:
    program = shutil.which(command[0], path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/bin:/sbin:/bin")
    if program is None:
        raise Wrong(f"{command[0]} is not installed")
    try:
        done = subprocess.run([program, *command[1:]], capture_output=True, text=True, timeout=COMMAND_S, check=False)
    except subprocess.TimeoutExpired:
        raise Wrong(f"{' '.join(command)}: no end after {COMMAND_S:g} s") from None
    if done.returncode:
        raise Wrong(f"{' '.join(command)}: {(done.stderr + done.stdout).strip()}")
