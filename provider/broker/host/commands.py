"""rabbitmqctl and rabbitmq-streams, as RabbitMQ's own user, with deadlines. What fails becomes a plain sentence."""

import os
import pwd
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv6Address
from pathlib import Path
from threading import Timer
from typing import Any

from provider.core.documents import BrokerNode
from shared.errors import BellwetherError, Unavailable

DEADLINE_S = 60.0
"""For one command. It takes one second; a broker whose cluster has no majority may never answer."""
SERVICE_S = 120.0
END_S = 10.0
_WORDS = re.compile(r"(?m)^(?:Error:)?[ \t]*(\S.*)$")


class BrokerAway(Unavailable):
    """A broker does not run, or cannot be reached."""

    code = "broker_unavailable"


class CookieRefused(BrokerAway):
    """A broker is there and does not let us in."""


class CommandFailed(BellwetherError):
    """RabbitMQ said no. `output`: all that it wrote."""

    def __init__(self, detail: str, output: str) -> None:
        super().__init__(detail)
        self.output = output


@dataclass(frozen=True, slots=True)
class Place:
    """Where the RabbitMQ on a host is. The defaults are Debian's."""

    user: str = "rabbitmq"
    home: Path = Path("/var/lib/rabbitmq")
    programs: Path = Path("/usr/lib/rabbitmq/bin")
    configuration: Path = Path("/etc/rabbitmq")
    etc_hosts: Path = Path("/etc/hosts")

    @property
    def data(self) -> Path:
        """Each broker's in a directory that begins with its name."""
        return self.home / "mnesia"

    @property
    def cookie(self) -> Path:
        return self.home / ".erlang.cookie"

    @property
    def installed(self) -> bool:
        return (self.programs / "rabbitmqctl").exists()


