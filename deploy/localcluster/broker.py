"""A RabbitMQ broker of our own: in one directory, on 127.0.0.1, TLS only, quick to start. Debian's is never touched.

It has its own node name, Erlang cookie and port mapper (epmd). Virtual host and users are in a definitions file that is
loaded at each boot, before the listeners open, so who can connect finds everything there.
"""

import base64
import hashlib
import json
import secrets
import socket
import ssl
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from localcluster.ports import is_free
from localcluster.process import Process, ProcessFailed, as_user, environment, start, wait_until
from localcluster.server import Server
from localcluster.users import own_directory
from shared.files import write_atomically

VHOST = "bellwether"
PROGRAMS = Path("/usr/lib/rabbitmq/bin")
"""RabbitMQ's own scripts. Debian's wrappers of the same names in /usr/sbin change user and HOME."""
MESSAGE_MAX_BYTES = 4 * 1024 * 1024 + 64 * 1024

# epmd is made a child of what becomes the broker (each step is an exec, so the pid stays) and the kernel ends it with
# its parent, however that ends: no epmd is ever left behind. RUNNING_UNDER_SYSTEMD is how RabbitMQ's script is told to
# exec Erlang rather than to watch it.
_SCRIPT = (
    'setpriv --pdeathsig TERM epmd -port "$ERL_EPMD_PORT" -address 127.0.0.1 & '
    'RUNNING_UNDER_SYSTEMD=true exec "$0/rabbitmq-server" "$@"'
)
# Two schedulers, bound to no core: several programs share this machine. `none` in busy waits is RabbitMQ's own default.
_ERLANG = "+S 2:2 +SDcpu 1:1 +SDio 2 +A 4 -kernel inet_dist_use_interface {127,0,0,1}"


@dataclass(frozen=True, slots=True)
class BrokerUser:
    """Who may connect. The password is read from its file at each start. Default: everything, an administrator."""

    name: str
    password_file: Path
    tags: str = "administrator"
    configure: str = ".*"
    write: str = ".*"
    read: str = ".*"


@dataclass(frozen=True, slots=True)
class BrokerPorts:
    """All on 127.0.0.1. `management` and `plain` (AMQP without TLS, for tests) are optional."""

    amqps: int
    distribution: int
    epmd: int
    management: int | None = None
    plain: int | None = None


