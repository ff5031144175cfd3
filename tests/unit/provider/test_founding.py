"""Where a new provider is to be: what follows from the few things that it is told."""

from pathlib import Path

import pytest

from provider.founding import Place
from provider.joining.host import own_address


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
