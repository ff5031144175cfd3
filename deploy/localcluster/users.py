"""Which user of this machine each member runs as: decided when a cluster is made, and kept.

Where root makes it, a member gets a user that can do little: providers `bellwether`, agents `bellwether-agent` (made if
they are missing), the broker `rabbitmq` and the servers `mysql` (Debian's packages make them). Each one's files belong
to its user alone. Where others than root cannot reach our programs, as in a clone below /root, or where somebody else
makes the cluster, all of it runs as whoever makes it.
"""

import json
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from localcluster.process import as_user, environment, find_program
from shared.files import user_name, write_atomically

PROVIDER, AGENT, BROKER, DATABASE = "bellwether", "bellwether-agent", "rabbitmq", "mysql"
OURS = (PROVIDER, AGENT)
_PROBE = "import os, sys, agent.service, provider.cli.node; sys.exit(not os.access(sys.argv[1], os.X_OK))"
_PROBE_S = 60.0


@dataclass(frozen=True, slots=True)
class Users:
    """Names of users. None: whoever runs the command."""

    provider: str | None = None
    agent: str | None = None
    broker: str | None = None
    database: str | None = None

    @property
    def own(self) -> bool:
        """Whether members have users of their own."""
        return self.provider is not None


def kept_users(file: Path) -> Users:
    """What was decided when the cluster was made."""
    return Users(**json.loads(file.read_text())) if file.exists() else Users()


def choose_users(root: Path, file: Path, tell: Callable[[str], None]) -> None:
    """Decide for the cluster under `root`, a new one, and write it into `file`. Tells what was decided, and why."""
    me = user_name(os.geteuid())
    if os.geteuid() != 0:
        tell(f"All of it runs as {me}; started by root, each part has a user of its own.")
        return
    root.chmod(0o711)  # may be passed through, not looked into
    if not _reachable(root):
        root.chmod(0o700)
        tell(f"All of it runs as {me}: other users cannot reach {root} or {sys.executable}.")
        return
    made = [name for name in OURS if not exists(name)]
    for name in made:
        make_system_user(name)
    users = Users(PROVIDER, AGENT, BROKER if exists(BROKER) else PROVIDER, DATABASE if exists(DATABASE) else PROVIDER)
    write_atomically(file, json.dumps(asdict(users), indent=2) + "\n")
    if made:
        tell(f"Made the system users {' and '.join(made)}.")
    tell(
        f"Providers run as {users.provider}, agents as {users.agent}, RabbitMQ as {users.broker}, "
        f"MariaDB as {users.database}."
    )


def exists(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def make_system_user(name: str) -> None:
    """A user that owns nothing and cannot log in. Raises `subprocess.CalledProcessError`."""
    options = ["--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent"]
    command = [find_program("useradd"), *options, "--shell", "/usr/sbin/nologin", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and not exists(name):  # another quickstart may have been faster
        done.check_returncode()


def own_directory(path: Path, user: str | None, *, mode: int = 0o700, group: str | None = None) -> None:
    """Make the directory `path` for `user` unless it is there; `group` is another user, whose group it gets."""
    if path.exists():
        return
    path.mkdir(mode=0o700, parents=True)
    if user is not None:
        shutil.chown(path, user, pwd.getpwnam(group or user).pw_gid)
        path.chmod(mode)


def _reachable(root: Path) -> bool:
    """Whether a user who is nobody special can run our programs and get to what lies in `root`."""
    command = as_user("nobody", [sys.executable, "-c", _PROBE, str(root)])
    done = subprocess.run(
        command, env=environment("nobody"), cwd="/", capture_output=True, check=False, timeout=_PROBE_S
    )
    return done.returncode == 0