class Broker(Server):
    """A broker whose data and log lie in `directory`. `process` is the real beam.smp, None before it was started.

    `certificate` and `key` are PEM files for 127.0.0.1; `ca` verifies them. They need to exist only when it is started.
    It runs as `owner`, to whom its files belong. A later command that knows the process (`Process.find`) hands it in.
    """

    kind, ready_s = "RabbitMQ", 60.0

    def __init__(
        self,
        directory: Path,
        ports: BrokerPorts,
        *,
        certificate: Path,
        key: Path,
        ca: Path,
        users: Sequence[BrokerUser],
        name: str = "bellwether",
        process: Process | None = None,
        owner: str | None = None,
    ) -> None:
        self.directory = directory.absolute()
        self.ports = ports
        self.certificate, self.key, self.ca = certificate.absolute(), key.absolute(), ca.absolute()
        self.users = users
        self.node = f"{name}@127.0.0.1"  # a long name that needs no resolver: not every machine knows `localhost`
        self.process = process
        self.owner = owner

    @property
    def log(self) -> Path:
        return self.directory / "broker.log"

    @property
    def data(self) -> Path:
        return self.directory / "data"

    @property
    def endpoint(self) -> str:
        return f"amqps://127.0.0.1:{self.ports.amqps}"

    @property
    def own_key(self) -> Path:
        """`key`, or a copy where its user cannot read that: a certificate that is renewed is for the same key."""
        return self.key if self.owner is None else self.directory / "node.key"

    @property
    def plain_endpoint(self) -> str:
        """Without TLS. Raises `ProcessFailed` where it has no such port."""
        if self.ports.plain is None:
            raise ProcessFailed("this broker listens for TLS only")
        return f"amqp://127.0.0.1:{self.ports.plain}"

    @property
    def management(self) -> str:
        """The management API. Raises `ProcessFailed` where it has no port for it."""
        if self.ports.management is None:
            raise ProcessFailed("this broker has no management API")
        return f"https://127.0.0.1:{self.ports.management}"

    def launch(self) -> Process:
        """Start it on the data that is there, or new; does not wait. Raises `ProcessFailed`, `OSError`."""
        own_directory(self.directory, self.owner)
        self._write_files()
        self._await_port_mapper()
        command: list[str | Path] = ["sh", "-c", _SCRIPT, PROGRAMS]
        self.process = start(command, log=self.log, env=self._environment(), user=self.owner)
        return self.process

    def ready(self) -> bool:
        """Whether it answers AMQP over TLS. The management API listens before."""
        context = ssl.create_default_context(cafile=str(self.ca))
        try:
            with socket.create_connection(("127.0.0.1", self.ports.amqps), timeout=1.0) as plain:
                plain.settimeout(5.0)
                with context.wrap_socket(plain, server_hostname="127.0.0.1") as client:
                    client.sendall(b"AMQP\x00\x00\x09\x01")
                    return client.recv(1) == b"\x01"  # a method frame: Connection.Start
        except OSError:
            return False

    def ctl(self, *arguments: str) -> str:
        """What `rabbitmqctl` prints, run against this broker (about a second). Raises `ProcessFailed`."""
        command = as_user(self.owner, [PROGRAMS / "rabbitmqctl", "--quiet", *arguments])
        done = subprocess.run(command, env=self._environment(), capture_output=True, text=True, check=False, timeout=60)
        if done.returncode:
            raise ProcessFailed(f"rabbitmqctl {' '.join(arguments)} failed: {(done.stderr or done.stdout).strip()}")
        return done.stdout

    def _await_port_mapper(self) -> None:
        # The former epmd ends just after its broker; a second one would give way to it and nobody would be left.
        wait_until(lambda: is_free(self.ports.epmd), timeout_s=5.0, what=f"port {self.ports.epmd} for epmd is taken")

    def _environment(self) -> dict[str, str]:
        files = {
            "RABBITMQ_CONF_ENV_FILE": self.directory / "no-rabbitmq-env.conf",
            "RABBITMQ_CONFIG_FILE": self.directory / "rabbitmq.conf",
            "RABBITMQ_ADVANCED_CONFIG_FILE": self.directory / "advanced.config",
            "RABBITMQ_ENABLED_PLUGINS_FILE": self.directory / "enabled_plugins",
            "RABBITMQ_MNESIA_BASE": self.directory,
            "RABBITMQ_MNESIA_DIR": self.data,
            "RABBITMQ_FEATURE_FLAGS_FILE": self.directory / "feature_flags",
            "RABBITMQ_GENERATED_CONFIG_DIR": self.directory / "generated",
            "RABBITMQ_LOG_BASE": self.directory,
            "RABBITMQ_PID_FILE": self.directory / "broker.pid",
            "HOME": self.directory,  # the Erlang cookie
        }
        return environment(
            self.owner,
            **{name: str(path) for name, path in files.items()},
            RABBITMQ_LOGS="-",
            RABBITMQ_NODENAME=self.node,
            RABBITMQ_USE_LONGNAME="true",
            RABBITMQ_DIST_PORT=str(self.ports.distribution),
            RABBITMQ_SCHEDULER_BIND_TYPE="u",
            RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=_ERLANG,
            ERL_EPMD_PORT=str(self.ports.epmd),
            ERL_EPMD_ADDRESS="127.0.0.1",
        )

    def _write_files(self) -> None:
        cookie = self.directory / ".erlang.cookie"
        if not cookie.exists():
            write_atomically(cookie, secrets.token_hex(20), mode=0o400)
        plugins = "" if self.ports.management is None else "rabbitmq_management"
        if self.owner is not None:
            write_atomically(self.own_key, self.key.read_text())
        write_atomically(self.directory / "enabled_plugins", f"[{plugins}].\n")
        write_atomically(self.directory / "definitions.json", json.dumps(self._definitions(), indent=2) + "\n")
        write_atomically(self.directory / "rabbitmq.conf", self._configuration())

    def _configuration(self) -> str:
        listeners = "none" if self.ports.plain is None else ""
        lines = [
            f"listeners.tcp = {listeners}" if listeners else f"listeners.tcp.1 = 127.0.0.1:{self.ports.plain}",
            f"listeners.ssl.1 = 127.0.0.1:{self.ports.amqps}",
            f"ssl_options.certfile = {self.certificate}",
            f"ssl_options.keyfile = {self.own_key}",
            "ssl_options.verify = verify_none",  # clients prove who they are by password
            "ssl_options.versions.1 = tlsv1.3",
            "ssl_options.versions.2 = tlsv1.2",
            f"load_definitions = {self.directory / 'definitions.json'}",
            "tcp_listen_options.nodelay = true",
            "tcp_listen_options.backlog = 1024",
            "channel_max = 16",
            # Messages and log entries have at most 4 MiB; by default a client could make the broker hold 128.
            f"max_message_size = {MESSAGE_MAX_BYTES}",
            "heartbeat = 10",
            "disk_free_limit.absolute = 100MB",
            "collect_statistics_interval = 60000",
            "log.console.level = info",
        ]
        if self.ports.management is not None:
            lines += [
                "management.ssl.ip = 127.0.0.1",
                f"management.ssl.port = {self.ports.management}",
                f"management.ssl.certfile = {self.certificate}",
                f"management.ssl.keyfile = {self.own_key}",
                "management.ssl.versions.1 = tlsv1.3",
                "management.ssl.versions.2 = tlsv1.2",
                # Users and permissions are managed through it; figures are not asked of it, and they cost.
                "management.rates_mode = none",
                "management_agent.disable_metrics_collector = true",
            ]
        return "\n".join(lines) + "\n"

    def _definitions(self) -> dict[str, object]:
        permissions = [
            {"user": user.name, "vhost": VHOST, "configure": user.configure, "write": user.write, "read": user.read}
            for user in self.users
        ]
        users = [
            {
                "name": user.name,
                "password_hash": _password_hash(user.password_file.read_text().strip()),
                "hashing_algorithm": "rabbit_password_hashing_sha256",
                "tags": user.tags,
            }
            for user in self.users
        ]
        return {"vhosts": [{"name": VHOST}], "users": users, "permissions": permissions}


def _password_hash(password: str) -> str:
    """RabbitMQ's form: base64 of a salt of four bytes and SHA-256 over salt and password."""
    salt = secrets.token_bytes(4)
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()