class Commands:
    """Blocking. `Place.user` runs them; only root, or that user itself, can have them run."""

    def __init__(self, place: Place, *, home: Path | None = None, names: Path | None = None) -> None:
        """`home` holds the cookie, `names` an Erlang inetrc with host names of its own (for names that /etc/hosts does
        not have yet)."""
        self._place, self._home, self._names = place, home or place.home, names

    def evaluate(self, expression: str, *, node: str | None = None, deadline_s: float = DEADLINE_S) -> str:
        """The value of an Erlang expression without secrets, as Erlang prints it. Raises as `run`."""
        return self.run("rabbitmqctl", "eval", expression, node=node, deadline_s=deadline_s).strip()

    def evaluate_secretly(self, expression: str, *, deadline_s: float = DEADLINE_S) -> str:
        """The same on this host's broker, with an expression that the list of processes must not show."""
        return self._run(["rabbitmqctl", "eval"], expression, None, deadline_s).strip()

    def run(self, program: str, *arguments: str, node: str | None = None, deadline_s: float = DEADLINE_S) -> str:
        """Runs a program of RabbitMQ. `node`: on another broker than this host's.

        Raises `BrokerAway`, `CookieRefused`, `CommandFailed`.
        """
        where = [] if node is None else ["--node", node]
        return self._run([program, "--quiet", *where, *arguments], None, node, deadline_s)

    @contextmanager
    def asking(self, expression: str, *, node: str, deadline_s: float = DEADLINE_S) -> Iterator[str]:
        """Yields the first line that an Erlang expression prints, which then goes on until its stdin is closed: at the
        block's end, or with this process. Raises as `run`."""
        command = ["rabbitmqctl", "--quiet", "--node", node, "eval", expression]
        with self._started(command, stdin=subprocess.PIPE) as process:
            timer = Timer(deadline_s, os.killpg, [process.pid, signal.SIGKILL])
            timer.start()
            try:
                assert process.stdout is not None  # noqa: S101 - `_started` makes it
                line = process.stdout.readline()
                late = not timer.is_alive()
            finally:
                timer.cancel()
            if not line:
                output = "" if late else process.communicate()[1]
                raise _late(command[:-1], node, deadline_s) if late else failure(command[:-1], node, output)
            try:
                yield line
            finally:
                _end(process)

    def _run(self, command: Sequence[str], text: str | None, node: str | None, deadline_s: float) -> str:
        with self._started(command, stdin=subprocess.PIPE if text is not None else subprocess.DEVNULL) as process:
            try:
                output, error = process.communicate(text, timeout=deadline_s)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
                raise _late(command, node, deadline_s) from None
        if process.returncode != 0:
            raise failure(command, node, output + "\n" + error)
        return str(output)

    def _started(self, command: Sequence[str], *, stdin: int) -> "subprocess.Popen[str]":
        user = pwd.getpwnam(self._place.user)
        switch: dict[str, Any] = {}
        if os.geteuid() == 0:
            switch = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        environment = {"HOME": str(self._home), "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
        if self._names is not None:
            environment["ERL_INETRC"] = str(self._names)
        return subprocess.Popen(  # noqa: S603 - no shell; names and cookies were checked
            [str(self._place.programs / command[0]), *command[1:]],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self._place.home,
            env=environment,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # it is a shell script: what it started must end with it
            **switch,
        )


def _end(process: "subprocess.Popen[str]") -> None:
    try:
        process.communicate(timeout=END_S)  # closes its stdin
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def _late(command: Sequence[str], node: str | None, deadline_s: float) -> BrokerAway:
    return BrokerAway(f"{_where(node)} did not answer `{_shown(command)}` within {deadline_s:.0f} s")


def _where(node: str | None) -> str:
    return node or "the RabbitMQ on this host"


def _shown(command: Sequence[str]) -> str:
    return " ".join(word for word in command if word != "--quiet")


def failure(command: Sequence[str], node: str | None, output: str) -> BellwetherError:
    """What a command's failure means, from all that it wrote."""
    if "Erlang distribution failed" in output or "Authentication failed" in output:
        return CookieRefused(f"{_where(node)} does not let this host in")
    if "nxdomain" in output:
        return BrokerAway(f"{_where(node)} cannot be reached: its host's name is not known here")
    if "unable to perform an operation on node" in output or "nodedown" in output:
        return BrokerAway(f"{_where(node)} does not run, or cannot be reached")
    words = [found for found in _WORDS.findall(output) if found.strip() != "Error:"]
    said = words[0].strip() if words else "it did not say why"
    return CommandFailed(f"`{_shown(command)}` failed on {_where(node)}: {said[:300]}", output)


@contextmanager
def handed(user: str, files: Mapping[str, str]) -> Iterator[Path]:
    """A directory with these files, which that user alone can read: what no list of processes may show."""
    with tempfile.TemporaryDirectory(prefix="bellwether-broker-") as directory:
        account = pwd.getpwnam(user)
        for name, text in files.items():
            descriptor = os.open(Path(directory) / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(text)
                os.fchown(file.fileno(), account.pw_uid, account.pw_gid)
        Path(directory).chmod(0o711)  # that user passes through to its files, and cannot put others there
        yield Path(directory)


@contextmanager
def guest(place: Place, cookie: str, brokers: Sequence[BrokerNode]) -> Iterator[Commands]:
    """Commands that call on other brokers with a cookie and addresses of their own: nothing on this host is changed."""
    with handed(place.user, {".erlang.cookie": cookie, "names": _inetrc(brokers)}) as home:
        yield Commands(place, home=home, names=home / "names")


def _inetrc(brokers: Sequence[BrokerNode]) -> str:
    """Erlang's resolver: these names first, then as the system does."""
    lines = []
    for broker in brokers:
        address = broker.address
        if ":" in address:
            packed = IPv6Address(address).packed
            numbers = ",".join(str(int.from_bytes(packed[at : at + 2])) for at in range(0, 16, 2))
        else:
            numbers = address.replace(".", ",")
        lines.append(f'{{host, {{{numbers}}}, ["{broker.host}"]}}.')
    return "\n".join([*lines, "{lookup, [file, native]}."]) + "\n"


def as_user(user: str, command: Sequence[str]) -> None:
    """Runs a program as another user: root does not touch files in directories of which it is not the owner. Raises
    `CommandFailed`."""
    account = pwd.getpwnam(user)
    switch: dict[str, Any] = {}
    if os.geteuid() == 0:
        switch = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    _plain(command, DEADLINE_S, **switch)


def service(action: str) -> None:
    """Starts or stops RabbitMQ; `kill` ends all its processes at once, if there are any. Raises `CommandFailed`."""
    how = ["kill", "--signal=KILL"] if action == "kill" else [action]
    try:
        _plain(["systemctl", "--no-ask-password", *how, "rabbitmq-server.service"], SERVICE_S)
    except CommandFailed:
        if action != "kill":
            raise


def _plain(command: Sequence[str], deadline_s: float, **how: Any) -> None:
    try:
        done = subprocess.run(  # noqa: S603 - no shell; what is run stands above
            list(command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=deadline_s,
            check=False,
            **how,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CommandFailed(f"`{' '.join(command)}` failed: {error}", "") from None
    if done.returncode != 0:
        said = " ".join(done.stderr.split())[:300]
        raise CommandFailed(f"`{' '.join(command)}` failed: {said}", done.stdout + done.stderr)


def wait_until_s(deadline_s: float) -> Iterator[float]:
    """Yields seconds that are left, a pause between two, until there are none."""
    end_s = time.monotonic() + deadline_s
    while (left_s := end_s - time.monotonic()) > 0:
        yield left_s
        time.sleep(min(0.5, left_s))
