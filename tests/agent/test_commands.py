"""`agent enroll`, `advise`, `status` as a person types them; the provider is a small HTTPS server of the test."""

import base64
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trustme

from agent import credentials
from agent.settings import AgentFiles
from shared.files import locked
from shared.messages import Advice
from shared.tls import fingerprint
from shared.tokens import matches, new_token, parse_token
from tests.support.answering import AUTHORITY_PEM, Asked, answering

PROGRAM = Path(sys.executable).with_name("agent")
NOWHERE = "https://127.0.0.1:1"


@dataclass
class Provider:
    """Answers with `answers[path]`: a status and a JSON body. `asked` is what came: method, path, token, body."""

    url: str
    ca: str
    answers: dict[str, tuple[int, Any]]
    asked: list[tuple[str, str, str | None, Any]] = field(default_factory=list)

    def advice(self, **more: Any) -> dict[str, Any]:
        content = {
            "epoch": 3,
            "primary": "p1",
            "endpoints": ["amqps://127.0.0.1:1"],
            "providers": [self.url],
            "vhost": "bellwether",
            "ca": self.ca,
        }
        return Advice.model_validate(content | more).model_dump(mode="json")

    def answer(self, asked: Asked) -> tuple[int, str]:
        body = json.loads(asked.body) if asked.body else None
        self.asked.append((asked.method, asked.path, asked.headers.get("Authorization"), body))
        status, content = (200, self.ca) if asked.path == "/api/v1/ca" else self.answers.get(asked.path, (404, {}))
        return status, content if isinstance(content, str) else json.dumps(content)


@pytest.fixture
def provider() -> Iterator[Provider]:
    made = Provider("", AUTHORITY_PEM, {})
    with answering(made.answer) as made.url:
        made.answers["/api/v1/enroll"] = (201, {"username": "db1", "advice": made.advice()})
        made.answers["/api/v1/agents/db1/advice"] = (200, made.advice(epoch=4, primary="p2"))
        yield made


@dataclass
class Host:
    """A host with an agent's directory and a token."""

    directory: Path
    token: Path

    @property
    def config(self) -> Path:
        return self.directory / "agent.toml"

    def agent(self, command: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [PROGRAM, command, *map(str, arguments), "--config", self.config],
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            env=os.environ | environment,
            timeout=60,
        )

    def enroll(self, url: str, *more: object) -> subprocess.CompletedProcess[str]:
        return self.agent("enroll", url, "--id", "db1", "--token-file", self.token, "--socket", "/run/db.sock", *more)

    def files(self) -> set[str]:
        return {path.name for path in self.directory.iterdir()} if self.directory.exists() else set()


@pytest.fixture
def host(tmp_path: Path, provider: Provider) -> Host:
    token = tmp_path / "token"
    token.write_text(new_token("agent", fingerprint(provider.ca)).text() + "\n")
    return Host(tmp_path / "etc", token)


def test_enrolment_writes_all_that_the_daemon_needs(host: Host, provider: Provider) -> None:
    done = host.enroll(f"{NOWHERE},{provider.url}")
    assert (done.returncode, done.stderr) == (0, "")
    assert "primary p1, epoch 3" in done.stdout
    assert host.files() == {"agent.toml", "broker.json", "broker.password", "credential.json", "api.token", "ca.pem"}
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in host.directory.iterdir())
    content = json.loads((host.directory / "broker.json").read_text())
    assert content.keys() == {"epoch", "primary", "endpoints", "providers", "vhost", "ca"}
    assert Path(content["ca"]).read_text() == provider.ca
    method, path, authorization, body = provider.asked[-1]
    assert (method, path) == ("POST", "/api/v1/enroll")
    assert authorization == f"Bearer {host.token.read_text().strip()}"
    assert body["id"] == "db1"
    # Its secrets were made here; what was sent is what the other side needs to know them again.
    own = parse_token((host.directory / "api.token").read_text())
    assert (own.role, own.id) == ("agent", "db1")
    assert matches(own, body["token_sha256"])
    salted = base64.b64decode(body["broker_password_hash"])
    password = (host.directory / "broker.password").read_text().strip()
    assert salted[4:] == hashlib.sha256(salted[:4] + password.encode()).digest()
    assert len(password) == 64
    assert body["instances"] == [{"id": "db1", "engine": "mariadb", "socket": "/run/db.sock"}]


