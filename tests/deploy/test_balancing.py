"""The configurations of HAProxy and keepalived that are made from a list of nodes: accepted by both programs, wrong
options told in one line. And what HAProxy may send twice: nothing that may have been done, unless nodes would know it
again."""

import http.client
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trustme
from balancing.configurations import haproxy, keepalived
from balancing.options import HAProxy, Keepalived, Node, Options, Wrong, read_options
from localcluster.ports import free_ports
from localcluster.process import start, wait_until

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
CONFIGURE = DEPLOY / "balancing" / "configure"
ONE = 'nodes = { p1 = "https://10.0.0.1:8443" }'
TWO = 'nodes = { p1 = "https://10.0.0.1:8443", p2 = "https://10.0.0.2:8443" }'
NODES = (Node("p1", "192.0.2.11", 8443), Node("p2", "192.0.2.12", 8443), Node("p3", "192.0.2.13", 8443))


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def files(tmp_path: Path, authority: trustme.CA) -> Path:
    """`ca.pem`, and `own.pem` with a certificate for 127.0.0.1 and its key."""
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(tmp_path / "own.pem")
    return tmp_path


def accepted(program: str, *options: str, file: Path, text: str) -> None:
    file.write_text(text)
    done = subprocess.run([program, *options, file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stderr, done.stderr


@pytest.mark.parametrize("leader", [None, "127.0.0.1:24444"])
@pytest.mark.parametrize("ends_tls", [False, True])
def test_haproxy_accepts_what_is_made_for_it(files: Path, leader: str | None, ends_tls: bool) -> None:
    certificate = str(files / "own.pem") if ends_tls else None
    wanted = HAProxy(listen="127.0.0.1:24443", leader=leader, certificate=certificate, ca=str(files / "ca.pem"))
    text = haproxy(Options(nodes=NODES, haproxy=wanted))
    assert "@" not in text.replace("between @ signs", "")
    accepted("haproxy", "-c", "-f", file=files / "haproxy.cfg", text=text)


def test_keepalived_accepts_what_is_made_for_it(files: Path) -> None:
    interface = next((name for _, name in socket.if_nameindex() if name != "lo"), None)
    if interface is None:
        pytest.skip("keepalived takes no loopback interface, and this machine has no other")
    wanted = Keepalived(address="192.0.2.100/24", interface=interface, user="root")
    options = Options(nodes=NODES, own="p2", ca=str(files / "ca.pem"), keepalived=wanted)
    text = keepalived(options)
    assert "@" not in text.replace("between @ signs", "")
    assert "unicast_src_ip 192.0.2.12" in text
    assert "--resolve" not in text, "its address is in numbers"
    accepted("keepalived", "-t", "-f", file=files / "keepalived.conf", text=text)


def test_the_example_holds_all_there_is() -> None:
    text = (DEPLOY / "balancing" / "balancing.toml").read_text()
    whole = "\n".join(
        line.removeprefix("# ") if " = " in line or line.startswith("# [") else line for line in text.splitlines()
    )
    options = read_options(whole)
    assert [node.name for node in options.nodes] == ["p1", "p2", "p3"]
    assert options.haproxy is not None
    assert options.keepalived == Keepalived(address="10.0.0.100/24", interface="eth0")
    assert read_options(text).haproxy == HAProxy(), "what is commented out is what holds without it"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[haproxy", "not TOML"),
        ("[proxy]", "there is no proxy"),
        ('[haproxy]\nlisten = "*:443 ssl"', "listen may hold no spaces"),
        ("[keepalived]\nrouter = 9", "address and interface are needed"),
        ('nodes = { p1 = "10.0.0.1:8443" }\n[haproxy]', "is not https://host:port"),
        ('nodes = { "p 1" = "https://10.0.0.1:8443" }\n[haproxy]', "is not https://host:port"),
        (ONE, "neither"),
        (f'{ONE}\nown = "p9"\n[keepalived]\naddress = "10.0.0.9/24"\ninterface = "lo"', "own"),
        (f'{TWO}\nown = "p1"\n[keepalived]\naddress = "fd00::9/64"\ninterface = "lo"', "no IPv6 address"),
    ],
)
def test_what_is_wrong_is_told_in_one_line_and_nothing_is_written(tmp_path: Path, text: str, said: str) -> None:
    options = tmp_path / "balancing.toml"
    options.write_text(text)
    done = subprocess.run(
        [sys.executable, CONFIGURE, "apply", "--options", options], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert said in done.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["balancing.toml"]


def test_a_configuration_that_is_refused_replaces_none(files: Path) -> None:
    """The file that is in use stays, and the proxy with it."""
    (files / "haproxy.cfg").write_text("in use")
    options = files / "balancing.toml"
    options.write_text(
        f'nodes = {{ p1 = "https://192.0.2.11:8443" }}\nca = "{files}/ca.pem"\n[haproxy]\nlisten = "nowhere"\n'
        f'file = "{files}/haproxy.cfg"\nca = "{files}/copy.pem"\n'
    )
    done = subprocess.run(
        [sys.executable, CONFIGURE, "apply", "--options", options], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "haproxy -c" in done.stderr
    assert (files / "haproxy.cfg").read_text() == "in use"


def test_a_configuration_that_was_not_loaded_is_loaded_later(files: Path) -> None:
    """The files were as they should be from then on, and the proxy went on with the old ones."""
    systemctl = files / "bin" / "systemctl"
    systemctl.parent.mkdir()
    systemctl.write_text(f"#!/bin/sh\necho $* >>{files}/asked\ntest -e {files}/works\n")
    systemctl.chmod(0o755)
    options = files / "balancing.toml"
    options.write_text(
        f'nodes = {{ p1 = "https://192.0.2.11:8443" }}\nca = "{files}/ca.pem"\n[haproxy]\n'
        f'file = "{files}/haproxy.cfg"\nca = "{files}/copy.pem"\nuser = ""\nsocket = ""\n'
    )

    def apply() -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, CONFIGURE, "apply", "--options", options],
            capture_output=True,
            text=True,
            check=False,
            env={"PATH": f"{systemctl.parent}:/usr/sbin:/usr/bin:/sbin:/bin"},
        )
        return done.returncode, done.stdout + done.stderr

    for _ in range(2):
        code, said = apply()
        assert (code, "systemctl reload-or-restart haproxy" in said) == (1, True), said
    (files / "works").touch()
    code, said = apply()
    assert (code, "changed, and in use" in said) == (0, True), said
    code, said = apply()
    assert (code, "as it should be" in said) == (0, True), said
    assert (files / "asked").read_text() == "reload-or-restart haproxy\n" * 3


# ── nodes that are given by name ─────────────────────────────────────────────────────────────────────────────────────

HOSTS = """
127.0.0.1 localhost
127.0.1.1 p1.example.org
2001:db8::2 p2.example.org
192.0.2.2 p2.example.org
192.0.2.9 p2.example.org
"""
ELSEWHERE = """
mount --bind hosts /etc/hosts
mount --bind /dev/null /etc/resolv.conf
ip link add host0 type veth peer name away0
ip address add 192.0.2.1/24 dev host0
ip link set host0 up
exec python3 "$0" "$1" --options options
"""


def elsewhere(directory: Path, command: str) -> str:
    """What `configure` makes on a host of its own: with /etc/hosts as in `hosts`, and the address 192.0.2.1."""
    done = subprocess.run(
        ["unshare", "--mount", "--net", "sh", "-ec", ELSEWHERE, CONFIGURE, command],
        capture_output=True,
        text=True,
        check=True,
        cwd=directory,
    )
    return done.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="it must run as root")
