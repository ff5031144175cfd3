"""Where each file of a local cluster is. Nothing here touches the disk but `Layout.create`."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ServerFiles:
    """The directory of one server: its configuration, data and log lie together."""

    directory: Path
    program: str

    @property
    def config(self) -> Path:
        return self.directory / f"{self.program}.toml"

    @property
    def log(self) -> Path:
        return self.directory / f"{self.program}.log"


@dataclass(frozen=True, slots=True)
class Layout:
    """The files of a cluster under `root`, an absolute path.

    ROOT/cluster.json             what runs where, for tests and scripts; written when all is healthy
    ROOT/processes.json           what was started, for `down`
    ROOT/ports.json               ports, chosen once
    ROOT/users.json               who runs what, chosen once; not there where all runs as one user
    ROOT/admin.token, curl.header the administrator's token; the same as a header line for curl
    ROOT/ca.pem                   the cluster's CA certificate
    ROOT/p1/                      a provider: provider.toml, node.pem, data/, provider.log …
    ROOT/db1/                     an agent: agent.toml, broker.json, agent.log …
    ROOT/mariadb-db1/             its MariaDB server
    ROOT/broker/                  RabbitMQ
    ROOT/tokens/                  one-time tokens while they are needed
    """

    root: Path

    def create(self, *, passable: bool = False) -> None:
        """Make the directory. Keys and passwords lie in it, so nobody else may look inside; `passable`: others may pass
        through it to what is theirs.
        """
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.root.chmod(0o711 if passable else 0o700)
        self.tokens.mkdir(mode=0o700, exist_ok=True)

    @property
    def cluster_file(self) -> Path:
        return self.root / "cluster.json"

    @property
    def processes_file(self) -> Path:
        return self.root / "processes.json"

    @property
    def ports_file(self) -> Path:
        return self.root / "ports.json"

    @property
    def users_file(self) -> Path:
        return self.root / "users.json"

    @property
    def lock_file(self) -> Path:
        return self.root / "lock"

    @property
    def admin_token(self) -> Path:
        return self.root / "admin.token"

    @property
    def curl_header(self) -> Path:
        return self.root / "curl.header"

    @property
    def ca(self) -> Path:
        return self.root / "ca.pem"

    @property
    def broker(self) -> Path:
        return self.root / "broker"

    @property
    def broker_password(self) -> Path:
        return self.root / "broker.password"

    @property
    def tokens(self) -> Path:
        return self.root / "tokens"

    def provider(self, name: str) -> ServerFiles:
        return ServerFiles(self.root / name, "provider")

    def agent(self, name: str) -> ServerFiles:
        return ServerFiles(self.root / name, "agent")

    def mariadb(self, name: str) -> Path:
        return self.root / f"mariadb-{name}"