def test_the_token_may_come_from_the_environment(host: Host, provider: Provider) -> None:
    options = ("--id", "db1", "--host", "127.0.0.1", "--port", 3307, "--instance-id", "main")
    done = host.agent("enroll", provider.url, *options, BELLWETHER_TOKEN=host.token.read_text())
    assert done.returncode == 0, done.stderr
    assert provider.asked[-1][3]["instances"] == [
        {"id": "main", "engine": "mariadb", "host": "127.0.0.1", "port": 3307}
    ]


def test_a_configuration_that_is_there_is_used_and_kept(host: Host, provider: Provider) -> None:
    host.directory.mkdir()
    text = '# mine\nid = "db1"\n[[instances]]\nid = "a"\nsocket = "a.sock"\n[[instances]]\nid = "b"\nhost = "::1"\n'
    host.config.write_text(text)
    done = host.agent("enroll", provider.url, "--token-file", host.token)
    assert done.returncode == 0, done.stderr
    assert host.config.read_text() == text
    assert [one["id"] for one in provider.asked[-1][3]["instances"]] == ["a", "b"]
    again = host.enroll(provider.url)
    assert again.returncode == 1
    assert "names other servers" in again.stderr


def test_another_broker_user_is_kept_in_the_configuration(host: Host, provider: Provider) -> None:
    provider.answers["/api/v1/enroll"][1]["username"] = "agent-db1"
    assert host.enroll(provider.url).returncode == 0
    assert host.config.read_text().startswith('broker_username = "agent-db1"\n')
    assert host.enroll(provider.url).returncode == 0  # again is no harm
    assert host.config.read_text().count("broker_username") == 1


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ((401, {"code": "unauthenticated", "detail": "the token was used already"}), "the token was used already"),
        ((409, {"detail": "an agent db1 exists"}), "an agent db1 exists"),
        ((503, {"detail": "no primary"}), "no primary"),
        ((200, {"surprise": 1}), "not understood"),
        ((500, "<html>"), "HTTP 500"),
    ],
)
def test_a_refused_enrolment_says_why_in_one_line_and_writes_nothing(
    host: Host, provider: Provider, answer: tuple[int, Any], text: str
) -> None:
    provider.answers["/api/v1/enroll"] = answer
    done = host.enroll(provider.url)
    assert done.returncode == 1
    assert text in done.stderr
    assert done.stderr.count("\n") == 1
    assert host.files() == set()


def test_a_provider_of_another_cluster_never_sees_the_token(host: Host, provider: Provider) -> None:
    stranger = trustme.CA().cert_pem.bytes().decode()
    host.token.write_text(new_token("agent", fingerprint(stranger)).text())
    done = host.enroll(provider.url)
    assert done.returncode == 1
    assert "another cluster" in done.stderr
    assert [(path, token) for _, path, token, _ in provider.asked] == [("/api/v1/ca", None)]


def test_certificates_that_stand_behind_the_pinned_one_are_not_trusted(host: Host, provider: Provider) -> None:
    # An impostor that serves with its own CA, and sends the real one first so that the fingerprint fits.
    real = trustme.CA().cert_pem.bytes().decode()
    host.token.write_text(new_token("agent", fingerprint(real)).text())
    provider.ca = real + provider.ca
    done = host.enroll(provider.url)
    assert done.returncode == 1
    assert all(path == "/api/v1/ca" for _, path, _, _ in provider.asked)