def test_names_are_addresses_that_others_can_call(tmp_path: Path) -> None:
    """On Debian a host's own name is 127.0.1.1, and keepalived was told to speak from there; the name of another is
    IPv6 first, where the address to be had is IPv4."""
    nodes = 'p1 = "https://p1.example.org:8443", p2 = "https://p2.example.org:8443"'
    (tmp_path / "hosts").write_text(HOSTS)
    (tmp_path / "options").write_text(
        f'own = "p1"\nnodes = {{ {nodes} }}\n[haproxy]\n[keepalived]\naddress = "192.0.2.100/24"\ninterface = "host0"\n'
    )
    lines = [line.strip() for line in elsewhere(tmp_path, "keepalived").splitlines()]
    assert "unicast_src_ip 192.0.2.1" in lines
    assert lines[lines.index("unicast_peer {") + 1 :][:2] == ["192.0.2.2", "}"]
    (look,) = [line for line in lines if line.startswith("script ")]
    named = "--resolve p1.example.org:8443:192.0.2.1,127.0.1.1 https://p1.example.org:8443/health/primary"
    assert named in look, "or the address would go with the name server"
    assert "server p2 192.0.2." in elsewhere(tmp_path, "haproxy")


def test_a_proxy_keeps_the_address_that_it_uses_until_it_is_another() -> None:
    """It looked names up once, when it started: a node that had moved was away, and all were while DNS was."""

    def server(host: str, now: str) -> str:
        text = haproxy(Options(nodes=(Node("p1", host, 8443),), haproxy=HAProxy()), now)
        return next(line.split()[2] for line in text.splitlines() if line.strip().startswith("server p1 "))

    now = "backend ready\n    server p1-ready 192.0.2.8:8443\n    server p1 {}:8443 check check-ssl\n"
    assert server("p1.example.invalid", now.format("192.0.2.7")) == "192.0.2.7:8443"
    assert server("p1.example.invalid", now.format("[2001:db8::7]")) == "[2001:db8::7]:8443"
    assert server("p1.example.invalid", "") == "p1.example.invalid:8443", "HAProxy looks it up when it starts"
    assert server("127.0.0.1", now.format("192.0.2.7")) == "127.0.0.1:8443"
    assert server("localhost", now.format("127.0.0.1")) == "127.0.0.1:8443"
    assert server("localhost", now.format("192.0.2.7")) in ("127.0.0.1:8443", "[::1]:8443")


