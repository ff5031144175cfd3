"""deploy/broker-setup on a broker of our own: what it makes, that again does no harm, that what it writes works."""

import base64
import json
import os
import pwd
import shlex
import ssl
import stat
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import trustme
from localcluster.broker import PROGRAMS, Broker, BrokerPorts, BrokerUser
from localcluster.ports import free_ports

SCRIPT = Path(__file__).resolve().parents[2] / "deploy" / "broker-setup"
USER = "bellwether-admin"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="it must run as root")


class Prepared(Broker):
    """A broker that is configured by what the script wrote; before that, as any of ours."""

    written: Path | None = None

    def _configuration(self) -> str:
        own = super()._configuration()
        return own if self.written is None else self.written.read_text()


class Host:
    """A host with a broker, as the script sees it: all of its directories are below `root`."""

    def __init__(self, root: Path, authority: trustme.CA) -> None:
        self.configuration, self.rabbitmq = root / "etc-bellwether", root / "etc-rabbitmq"
        for directory in (self.configuration, self.rabbitmq):
            directory.mkdir(mode=0o700)
        issued = authority.issue_cert("127.0.0.1", "localhost")
        issued.private_key_pem.write_to_path(self.configuration / "node.key")
        issued.cert_chain_pems[0].write_to_path(self.configuration / "node.pem")
        authority.cert_pem.write_to_path(self.configuration / "ca.pem")
        self.ca = root / "ca.pem"
        authority.cert_pem.write_to_path(self.ca)
        password = root / "guest.password"
        password.write_text("guest")
        amqps, distribution, epmd, self.management_port = free_ports(4)
        self.broker = Prepared(
            root / "broker",
            BrokerPorts(amqps, distribution, epmd),
            certificate=self.configuration / "node.pem",
            key=self.configuration / "node.key",
            ca=self.ca,
            users=[BrokerUser("guest", password)],
        )
        self.me = pwd.getpwuid(os.getuid()).pw_name

    @property
    def password(self) -> Path:
        return self.configuration / "broker-admin.password"

    @property
    def where(self) -> tuple[str, ...]:
        """Options: whose files are where."""
        files = ("--dir", str(self.configuration), "--rabbitmq", str(self.rabbitmq))
        return (*files, "--owner", self.me, "--rabbitmq-user", self.me)

    def run(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        options = [*self.where, "--address", "127.0.0.1", "--port", str(self.broker.ports.amqps)]
        options += ["--management-port", str(self.management_port)]
        environment = self.broker._environment()
        return subprocess.run(
            [SCRIPT, *arguments, *options],
            env=environment | {"PATH": f"{PROGRAMS}:{environment['PATH']}"},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def users(self) -> dict[str, str]:
        listed = self.broker.ctl("list_users", "--formatter", "json")
        return {user["user"]: " ".join(user["tags"]) for user in json.loads(listed)}


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    host = Host(tmp_path_factory.mktemp("host"), trustme.CA())
    host.broker.start()
    yield host
    host.broker.kill()


@as_root
def test_it_makes_what_providers_need_and_again_changes_nothing(host: Host) -> None:
    done = host.run()
    assert done.returncode == 0, done.stderr
    assert host.users() == {"guest": "administrator", USER: "administrator"}, "guest stays unless it is asked for"
    secret = host.password.read_text()
    assert stat.S_IMODE(host.password.stat().st_mode) == 0o600
    assert len(base64.urlsafe_b64decode(secret + "=")) == 32
    assert secret not in done.stdout + done.stderr
    assert f"{USER}\t.*\t.*\t.*" in host.broker.ctl("list_permissions", "-p", "bellwether")

    again = host.run()
    assert again.returncode == 0, again.stderr
    assert "Made" not in again.stdout
    assert host.password.read_text() == secret


@as_root
def test_a_password_that_providers_have_changed_stays_unless_it_is_asked_for(host: Host) -> None:
    assert host.run().returncode == 0
    host.broker.ctl("change_password", USER, "--", "-changed-by-providers")
    assert host.run().returncode == 0
    host.broker.ctl("authenticate_user", USER, "--", "-changed-by-providers")
    done = host.run("--set-password")
    assert "Set the password" in done.stdout, done.stderr
    host.broker.ctl("authenticate_user", USER, "--", host.password.read_text())


@as_root
def test_guest_goes_where_it_is_asked_for(host: Host) -> None:
    done = host.run("--remove-guest")
    assert done.returncode == 0, done.stderr
    assert set(host.users()) == {USER}
    assert host.run("--remove-guest").returncode == 0


@as_root
def test_the_broker_takes_what_it_wrote(host: Host) -> None:
    """TLS only, with the provider's certificate; the management API answers the new user, on the loopback interface."""
    assert host.run().returncode == 0
    done = host.run("certificate")
    assert done.returncode == 0, done.stderr
    copy = host.rabbitmq / "bellwether" / "node.key"
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert (host.broker.directory / "enabled_plugins").read_text().startswith("[rabbitmq_management]")

    host.broker.written = host.rabbitmq / "conf.d" / "bellwether.conf"
    host.broker.ports = BrokerPorts(
        host.broker.ports.amqps, host.broker.ports.distribution, host.broker.ports.epmd, host.management_port
    )
    host.broker.restart()
    told = host.broker.ctl("status", "--formatter", "json")
    protocols = {one["protocol"] for one in json.loads(told)["listeners"]}
    assert protocols == {"clustering", "amqp/ssl", "https"}
    connections = psutil.Process(host.broker.pid).net_connections("inet")
    listening = {connection.laddr for connection in connections if connection.status == psutil.CONN_LISTEN}
    assert ("127.0.0.1", host.management_port) in listening
    assert _whoami(host, host.password.read_text()) == USER
    with pytest.raises(urllib.error.HTTPError, match="401"):
        _whoami(host, "wrong")


def _whoami(host: Host, password: str) -> str:
    basic = base64.b64encode(f"{USER}:{password}".encode()).decode()
    request = urllib.request.Request(
        f"https://127.0.0.1:{host.management_port}/api/whoami", headers={"Authorization": f"Basic {basic}"}
    )
    context = ssl.create_default_context(cafile=str(host.ca))
    try:
        with urllib.request.urlopen(request, context=context, timeout=20) as answer:
            return str(json.load(answer)["name"])
    except urllib.error.HTTPError as error:
        error.close()
        raise


@as_root
def test_a_certificate_that_does_not_fit_its_key_is_not_given(host: Host) -> None:
    good = (host.configuration / "node.key").read_text()
    try:
        trustme.CA().issue_cert("127.0.0.1").private_key_pem.write_to_path(host.configuration / "node.key")
        done = host.run("certificate")
        assert done.returncode == 1
        assert "do not belong together" in done.stderr
    finally:
        (host.configuration / "node.key").write_text(good)


RENEWED = """#!/bin/sh
/usr/bin/openssl "$@"
cp "$source/node.key.next" "$source/node.key"
"""


@as_root
def test_a_key_that_follows_its_certificate_a_moment_later_is_waited_for(tmp_path: Path) -> None:
    """The path unit, which calls this at the first of the two, does not see the second meanwhile."""
    host, programs = Host(tmp_path, trustme.CA()), tmp_path / "programs"
    key = host.configuration / "node.key"
    key.rename(key.with_name("node.key.next"))
    trustme.CA().issue_cert("127.0.0.1").private_key_pem.write_to_path(key)
    programs.mkdir()
    (programs / "openssl").write_text(RENEWED)
    (programs / "openssl").chmod(0o755)
    done = subprocess.run(
        [SCRIPT, "certificate", *host.where],
        env=os.environ | {"source": str(host.configuration), "PATH": f"{programs}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    given = host.rabbitmq / "bellwether" / "node.key"
    assert given.read_text() == key.with_name("node.key.next").read_text()


BUSY = """#!/bin/sh
mv "$tls"/next/* "$tls"/
[ -e "$tls/../changed" ] || echo "# another authority" >>"$source/ca.pem"
: >"$tls/../changed"
"""
AS_THE_BROKER = "mount --bind rabbitmqctl /usr/lib/rabbitmq/bin/rabbitmqctl; exec {} certificate --now {}"


@as_root
def test_what_is_renewed_while_the_broker_takes_its_files_reaches_it_too(tmp_path: Path) -> None:
    """The path unit does not see it, and the broker had a certificate of an authority that was being replaced."""
    host, ctl = Host(tmp_path, trustme.CA()), tmp_path / "rabbitmqctl"
    ctl.write_text(BUSY)
    ctl.chmod(0o755)
    tls = host.rabbitmq / "bellwether"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", AS_THE_BROKER.format(SCRIPT, shlex.join(host.where))],
        cwd=tmp_path,
        env=os.environ | {"tls": str(tls), "source": str(host.configuration)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done
    assert (tls / "ca.pem").read_text().endswith("# another authority\n")
    for name in ("ca.pem", "node.pem", "node.key"):
        assert (tls / name).read_bytes() == (host.configuration / name).read_bytes()


@as_root
def test_several_brokers_talk_with_tls_and_again_changes_nothing(host: Host) -> None:
    environment = host.rabbitmq / "rabbitmq-env.conf"
    environment.write_text("# Debian's\nNODE_IP_ADDRESS=\n")
    files = ["advanced.config", "rabbitmq-env.conf", "bellwether/dist.config", "conf.d/bellwether-cluster.conf"]
    written = []
    for _ in range(2):
        done = host.run("cluster")
        assert done.returncode == 0, done.stderr
        written.append([(host.rabbitmq / name).read_text() for name in files])
    assert written[0] == written[1]
    assert environment.read_text().startswith("# Debian's\nNODE_IP_ADDRESS=\n")
    assert environment.read_text().count("-proto_dist inet_tls") == 1
    assert (host.rabbitmq / "bellwether/dist.config").read_text().count("verify_peer") == 2


@as_root
def test_what_somebody_else_wrote_for_erlang_is_not_replaced(host: Host) -> None:
    advanced = host.rabbitmq / "advanced.config"
    before = advanced.read_text() if advanced.exists() else None
    try:
        advanced.write_text("[{kernel, []}].\n")
        done = host.run("cluster")
        assert done.returncode == 1
        assert "somebody else's" in done.stderr
        assert advanced.read_text() == "[{kernel, []}].\n"
    finally:
        advanced.unlink() if before is None else advanced.write_text(before)


def test_every_interface_is_left_to_rabbitmq_which_knows_whether_there_is_ipv6() -> None:
    def printed(*options: str) -> list[str]:
        done = subprocess.run([SCRIPT, "--print", *options], capture_output=True, text=True, check=True)
        return [line for line in done.stdout.splitlines() if line.startswith("listeners.ssl")]

    assert printed("--port", "5600") == ["listeners.ssl.default = 5600"]
    assert printed("--address", "10.0.0.1") == ["listeners.ssl.1 = 10.0.0.1:5671"]


def test_it_explains_itself_and_refuses_what_it_does_not_know() -> None:
    assert "Usage" in subprocess.run([SCRIPT, "--help"], capture_output=True, text=True, check=True).stdout
    assert subprocess.run([SCRIPT, "--nonsense"], capture_output=True, check=False).returncode == 2
    assert (
        "listeners.tcp = none" in subprocess.run([SCRIPT, "--print"], capture_output=True, text=True, check=True).stdout
    )
