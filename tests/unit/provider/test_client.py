"""What the commands make of what they are given, and of an answer."""

import json
import os
import ssl
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from agent import settings as agent
from provider.cli import node, remote
from provider.cli.failover import Operation, failover
from provider.client import Broken, Client, Unreachable, _here, _lines, checked_url, local, path
from provider.settings import ApiSettings, BrokerSettings, Files, ProviderSettings
from shared.errors import Invalid
from tests.support.answering import AUTHORITY, AUTHORITY_PEM, answering

AWKWARD = ["plain", "a\u2028b", "\x85", "\r", "\x0b\x0c\x1c", "ü" * 5, ""]
CA = """-----BEGIN CERTIFICATE-----
bm8gY2VydGlmaWNhdGU=
-----END CERTIFICATE-----
"""


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_only_a_line_feed_ends_a_line(size: int) -> None:
    """Settings may hold characters that end lines to some: a snapshot with one of them could not be read."""
    lines = [json.dumps(text, ensure_ascii=False) for text in AWKWARD]
    for end in ("\n", ""):
        data = ("\n".join(lines) + end).encode()
        assert list(_lines(data[i : i + size] for i in range(0, len(data), size))) == lines


@pytest.mark.parametrize("name", ["../tokens/0123", "..", ".", "a/b", "x?force=true", "x#y", "%2e%2e", "a b", "ü"])
def test_a_name_leads_nowhere_else(name: str) -> None:
    """`provider ca drop ../tokens/ID` revoked a token: what is typed for a name is one segment of the path."""
    asked = httpx2.URL("https://p1:1/api/v1" + path("authorities", name))
    above, _, last = asked.raw_path.decode().rpartition("/")
    assert above == "/api/v1/authorities"
    assert last not in ("", ".", "..")
    assert not asked.query


BAD_URLS = [
    "p1:8443",
    "http://127.0.0.1:1",
    "https://",
    "https://[::",
    "https://h:99999",
    "https://h:x",
    "https://a\nb",
]


@pytest.mark.parametrize("url", BAD_URLS)
def test_what_is_no_address_is_told_before_a_token_is_sent_there(url: str) -> None:
    with pytest.raises(Invalid, match="expected https://host:port"):
        checked_url(url)


@pytest.mark.parametrize("token", ["", " ", "one\ntwo-secret", "sécret"])
def test_a_token_that_no_header_can_hold_is_not_repeated(token: str) -> None:
    with pytest.raises(Invalid) as refused:
        Client(["https://p1:1"], token=token, tls=ssl.create_default_context())
    assert not any(part in refused.value.detail for part in ("two-secret", "sécret"))


def test_a_daemon_that_is_not_there_is_told_from_a_connection_that_broke() -> None:
    """`failover --operation promote` said that the connection broke, where `provider run` did not run."""
    client = Client(["https://127.0.0.1:1"], token="bw.admin.1.2", tls=ssl.create_default_context())
    with pytest.raises(Unreachable, match="refused") as told:
        next(client.lines("POST", "/failover"))
    assert not isinstance(told.value, Broken)
    client.close()


@pytest.mark.parametrize("listen", [":{}", "0.0.0.0:{}", "127.0.0.1:{}", "localhost:{}"])
def test_the_daemon_on_this_host_is_reached_without_dns(listen: str, tmp_path: Path) -> None:
    """`failover --operation promote` said that the provider on this host does not answer, while DNS was down: it asked
    at the URL. Where that is a load balancer's, another node answered."""
    files = Files(tmp_path / "provider.toml")
    files.node_token.write_text("bw.admin.1.2")
    files.ca.write_text(AUTHORITY_PEM)
    own = AUTHORITY.issue_cert("p2.example.invalid")
    own.cert_chain_pems[0].write_to_path(files.certificate)
    own.private_key_pem.write_to_path(files.key)
    with answering(lambda asked: (200, json.dumps({"path": asked.path}))) as url:
        settings = ProviderSettings(
            name="p2",
            url="https://p2.example.invalid:8443",
            data_dir=tmp_path,
            store_url="sqlite:///state.db",
            broker=BrokerSettings(endpoints=("amqps://127.0.0.1:1",), username="node.p2"),
            api=ApiSettings(listen=listen.format(url.rpartition(":")[2])),
        )
        client = local(settings, files)
        assert client.get("/cluster") == {"path": "/api/v1/cluster"}
        assert list(client.lines("POST", "/failover", {})) == ['{"path": "/api/v1/failover"}']
        client.close()


