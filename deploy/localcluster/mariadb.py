"""A MariaDB server of our own: in one directory, on 127.0.0.1, small and quick to start. Debian's is never touched.

Who started it is its administrator, over the socket and without a password. Where the agent is another user, it has
an account of its own (`deploy/agent-account.sql`); there is no other account. It writes a binary log, so that it has a
GTID position.
"""

import contextlib
import hashlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

from localcluster.process import Process, ProcessFailed, as_user, environment, find_program, start
from localcluster.server import Server
from localcluster.users import own_directory
from shared.files import write_atomically

AGENT_ACCOUNT = Path(__file__).resolve().parents[1] / "agent-account.sql"
LONGEST_SOCKET_PATH = 100  # the kernel's limit is 107 bytes, see unix(7)

# A new data directory that is lost in a crash is made again: no reason to wait for the disk while filling it.
_INSTALL_OPTIONS = (
    "--auth-root-authentication-method=socket",
    "--skip-test-db",
    "--force",  # although this machine may not resolve its own name: addresses are used
    "--skip-name-resolve",
    "--innodb-buffer-pool-size=16M",
    "--innodb-log-file-size=8M",
    "--innodb-flush-log-at-trx-commit=0",
    "--innodb-flush-method=nosync",
)
# Small, since several run on one machine. What it is told to keep it keeps: durability has MariaDB's defaults.
_SERVER_OPTIONS = (
    "--bind-address=127.0.0.1",
    "--skip-name-resolve",
    "--character-set-server=utf8mb4",
    "--collation-server=utf8mb4_general_ci",
    "--log-bin=binlog",
    "--innodb-buffer-pool-size=16M",
    "--innodb-log-file-size=8M",
    "--innodb-fast-shutdown=1",
    "--key-buffer-size=1M",
    "--aria-pagecache-buffer-size=1M",
    "--table-open-cache=200",
    "--max-connections=50",
    "--performance-schema=OFF",
)


class MariaDB(Server):
    """A server whose data and log lie in `directory`. `process` is the real mariadbd, None before it was started.

    It runs as `owner`, to whom its files belong; `client` is the user whose agent looks after it, and who alone may go
    through its directory to the socket. A later command that knows the process (`Process.find`) hands it in.
    """

    kind, ready_s = "MariaDB", 30.0
    more_options: tuple[str, ...] = ()

    def __init__(
        self,
        directory: Path,
        port: int,
        *,
        server_id: int = 1,
        process: Process | None = None,
        owner: str | None = None,
        client: str | None = None,
    ) -> None:
        self.directory = directory.absolute()
        self.port = port
        self.server_id = server_id
        self.process = process
        self.owner = owner
        self.client = client

    @property
    def data(self) -> Path:
        return self.directory / "data"

    @property
    def temporary(self) -> Path:
        """Its own: a server that starts deletes the temporary tables it finds there, also those of its neighbours."""
        return self.directory / "tmp"

    @property
    def log(self) -> Path:
        return self.directory / "mariadb.log"

    @property
    def user(self) -> str:
        """The administrator's account, which needs no password on the socket."""
        return pwd.getpwuid(os.getuid()).pw_name  # not $USER: after su or sudo it may name another

    @property
    def agent(self) -> str:
        """The account that the agent uses."""
        return self.client or self.user

    @property
    def socket(self) -> Path:
        """Beside the data; where that path is too long for a socket, in the directory for temporary files or /tmp."""
        digest = hashlib.sha256(os.fsencode(self.directory)).hexdigest()[:16]
        aside = f"bellwether-{os.getuid()}-{digest}.sock"
        for path in (self.directory / "mariadb.sock", Path(tempfile.gettempdir()) / aside):
            if len(os.fsencode(path)) <= LONGEST_SOCKET_PATH:
                return path
        return Path("/tmp") / aside  # noqa: S108 - a short one; MariaDB takes no file that others put there

    def create(self) -> None:
        """Make the data directory unless it is there. Raises `ProcessFailed`."""
        if self.data.exists():
            return
        own_directory(self.directory, self.owner, mode=0o710, group=self.client)
        own_directory(self.temporary, self.owner)
        # Made aside and then renamed: an interrupted attempt is never taken for a data directory.
        unfinished = self.directory / "data.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        command = [
            find_program("mariadb-install-db"),
            "--no-defaults",
            f"--datadir={unfinished}",
            f"--tmpdir={self.temporary}",
        ]
        command += [*self._run_as, f"--auth-root-socket-user={self.user}", *_INSTALL_OPTIONS]
        done = subprocess.run(
            as_user(self.owner, command),
            env=environment(self.owner),
            cwd=self.directory,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        if done.returncode:
            raise ProcessFailed(f"mariadb-install-db failed: {(done.stderr or done.stdout).strip()[-800:]}")
        unfinished.rename(self.data)

    def launch(self) -> Process:
        """Make it if it is new, start it, and do not wait. A server that runs is left alone. Raises `ProcessFailed`."""
        if self.process is not None and self.process.alive:
            return self.process
        self.create()
        files = (f"--datadir={self.data}", f"--tmpdir={self.temporary}", f"--socket={self.socket}")
        pid_file = f"--pid-file={self.directory / 'mariadb.pid'}"
        identity = (*self._run_as, f"--port={self.port}", f"--server-id={self.server_id}", pid_file)
        command = ["mariadbd", "--no-defaults", *identity, *files, *self._init_file(), *_SERVER_OPTIONS]
        command += self.more_options
        self.process = start(command, log=self.log, env=environment(self.owner), user=self.owner)
        return self.process

    @property
    def _run_as(self) -> list[str]:
        """MariaDB asks for it where root runs it."""
        return [f"--user={self.user}"] if self.owner is None else []

    def _init_file(self) -> list[str]:
        """SQL that the server runs at each start: what is there already stays as it is."""
        if self.client is None:
            return []
        file = self.directory / "agent-account.sql"
        write_atomically(file, AGENT_ACCOUNT.read_text(encoding="utf-8"))
        return [f"--init-file={file}"]

    def ready(self) -> bool:
        """Whether it greets a client."""
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as client:
            client.settimeout(1.0)
            client.connect(str(self.socket))
            # Three bytes of length, a number, then the protocol's version: 10. An error packet has 255 there.
            return client.recv(5)[4:] == b"\x0a"
        return False
