"""An agent in a directory of its own, for one MariaDB server on this machine: enrol, run."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from localcluster.layout import ServerFiles
from localcluster.mariadb import MariaDB
from localcluster.process import Process, ProcessFailed, environment, start, tail, wait_until
from localcluster.provider import program_path, run_program
from localcluster.users import own_directory

READY_S = 60.0
LEAN = {"PYTHONOPTIMIZE": "2", "PYTHONNODEBUGRANGES": "1"}
"""An agent needs no docstrings and no columns in tracebacks: some 2.5 MB less on every database host."""


def compile_agent() -> None:
    """Write the bytecode that a lean agent loads. Else each compiles it and keeps the memory that it took."""
    subprocess.run(
        [sys.executable, "-c", "import agent.cli, agent.service, agent.commands, agent.enrolment"],
        env=environment(**LEAN),
        check=True,
        capture_output=True,
        timeout=READY_S,
        umask=0o022,
    )


class Agent:
    """`process` is the daemon, None before it was started; a later command that knows it hands it in. One thread.

    An agent opens no port. Whether it is well the providers know (`GET /agents/{id}`), and `is_well(name, since)` asks
    them: from before `since` they may still take one for well that was ended.
    """

    def __init__(
        self,
        name: str,
        files: ServerFiles,
        server: MariaDB,
        is_well: Callable[[str, datetime], bool],
        *,
        process: Process | None = None,
        user: str | None = None,
    ) -> None:
        self.name = name
        self.files = files
        self.server = server
        self.process = process
        self.user = user
        self._is_well = is_well
        self._launched_at = datetime.fromtimestamp(0, UTC)

    @property
    def log(self) -> Path:
        return self.files.log

    @property
    def enrolled(self) -> bool:
        return self.files.config.exists()

    def enroll(self, urls: Sequence[str], token_file: Path) -> None:
        """Make it known to the cluster at `urls`, with its server as its one instance. Raises `ProcessFailed`."""
        own_directory(self.files.directory, self.user)
        who = ["--id", self.name, "--token-file", str(token_file)]
        instance = ["--engine", "mariadb", "--socket", str(self.server.socket), "--user", self.server.agent]
        self.command("enroll", ",".join(urls), *who, *instance)

    def command(self, *arguments: str) -> str:
        """Run `agent` with this agent's configuration; its stdout. Raises `ProcessFailed`."""
        return run_program("agent", *arguments, "--config", str(self.files.config))

    def launch(self) -> Process:
        """Start the daemon unless it runs, without waiting."""
        if self.process is None or not self.process.alive:
            self._launched_at = datetime.now(UTC)
            self.process = start(self._argv(), log=self.log, env=self._environment(), user=self.user)
        return self.process

    def _argv(self) -> list[str | Path]:
        return [program_path("agent"), "run", "--config", self.files.config]

    def _environment(self) -> dict[str, str]:
        return environment(self.user, **LEAN)

    def wait_ready(self, timeout_s: float = READY_S) -> None:
        """Wait until the providers hear it, and it its server. Raises `ProcessFailed` with the end of its log."""
        try:
            what = f"agent {self.name} online and its database server up"
            is_well = partial(self._is_well, self.name, self._launched_at)
            wait_until(is_well, timeout_s=timeout_s, what=what, process=self.process)
        except ProcessFailed as error:
            raise ProcessFailed(f"{error}; the end of {self.log}:\n{tail(self.log)}") from None