@pytest.mark.parametrize(
    ("listen", "url"),
    [
        ("10.0.0.2:8443", "https://10.0.0.2:8443"),
        ("[::]:8443", "https://[::1]:8443"),
        (":::8443", "https://[::1]:8443"),
        ("2001:db8::9:8443", "https://[2001:db8::9]:8443"),
    ],
)
def test_where_a_daemon_listens_says_where_it_is_asked(listen: str, url: str) -> None:
    assert _here(listen) == url


def _said(command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """What a command that fails says on stderr: one line, with exit code 1."""
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as ended:
        (remote if command[0] == "bellwether" else node).main()
    out, said = capsys.readouterr()
    assert (ended.value.code, out) == (1, "")
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    return said


@pytest.mark.parametrize("command", [["nodes", "--json"], ["nodes", "list", "--json"]])
def test_the_nodes_are_listed_with_and_without_a_command(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A group of commands hid the command of the same name: it showed its help."""
    (tmp_path / "ca.pem").write_text(AUTHORITY_PEM)
    monkeypatch.setenv("BELLWETHER_CA", str(tmp_path / "ca.pem"))
    monkeypatch.setenv("BELLWETHER_TOKEN", "bw.viewer.1.2")
    monkeypatch.setattr(sys, "argv", ["bellwether", *command])
    with answering(lambda asked: (200, json.dumps({"nodes": [asked.path]}))) as url:
        monkeypatch.setenv("BELLWETHER_API", url)
        with pytest.raises(SystemExit) as ended:
            remote.main()
    assert (ended.value.code, json.loads(capsys.readouterr().out)) == (0, ["/api/v1/cluster"])


@pytest.mark.parametrize(
    ("variables", "why"),
    [
        ({"BELLWETHER_API": ","}, "set BELLWETHER_API"),
        ({"BELLWETHER_API": "https://[::"}, "no provider's address"),
        ({"BELLWETHER_TOKEN_FILE": "binary"}, "binary cannot be read: it is not text"),
        ({"BELLWETHER_TOKEN_FILE": "none"}, "none cannot be read: No such file"),
        ({"BELLWETHER_CA": "none"}, "none cannot be read: No such file"),
        ({"BELLWETHER_CA": "token"}, "token cannot be used"),
        ({"BELLWETHER_CA": "ca.pem"}, "ca.pem cannot be used"),
    ],
)
def test_a_wrong_environment_is_one_line(
    variables: dict[str, str],
    why: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("binary").write_bytes(b"\x9f\xff")
    Path("token").write_text("bw.viewer.1.2\n")
    Path("ca.pem").write_text(CA)
    usual = {"BELLWETHER_API": "https://127.0.0.1:1", "BELLWETHER_CA": "ca.pem", "BELLWETHER_TOKEN_FILE": "token"}
    for name, value in (usual | variables).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("BELLWETHER_TOKEN", raising=False)
    assert why in _said(["bellwether", "status"], monkeypatch, capsys)


def test_a_secret_that_nobody_can_be_asked_for_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("BELLWETHER_TOKEN", raising=False)
    command = ["provider", "join", "https://127.0.0.1:1", "--name", "p2", "--url", "https://127.0.0.1:2"]
    command += ["--config", str(tmp_path / "provider.toml")]
    with Path("/dev/null").open() as nobody:
        monkeypatch.setattr(sys, "stdin", nobody)
        assert "set BELLWETHER_TOKEN" in _said(command, monkeypatch, capsys)


def test_a_password_file_that_is_no_text_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    binary = tmp_path / "binary"
    binary.write_bytes(b"\x9f\xff")
    command = ["provider", "join", "https://127.0.0.1:1", "--name", "p2", "--url", "https://127.0.0.1:2"]
    command += ["--config", str(tmp_path / "provider.toml"), "--token-file", str(binary)]
    assert f"{binary} cannot be read" in _said(command, monkeypatch, capsys)


@contextmanager
def somebody() -> Iterator[None]:
    """Within this block this process is not root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("command", [lambda c: failover(Operation.status, c), node.status, agent.load_settings])
def test_whoever_may_not_read_the_configuration_is_told_who_may(
    command: Callable[[Path], None], tmp_path: Path
) -> None:
    """`failover` said "[Errno 13] Permission denied", and not what to do."""
    home = tmp_path / "bellwether"
    home.mkdir(mode=0o700 if os.geteuid() == 0 else 0)
    with pytest.raises(Invalid, match=r"may not read it; run this as root \(sudo\)"), somebody():
        command(home / "provider.toml")
