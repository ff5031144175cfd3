"""A configuration that was written is read back as it was; one that is wrong is refused, with the place and the why."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider.founding import Place
from provider.hostfiles import check_private, store_address
from provider.settings import (
    ApiSettings,
    BrokerSettings,
    Files,
    ProviderSettings,
    configuration,
    fingerprint_of,
    host_of,
    load_settings,
    nested,
    port_of,
    set_apart,
    to_toml,
)
from provider.store import Store, split_password
from shared.errors import Invalid, Refused
from shared.files import write_atomically

TEXT = """
name = "p1"
url = "https://10.0.0.1:8443"
data_dir = "/var/lib/bellwether"
store_url = "sqlite:////var/lib/bellwether/state.db"
[broker]
endpoints = ["amqps://10.0.0.1:5671"]
username = "bellwether"
[api]
listen = "10.0.0.1:8443"
"""


@given(
    directory=st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=20),
    username=st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=20),
    wait_s=st.floats(0, 1000),
    endpoints=st.lists(st.sampled_from(["amqps://a:1", "amqps://b:2", "amqps://[::1]:3"]), min_size=1, max_size=3),
    management=st.none() | st.just("https://a:15671"),
)
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory,
    directory: str,
    username: str,
    wait_s: float,
    endpoints: list[str],
    management: str | None,
) -> None:
    settings = ProviderSettings(
        name="p1",
        url="https://a:1",
        data_dir=Path("/") / directory,
        store_url=f"sqlite:////{directory}",
        broker=BrokerSettings(endpoints=tuple(endpoints), username=username, management=management),
        api=ApiSettings(listen="a:1", primary_wait_s=wait_s),
    )
    file = tmp_path_factory.getbasetemp() / "provider.toml"
    file.write_text(to_toml(settings), encoding="utf-8")
    assert load_settings(file) == settings


def test_what_has_its_default_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text(TEXT)
    settings = load_settings(tmp_path / "p.toml")
    assert settings.api.primary_wait_s == 2.0
    assert "primary_wait_s" not in to_toml(settings)
    assert "vhost" not in to_toml(settings)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('name = "p1"', 'name = "P1"', "name"),
        ('name = "p1"', 'name = ""', "name"),
        ('name = "p1"', "", "name"),
        ('name = "p1"', 'name = "p1"\nnmae = "p2"', "nmae"),
        ("https://10.0.0.1:8443", "http://10.0.0.1:8443", "url"),
        ("https://10.0.0.1:8443", "https://user:secret@10.0.0.1:8443", "url"),
        ("https://10.0.0.1:8443", "https://10.0.0.1:8443/", "url"),
        ('["amqps://10.0.0.1:5671"]', "[]", "broker.endpoints"),
        ("amqps://", "amqp://", "broker.endpoints"),
        ('listen = "10.0.0.1:8443"', 'listen = "x"\nprimary_wait_s = -1', "api.primary_wait_s"),
        ('listen = "10.0.0.1:8443"', 'listen = "x"\ncommit_wait_s = 0', "api.commit_wait_s"),
        ('listen = "10.0.0.1:8443"', 'listen = "x"\nbody_max_bytes = 1', "api.body_max_bytes"),
        ("[api]", "[api", "p.toml"),
        ("[api]", "[web]", "api"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, old: str, new: str, says: str) -> None:
    assert old in TEXT
    (tmp_path / "p.toml").write_text(TEXT.replace(old, new))
    with pytest.raises(Invalid, match=says) as error:
        load_settings(tmp_path / "p.toml")
    assert "secret" not in error.value.detail, "an address may hold a password"
    assert "\n" not in error.value.detail.strip() or "TOML" in error.value.detail


def test_a_file_that_is_not_there_says_what_makes_it(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="provider init"):
        load_settings(tmp_path / "p.toml")
    with pytest.raises(Invalid, match="p"):
        load_settings(tmp_path)


def test_parts_of_an_address() -> None:
    assert (host_of("https://10.0.0.1:8443"), port_of("https://10.0.0.1:8443")) == ("10.0.0.1", 8443)
    assert (host_of("https://[::1]:8443"), port_of("https://[::1]:8443")) == ("::1", 8443)
    with pytest.raises(Invalid, match="no port"):
        port_of("https://host")
    with pytest.raises(Invalid, match="no host"):
        host_of("https://:1")


SECRET = "p@ss/w:rd %1"


def test_the_password_of_the_store_lies_in_a_file_of_its_own(tmp_path: Path) -> None:
    settings = _with_store(tmp_path, "mysql+pymysql://store@10.0.0.9/bellwether")
    files = Files(tmp_path / "provider.toml")
    assert store_address(settings, files) == settings.store_url
    write_atomically(files.store_password, SECRET + "\n")
    address = store_address(settings, files)
    assert split_password(address) == (settings.store_url, SECRET)
    named = settings.model_copy(update={"store_password_file": Path("elsewhere")})
    with pytest.raises(Invalid, match="elsewhere"):
        store_address(named, files)
    files.store_password.rename(tmp_path / "elsewhere")
    assert store_address(named, files) == address


def test_a_configuration_with_a_password_in_it_must_be_private(tmp_path: Path) -> None:
    """Others may read it as long as no password is in it."""
    files = Files(tmp_path / "provider.toml")
    for secret in files.secrets:
        write_atomically(secret, "secret")
    write_atomically(files.config, "", mode=0o644)
    check_private(_with_store(tmp_path, "mysql+pymysql://store@10.0.0.9/bellwether"), files)
    revealing = _with_store(tmp_path, "mysql+pymysql://store:s3cret@10.0.0.9/bellwether")
    with pytest.raises(Refused, match=r"provider\.toml can be read by others") as refused:
        check_private(revealing, files)
    assert "s3cret" not in refused.value.detail
    files.config.chmod(0o600)
    check_private(revealing, files)


@pytest.mark.parametrize("missing", ["node.key", "secrets.key", "node.token", "broker.password"])
def test_a_secret_that_is_missing_is_named(tmp_path: Path, missing: str) -> None:
    files = Files(tmp_path / "provider.toml")
    for secret in files.secrets:
        write_atomically(secret, "secret")
    (tmp_path / missing).unlink()
    with pytest.raises(Invalid, match=f"{missing} is missing"):
        check_private(_with_store(tmp_path, "sqlite:////x"), files)


@pytest.mark.parametrize("url", ["mysql+pymysql://store:s3cret@host:port/x", "s3cret", "oracle://a:s3cret@b/c"])
def test_a_store_url_that_is_not_understood_is_not_repeated(url: str) -> None:
    with pytest.raises(Invalid, match="store URL") as refused:
        Store(url)
    assert "s3cret" not in str(refused.value)


def _with_store(directory: Path, url: str) -> ProviderSettings:
    return ProviderSettings(
        name="p1",
        url="https://a:1",
        data_dir=directory,
        store_url=url,
        broker=BrokerSettings(endpoints=("amqps://a:1",), username="p"),
        api=ApiSettings(listen="a:1"),
    )


def test_data_lies_beside_the_configuration_save_where_it_is_installed(tmp_path: Path) -> None:
    assert Place(tmp_path / "provider.toml", "p1", "https://a:1").data_dir == tmp_path / "data"
    assert Place(Path("/etc/bellwether/provider.toml"), "p1", "https://a:1").data_dir == Path("/var/lib/bellwether")


def test_what_has_to_be_the_same_on_all_nodes_has_a_fingerprint(tmp_path: Path) -> None:
    def written(**changes: str) -> ProviderSettings:
        text = TEXT
        for old, new in changes.items():
            text = text.replace(old, new)
        (tmp_path / "provider.toml").write_text(text)
        return load_settings(tmp_path / "provider.toml")

    one, other = written(), written(**{"10.0.0.1": "10.0.0.2", '"p1"': '"p2"', "/var/lib": "/srv"})
    assert fingerprint_of(configuration(one)) == fingerprint_of(configuration(other)), (
        "what is one host's own is left out"
    )
    assert set_apart(one) == {}
    changed = written(**{"[api]": "heartbeat_s = 7\n[api]\nbody_max_bytes = 70000"})
    assert set_apart(changed) == {"broker.heartbeat_s": 7, "api.body_max_bytes": 70_000}
    assert fingerprint_of(configuration(changed)) != fingerprint_of(configuration(one))
    assert nested(set_apart(changed)) == {"broker": {"heartbeat_s": 7}, "api": {"body_max_bytes": 70_000}}
