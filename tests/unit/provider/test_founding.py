"""Where a new provider is to be: what follows from the few things that it is told."""

from pathlib import Path

import pytest

from provider.founding import Place
from provider.joining.host import own_address
from shared.errors import BellwetherError, Refused


@pytest.mark.parametrize(
    ("url", "listening"),
    [
        ("https://10.0.0.1:8443", "10.0.0.1:8443"),
        ("https://localhost:8443", "localhost:8443"),
        ("https://[2001:db8::1]:8443", "2001:db8::1:8443"),
        ("https://p1.example.org:8443", ":8443"),
    ],
)
def test_a_name_may_mean_another_address_tomorrow_so_every_interface_is_listened_on(url: str, listening: str) -> None:
    assert Place(Path("provider.toml"), "p1", url).listening == listening
    assert Place(Path("provider.toml"), "p1", url, listen="10.0.0.2:1").listening == "10.0.0.2:1"


def test_a_host_s_own_address_is_one_that_others_can_call() -> None:
    assert own_address("https://10.1.2.3:8443", "https://127.0.0.1:1") == "10.1.2.3"
    assert own_address("https://127.0.0.1:8443", "https://127.0.0.1:1") == "127.0.0.1", "all on one machine"


@pytest.mark.parametrize(
    ("url", "listen", "said"),
    [
        ("https://p4.example.org", None, "has no port"),
        ("https://p4.example.org:99999", None, "out of range"),
        ("https://p4.example.org:0", None, "port 0"),
        ("https://[p4:8443", None, "Invalid IPv6 URL"),
        ("http://p4.example.org:8443", None, "url"),
        ("https://p4.example.org:8443", "8443", "nothing to listen on"),
        ("https://p4.example.org:8443", ":https", "nothing to listen on"),
        ("https://p4.example.org:8443", ":65536", "nothing to listen on"),
        ("https://p4.example.org:8443", "192.0.2.1:8443", "192.0.2.1 is not its address"),
        ("https://192.0.2.1:8443", None, "192.0.2.1 is not its address"),
    ],
)
def test_an_address_that_cannot_be_a_provider_s_is_said_before_there_is_one(
    url: str, listen: str | None, said: str
) -> None:
    with pytest.raises(BellwetherError, match=said):
        Place(Path("provider.toml"), "p4", url, listen=listen).check()


@pytest.mark.parametrize(
    ("url", "listen"),
    [
        ("https://p4.example.org:8443", None),
        ("https://p4.example.org:8443", "127.0.0.1:8443"),
        ("https://p4.example.org:8443", "0.0.0.0:8443"),
        ("https://192.0.2.1:8443", ":8443"),
        ("https://localhost:8443", None),
    ],
)
def test_an_address_that_can_be_one_is_none_of_our_business(url: str, listen: str | None) -> None:
    Place(Path("provider.toml"), "p4", url, listen=listen).check()


@pytest.mark.parametrize("endpoint", ["amqps://p4:99999", "amqps://[p4", "https://p4:5671"])
def test_a_broker_s_address_that_is_none_is_said_as_early(endpoint: str) -> None:
    with pytest.raises(BellwetherError, match="endpoints"):
        Place(Path("provider.toml"), "p4", "https://p4.example.org:8443").check({"endpoints": [endpoint]})


def test_a_host_that_is_a_provider_already_says_what_to_do_where_its_node_was_removed(tmp_path: Path) -> None:
    place = Place(tmp_path / "provider.toml", "p4", "https://p4.example.org:8443")
    place.must_be_new()
    place.config.touch()
    with pytest.raises(Refused, match=r"provider already.* removed from the cluster.*take away what it left"):
        place.must_be_new()