def test_it_runs_where_nothing_of_ours_is_installed(files: Path) -> None:
    """As on a host that is only a proxy: with the system's Python, from a copy."""
    for name in ("balancing", "haproxy", "keepalived"):
        shutil.copytree(DEPLOY / name, files / "share" / name)
    options = files / "balancing.toml"
    options.write_text('nodes = { p1 = "https://192.0.2.11:8443" }\n[haproxy]\n')
    done = subprocess.run(
        [files / "share" / "balancing" / "configure", "haproxy", "--options", options],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin"},
    )
    assert "server p1 192.0.2.11:8443 check check-ssl" in done.stdout, done.stderr


# ── what is sent twice ───────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Fake:
    """A node that says it is ready. The one that is broken hangs up as soon as it has read a request's headers."""

    name: str
    port: int
    broken: bool
    asked: list[str] = field(default_factory=list)


@contextmanager
def fake(name: str, authority: trustme.CA, *, broken: bool) -> Iterator[Fake]:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", name).configure_cert(tls)
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.1)
        node = Fake(name, listener.getsockname()[1], broken)

        def serve() -> None:
            while not over.is_set():
                with suppress(OSError):
                    plain, _ = listener.accept()
                    plain.settimeout(5)
                    with plain, tls.wrap_socket(plain, server_side=True) as connection:
                        _answer(node, connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield node
        finally:
            over.set()
            thread.join(10)


def _answer(node: Fake, connection: ssl.SSLSocket) -> None:
    data = b""
    while b"\r\n\r\n" not in data and (piece := connection.recv(65536)):
        data += piece
    line = data.partition(b"\r\n")[0].decode()
    if not line:
        return
    if "/health/" not in line:
        node.asked.append(line)
        if node.broken:
            return
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")


@pytest.mark.parametrize(
    ("method", "headers", "status", "times"),
    [
        ("GET", {}, 200, 2),
        ("PUT", {"Idempotency-Key": "k"}, 200, 2),
        ("POST", {"Idempotency-Key": "k"}, 200, 2),
        ("PUT", {}, 502, 1),
        ("POST", {}, 502, 1),
        ("DELETE", {}, 502, 1),
    ],
)
def test_what_may_have_been_done_is_not_sent_again(
    files: Path, authority: trustme.CA, method: str, headers: dict[str, str], status: int, times: int
) -> None:
    """One of two nodes takes the request and dies before it answers. The proxy asks the other where that is safe; where
    it is not, it says that the outcome is unknown."""
    ports = free_ports(2)
    with ExitStack() as stack:
        nodes = [stack.enter_context(fake(name, authority, broken=name == "p1")) for name in ("p1", "p2")]
        wanted = HAProxy(
            listen=f"127.0.0.1:{ports[0]}",
            stats=f"127.0.0.1:{ports[1]}",
            certificate=str(files / "own.pem"),
            user="",
            socket="",
            ca=str(files / "ca.pem"),
        )
        options = Options(nodes=tuple(Node(node.name, "127.0.0.1", node.port) for node in nodes), haproxy=wanted)
        (files / "haproxy.cfg").write_text(haproxy(options).replace("balance leastconn", "balance first"))
        process = start(["haproxy", "-db", "-f", files / "haproxy.cfg"], log=files / "haproxy.log")
        stack.callback(process.stop)
        wait_until(lambda: _listens(ports[0]), timeout_s=15, what="haproxy", process=process)
        tls = ssl.create_default_context(cafile=str(files / "ca.pem"))
        connection = http.client.HTTPSConnection("127.0.0.1", ports[0], context=tls, timeout=10)
        connection.request(method, "/api/v1/x", body=None if method == "GET" else b"{}", headers=headers)
        answer = connection.getresponse()
        body = json.loads(answer.read())
        connection.close()
    assert answer.status == status, body
    assert sum(len(node.asked) for node in nodes) == times
    if status == 502:
        assert (body["code"], body["status"], body["retryable"]) == ("outcome_unknown", 502, True)
        assert answer.getheader("content-type") == "application/problem+json"


def _listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def test_a_proxy_without_nodes_says_so_as_a_node_would(files: Path) -> None:
    ports = free_ports(3)
    wanted = HAProxy(
        listen=f"127.0.0.1:{ports[0]}",
        stats=f"127.0.0.1:{ports[1]}",
        certificate=str(files / "own.pem"),
        user="",
        socket="",
        ca=str(files / "ca.pem"),
    )
    options = Options(nodes=(Node("p1", "127.0.0.1", ports[2]),), haproxy=wanted)
    (files / "haproxy.cfg").write_text(haproxy(options))
    process = start(["haproxy", "-db", "-f", files / "haproxy.cfg"], log=files / "haproxy.log")
    try:
        wait_until(lambda: _listens(ports[0]), timeout_s=15, what="haproxy", process=process)
        tls = ssl.create_default_context(cafile=str(files / "ca.pem"))
        connection = http.client.HTTPSConnection("127.0.0.1", ports[0], context=tls, timeout=10)
        connection.request("GET", "/api/v1/cluster")
        answer = connection.getresponse()
        body = json.loads(answer.read())
        connection.close()
    finally:
        process.stop()
    assert (answer.status, body["code"], body["retryable"]) == (503, "unavailable", True)


def test_no_configuration_without_its_section() -> None:
    with pytest.raises(Wrong, match=r"\[keepalived\]"):
        keepalived(Options(nodes=NODES, own="p1"))
