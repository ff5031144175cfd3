"""A provider in a directory of its own: init or join, run."""

import subprocess
import sys
from pathlib import Path

from localcluster.api import Api
from localcluster.layout import ServerFiles
from localcluster.process import Process, ProcessFailed, environment, start, tail, wait_until
from localcluster.users import own_directory

COMMAND_S = 60.0
READY_S = 60.0


class Provider:
    """`process` is the daemon, None before it was started; a later command that knows it hands it in. One thread.

    The daemon runs as `user`, to whom its files belong; `reader` is another user who may get to its certificate.
    Commands run as whoever runs this, as people run them.
    """

    def __init__(
        self,
        name: str,
        files: ServerFiles,
        port: int,
        *,
        process: Process | None = None,
        user: str | None = None,
        reader: str | None = None,
    ) -> None:
        self.name = name
        self.files = files
        self.port = port
        self.process = process
        self.user = user
        self.reader = reader

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        return self.files.log

    @property
    def ca(self) -> Path:
        return self.files.directory / "ca.pem"

    @property
    def member(self) -> bool:
        """Whether it was made by `init` or `join`."""
        return self.files.config.exists()

    def init(self, *, endpoint: str, management: str, user: str, password_file: Path, admin_token_file: Path) -> None:
        """Make a new cluster of this node alone. Raises `ProcessFailed`."""
        broker = ["--broker-endpoint", endpoint, "--broker-management", management]
        broker += ["--broker-user", user, "--broker-password-file", str(password_file)]
        self.command(
            "init", "--name", self.name, "--url", self.url, *broker, "--admin-token-file", str(admin_token_file)
        )

    def join(self, seed: "Provider", token_file: Path) -> None:
        """Become a standby of the cluster that `seed` is in. Raises `ProcessFailed`."""
        self.command("join", seed.url, "--name", self.name, "--url", self.url, "--token-file", str(token_file))

    def create_token(self, role: str, file: Path) -> None:
        """A token for `role` into `file`; this provider must run. Raises `ProcessFailed`."""
        self.command("token", "create", "--role", role, "--token-out", str(file))

    def command(self, *arguments: str, program: str = "provider") -> str:
        """Run `provider` (or `failover`) with this node's configuration; its stdout. Raises `ProcessFailed`."""
        mode = 0o700 if self.reader is None else 0o710
        own_directory(self.files.directory, self.user, mode=mode, group=self.reader)
        return run_program(program, *arguments, "--config", str(self.files.config))

    def launch(self) -> Process:
        """Start the daemon unless it runs, without waiting."""
        if self.process is None or not self.process.alive:
            self.process = start(self._argv(), log=self.log, env=self._environment(), user=self.user)
        return self.process

    def _argv(self) -> list[str | Path]:
        return [program_path("provider"), "run", "--config", self.files.config]

    def _environment(self) -> dict[str, str]:
        return environment(self.user)

    def wait_ready(self, timeout_s: float = READY_S) -> None:
        """Wait until it serves reads, or would but for maintenance. Raises `ProcessFailed` with the end of its log."""
        api = Api(self.url, ca=self.ca, timeout_s=2.0)
        try:
            wait_until(api.serves_reads, timeout_s=timeout_s, what=f"provider {self.name}", process=self.process)
        except ProcessFailed as error:
            raise ProcessFailed(f"{error}; the end of {self.log}:\n{tail(self.log)}") from None


def program_path(name: str) -> Path:
    """One of our programs, from the virtual environment that this runs in."""
    return Path(sys.executable).parent / name


def run_program(name: str, *arguments: str, timeout_s: float = COMMAND_S) -> str:
    """Run one of our programs to its end; its stdout. Raises `ProcessFailed` with its stderr."""
    command = [str(program_path(name)), *arguments]
    try:
        done = subprocess.run(
            command,
            env=environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
            umask=0o022,  # the bytecode that it leaves behind is for everybody; what is private it makes so by itself
        )
    except subprocess.TimeoutExpired:
        raise ProcessFailed(f"{' '.join(command)}: not within {timeout_s:g} s") from None
    if done.returncode:
        raise ProcessFailed(f"{' '.join(command)}: exit code {done.returncode}\n{(done.stderr or done.stdout).strip()}")
    return done.stdout
