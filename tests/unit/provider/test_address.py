"""A host that has another address after a reboot: its configuration follows, and it knows what is new about itself."""

from pathlib import Path

import pytest

from provider import address
from provider.address import followed, gone, is_here, moved, not_known, own_addresses
from provider.core.entries import Change
from provider.core.state import State
from provider.settings import Files, ProviderSettings, load_settings
from provider.trust.news import news_of
from shared.version import VERSION

OLD, NEW = "192.0.2.7", "198.51.100.9"
TEXT = f"""
# by hand: do not touch 192.0.2.70
name = "p2"
url = "https://{OLD}:8443"
data_dir = "/var/lib/bellwether"
store_url = "mysql+pymysql://u@192.0.2.70/state"   # another host
[broker]
endpoints = ["amqps://{OLD}:5671", "amqps://192.0.2.1:5671"]
management = "https://127.0.0.1:15671"
username = "node.p2"
[api]
listen = "{OLD}:8443"
trusted_proxies = ["192.0.2.0/24"]
"""


def alone() -> State:
    return State.genesis(generation="g", primary="p2", now=1)


def written(tmp_path: Path, text: str = TEXT) -> tuple[ProviderSettings, Files]:
    files = Files(tmp_path / "provider.toml")
    files.config.write_text(text)
    return load_settings(files.config), files


def test_addresses_that_are_here_and_those_that_are_gone() -> None:
    assert is_here("127.0.0.1")
    assert not is_here(OLD)
    assert [gone(host) for host in (OLD, "127.0.0.1", "p1.example.org", "localhost")] == [True, False, False, False]
    assert "127.0.0.1" in own_addresses()


def test_the_configuration_follows_and_what_is_others_stays(tmp_path: Path) -> None:
    settings, files = written(tmp_path)
    found = followed(settings, files, alone(), lambda _state, _node: NEW)
    assert (found.url, found.api.listen) == (f"https://{NEW}:8443", f"{NEW}:8443")
    assert found.broker.endpoints == (f"amqps://{NEW}:5671", "amqps://192.0.2.1:5671")
    assert found.store_url == settings.store_url
    assert load_settings(files.config) == found, "commands on this host read it too"
    text = files.config.read_text()
    assert "# by hand: do not touch 192.0.2.70" in text, "what a person wrote stays"
    assert OLD + ":" not in text
    assert [path.name for path in tmp_path.iterdir()] == ["provider.toml"]
    assert followed(found, files, alone(), lambda _state, _node: None).url == found.url


def test_where_it_cannot_be_known_nothing_is_changed(tmp_path: Path) -> None:
    settings, files = written(tmp_path)
    assert followed(settings, files, alone(), lambda _state, _node: None) == settings
    assert files.config.read_text() == TEXT


@pytest.mark.parametrize("host", ["0.0.0.0", "localhost", "127.0.0.1"])
def test_a_listen_address_that_is_still_good_stays(tmp_path: Path, host: str) -> None:
    settings, files = written(tmp_path, TEXT.replace(f'listen = "{OLD}', f'listen = "{host}'))
    assert followed(settings, files, alone(), lambda _state, _node: NEW).api.listen == f"{host}:8443"


def test_a_listen_address_of_before_is_no_obstacle_where_the_url_has_a_name(tmp_path: Path) -> None:
    settings, files = written(tmp_path, TEXT.replace(f"https://{OLD}", "https://p2.example.org"))
    found = followed(settings, files, alone(), lambda _state, _node: NEW)
    assert (found.url, found.api.listen) == ("https://p2.example.org:8443", f"{NEW}:8443")


def test_an_address_of_the_other_family(tmp_path: Path) -> None:
    settings, files = written(tmp_path)
    found = followed(settings, files, alone(), lambda _state, _node: "2001:db8::9")
    assert (found.url, found.api.listen) == ("https://[2001:db8::9]:8443", "2001:db8::9:8443")
    assert load_settings(files.config) == found
    assert moved(found, "2001:db8::9", OLD).url == settings.url


def test_who_is_looked_for_elsewhere_says_so_and_whose_address_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hosts that had swapped their addresses only said that they did not reach the log."""
    broker = {"node": "rabbit@p1", "version": "4.0.5", "address": NEW, "plugins": []}

    def state(**of_p2: object) -> State:
        nodes = {"p1": {"url": "https://p1.example.org:8443", "broker": broker}, "p2": of_p2}
        changes = tuple(Change(kind="node", id=name, spec=dict(spec)) for name, spec in nodes.items())
        return State.genesis(generation="g", primary="p1", now=1, changes=changes)

    monkeypatch.setattr(address, "is_here", lambda one: one == NEW)
    now, before = f"https://{NEW}:8443", f"https://{OLD}:8443"
    assert not_known(state(url=now), "p2", now) is None
    assert not_known(alone(), "p2", now) is None, "it is no member"
    said = not_known(state(url=before), "p2", now)
    assert f"looks for p2 at {before}" in str(said)
    assert "known as the address of p1: if hosts have swapped theirs" in str(said)
    named = state(url="https://p2.example.org:1", broker={**broker, "node": "rabbit@p2", "address": OLD})
    assert f"looks for p2 at {OLD}" in str(not_known(named, "p2", "https://p2.example.org:1"))


def test_what_is_new_about_a_node(tmp_path: Path) -> None:
    settings, _ = written(tmp_path, TEXT.replace(OLD, "127.0.0.1"))
    spec = {"url": settings.url, "version": VERSION, "endpoints": ["amqps://elsewhere:1"]}
    broker = {"node": "rabbit@p2", "version": "4.0.5", "address": "192.0.2.70", "plugins": []}

    def state(**more: object) -> State:
        change = Change(kind="node", id="p2", spec={**spec, **more})
        return State.genesis(generation="g", primary="p2", now=1, changes=(change,))

    assert news_of(settings, state()) == {}
    assert news_of(settings, alone()) == {}, "who is no member has no news"
    assert news_of(settings, state(url="https://192.0.2.70:1", version="0")) == {
        "url": settings.url,
        "version": VERSION,
    }
    found = news_of(settings, state(broker=broker))
    assert found["endpoints"] == list(settings.broker.endpoints)
    assert found["broker"] == {**broker, "address": "127.0.0.1"}
    here = {**broker, "address": "127.0.0.1"}
    known = state(broker=here, endpoints=list(settings.broker.endpoints))
    assert news_of(settings, known) == {}
    assert news_of(settings, known, {"version": "4.0.5", "plugins": []}) == {}
    upgraded = {"version": "4.1.0", "plugins": ["jose"]}
    assert news_of(settings, known, upgraded) == {"broker": {**here, **upgraded}}
