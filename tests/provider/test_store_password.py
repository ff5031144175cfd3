"""A store's password is given in a file, lies in a file, and is shown nowhere."""

import base64
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from localcluster.api import Api
from localcluster.mariadb import MariaDB
from localcluster.ports import free_ports
from localcluster.process import environment, wait_until
from localcluster.provider import program_path

from provider.founding import Place
from provider.store import split_password
from shared.files import write_atomically
from tests.support.daemons import running
from tests.support.databases import new_database, running_server

SECRET = "s3cret"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MariaDB]:
    with running_server(tmp_path_factory.mktemp("mariadb")) as server:
        yield server


def init(
    directory: Path, store_url: str, *more: str | Path, url: str = "https://127.0.0.1:1"
) -> subprocess.CompletedProcess[str]:
    write_atomically(directory / "given.password", "broker's\n")
    command = [program_path("provider"), "init", "--config", directory / "provider.toml", "--name", "p1"]
    command += ["--url", url, "--broker-endpoint", "amqps://127.0.0.1:1", "--broker-user", "admin"]
    command += ["--broker-password-file", directory / "given.password", "--store-url", store_url, *more]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, check=False, timeout=60)


def test_a_password_on_the_command_line_is_refused(tmp_path: Path) -> None:
    """`ps` shows it to everybody on the host."""
    done = init(tmp_path, "mysql+pymysql://store:s3cret@127.0.0.1/x")
    assert done.returncode == 2
    assert "--store-password-file" in done.stderr
    assert SECRET not in done.stdout + done.stderr
    assert not (tmp_path / "provider.toml").exists()


def test_it_lies_in_a_file_of_its_own(tmp_path: Path, server: MariaDB) -> None:
    url, password = split_password(new_database(server, "state"))
    assert password == SECRET
    write_atomically(tmp_path / "of-the-store", SECRET)
    done = init(tmp_path, url, "--store-password-file", tmp_path / "of-the-store")
    assert done.returncode == 0, done.stderr
    kept = tmp_path / "store.password"
    assert kept.read_text().strip() == SECRET
    assert kept.stat().st_mode & 0o077 == 0
    assert SECRET not in (tmp_path / "provider.toml").read_text()
    assert SECRET not in done.stdout + done.stderr


def test_a_wrong_one_is_not_repeated(tmp_path: Path, server: MariaDB) -> None:
    url, _ = split_password(new_database(server, "other"))
    write_atomically(tmp_path / "wrong", "not-the-one")
    done = init(tmp_path, url, "--store-password-file", tmp_path / "wrong")
    assert done.returncode == 1
    assert "Access denied" in done.stderr
    assert "not-the-one" not in done.stderr
    assert not (tmp_path / "provider.toml").exists()


def test_a_provider_that_works_with_it_shows_it_nowhere(tmp_path: Path, server: MariaDB) -> None:
    """Not in its files, its log, what it answers, and what `ps` shows; nor where the server refuses it."""
    url, _ = split_password(new_database(server, "shown"))
    address, directory = f"https://127.0.0.1:{free_ports(1)[0]}", tmp_path / "p1"
    directory.mkdir(mode=0o700)
    write_atomically(directory / "store.given", SECRET)
    token = directory / "admin.token"
    done = init(
        directory, url, "--store-password-file", directory / "store.given", "--admin-token-file", token, url=address
    )
    assert done.returncode == 0, done.stderr
    (directory / "store.given").unlink()
    place, told = Place(directory / "provider.toml", "p1", address), b""
    with running(place) as daemon:
        api = Api(address, ca=directory / "ca.pem", token=token.read_text().strip())
        wait_until(lambda: serves(api), timeout_s=30, what="the provider")
        for path in ("/cluster", "/settings?limit=1000", "/snapshot", "/audit", "/metrics", "/nodes/p1"):
            answer = api.get(path)
            assert answer.status == 200, path
            told += answer.body
        for what in ("cmdline", "environ"):
            told += Path(f"/proc/{daemon.pid}/{what}").read_bytes()
    told += (directory / "log").read_bytes()  # the next daemon begins it anew
    assert b"provider.toml" in told
    assert b"provider starts" in told
    write_atomically(directory / "store.password", "not-the-one")
    with running(place) as daemon:
        assert daemon.wait(30) != 0
        told += (directory / "log").read_bytes()
    assert b"Access denied" in told
    for file in directory.rglob("*"):
        told += file.read_bytes() if file.is_file() and file.name != "store.password" else b""
    assert b"127.0.0.1" in told
    encoded = (quote(SECRET), base64.b64encode(SECRET.encode()).decode(), SECRET.encode().hex())
    for secret in (SECRET, *encoded, "not-the-one"):
        assert secret.encode() not in told


def serves(api: Api) -> bool:
    try:
        return api.get("/cluster").status == 200
    except OSError:
        return False