@pytest.mark.parametrize(
    "text",
    ["", "rubbish", new_token("admin").text(), new_token("agent").text()],
    ids=["empty", "rubbish", "another role", "no fingerprint"],
)
def test_what_is_no_agent_token_is_refused_and_not_repeated(host: Host, provider: Provider, text: str) -> None:
    host.token.write_text(text)
    done = host.enroll(provider.url)
    assert done.returncode == 1
    assert not text or text not in done.stderr
    assert provider.asked == []


def test_advise_pulls_the_settings_from_the_first_that_answers(host: Host, provider: Provider) -> None:
    host.enroll(provider.url)
    done = host.agent("advise", f"{NOWHERE},{provider.url}")
    assert done.returncode == 0, done.stderr
    own = (host.directory / "api.token").read_text().strip()
    assert provider.asked[-1][:3] == ("GET", "/api/v1/agents/db1/advice", f"Bearer {own}")
    assert json.loads((host.directory / "broker.json").read_text())["epoch"] == 4
    # A deposed primary cannot take the agent back, a damaged file can be mended.
    provider.answers["/api/v1/agents/db1/advice"] = (200, provider.advice(epoch=3))
    done = host.agent("advise", provider.url)
    assert done.returncode == 1
    assert "deposed" in done.stderr
    (host.directory / "broker.json").write_text("{")
    assert host.agent("advise", provider.url).returncode == 0


def test_advice_that_is_overtaken_while_it_is_fetched_is_not_written(host: Host, provider: Provider) -> None:
    host.enroll(provider.url)
    files = AgentFiles(host.config)
    credentials.write(credentials.read(files).with_next(1).activated().switched(), files)  # so it has something to tell
    file = files.broker
    newer = json.dumps(json.loads(file.read_text()) | {"epoch": 9})
    asked = provider.answer

    def meanwhile(one: Asked) -> tuple[int, str]:
        if one.method == "PUT":  # the last request: the daemon is told of a newer epoch
            file.write_text(newer)
        return asked(one)

    with answering(meanwhile) as url:
        done = host.agent("advise", url)
    assert done.returncode == 1
    assert "this agent has seen 9" in done.stderr
    assert file.read_text() == newer
    provider.answers["/api/v1/agents/db1/advice"] = (200, provider.advice(epoch=10))
    with locked(files.broker_lock, "held already"):
        done = host.agent("advise", provider.url)
    assert (done.returncode, "try again" in done.stderr) == (1, True)


def test_nobody_there_is_said_in_one_line(host: Host, provider: Provider) -> None:
    host.enroll(provider.url)
    done = host.agent("advise", NOWHERE)
    assert done.returncode == 1
    assert "does not answer" in done.stderr
    assert done.stderr.count("\n") == 1


def test_wrong_usage_is_2_and_a_missing_configuration_1(host: Host) -> None:
    assert host.agent("explode").returncode == 2
    assert host.agent("enroll", NOWHERE, "--token-file", host.token).returncode == 2
    for command in ("run", "status"):
        done = host.agent(command)
        assert done.returncode == 1
        assert "enrol this agent first" in done.stderr


def test_run_refuses_what_cannot_work(host: Host, provider: Provider) -> None:
    host.enroll(provider.url)
    (host.directory / "broker.json").write_text('{"epoch": 1}')
    done = host.agent("run")
    assert done.returncode == 1
    assert "broker.json" in done.stderr


def test_a_second_daemon_under_the_same_name_is_refused(host: Host, provider: Provider) -> None:
    """Two of them answered to one name in turns, and each wrote the other's status."""
    host.enroll(provider.url)
    with locked(host.directory / "agent.lock", "held already"):
        done = host.agent("run")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("agent run: the agent db1 runs already")


def test_what_is_no_address_is_one_line(host: Host, provider: Provider) -> None:
    host.enroll(provider.url)
    done = host.agent("advise", "https://[::")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "agent: https://[::: expected https://host:port\n"


def test_status_of_an_agent_that_never_ran(host: Host, provider: Provider) -> None:
    host.enroll(provider.url)
    done = host.agent("status", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout) == {"id": "db1", "state": "never started"}
