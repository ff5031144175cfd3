"""Commands on settings: what each becomes, with which status, and every reason to refuse it."""

from typing import Any

import pytest

from provider.core.commands import (
    CERTIFICATE_HOSTS,
    KNOWN_SETTINGS,
    SETTING_MAX_BYTES,
    SETTING_MAX_DEPTH,
    DeleteSetting,
    NumberSetting,
    Plan,
    PutSetting,
    clock_skew_s,
    more_hosts,
)
from shared.errors import Invalid, NotFound, Refused, TooLarge
from tests.support.commands import NOW, do, fleet, get, refusal, status_of


def test_putting_a_setting() -> None:
    assert status_of(fleet(), PutSetting("user.b", [1])) == 201
    assert status_of(fleet(), PutSetting("user.a", 2)) == 200
    assert PutSetting("user.a", 1).plan(fleet(), NOW) == Plan(200, ("setting", "user.a"))
    assert get(do(fleet(), PutSetting("user.b", None)), "setting", "user.b").spec == {"value": None}


@pytest.mark.parametrize("value", [True, 1.0, "1", [1], -1])
def test_what_python_calls_equal_is_not_the_same_value(value: Any) -> None:
    state = do(fleet(), PutSetting("user.a", value))
    shown = get(state, "setting", "user.a").spec["value"]
    assert (type(shown), shown) == (type(value), value)
    assert len(PutSetting("user.a", 1).plan(state, NOW).changes) == 1


@pytest.mark.parametrize("value", [0, 0.0001, 0.04, float("nan"), 4000, True, "90"])
def test_no_certificates_that_expire_before_the_broker_has_read_them(value: Any) -> None:
    refusal(fleet(), PutSetting("certificates.days", value), Invalid, "certificates.days")
    assert status_of(fleet(), PutSetting("certificates.days", 0.05)) == 201


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels - 1):
        value = {"a": value}
    return value


@pytest.mark.parametrize("value", [nested(SETTING_MAX_DEPTH), "x" * (SETTING_MAX_BYTES - 2), 10**4000, "\x00", "🐬"])
def test_the_largest_values_that_are_kept(value: Any) -> None:
    assert get(do(fleet(), PutSetting("user.a", value)), "setting", "user.a").spec == {"value": value}


@pytest.mark.parametrize(
    "value",
    [nested(SETTING_MAX_DEPTH + 1), nested(100_000), float("nan"), [float("-inf")], "\ud800", {"\ud800": 1}, 10**5000],
    ids=["deep", "deeper", "nan", "infinity", "surrogate", "surrogate in a key", "huge"],
)
def test_values_that_cannot_be_kept(value: Any) -> None:
    refusal(fleet(), PutSetting("user.a", value), Invalid, "value: ")


@pytest.mark.parametrize("value", ["x" * (SETTING_MAX_BYTES - 1), "ü" * (SETTING_MAX_BYTES // 2), "\x00" * 11_000])
def test_values_that_are_too_large(value: str) -> None:
    refusal(fleet(), PutSetting("user.a", value), TooLarge)


def test_names_of_settings() -> None:
    refusal(fleet(), PutSetting("user/a", 1), Invalid, "setting name")
    refusal(fleet(), PutSetting("users", 1), Invalid, "begin with 'user.'")
    refusal(fleet(), PutSetting("cluster.removed.p9", 1), Invalid, "begin with 'user.'")


@pytest.mark.parametrize("key", [key for key, known in KNOWN_SETTINGS.items() if isinstance(known, NumberSetting)])
def test_settings_of_the_clusters_own(key: str) -> None:
    known = KNOWN_SETTINGS[key]
    assert isinstance(known, NumberSetting)
    above, most = known.above, known.most
    assert all(status_of(fleet(), PutSetting(key, value)) == 201 for value in (above + 0.5, above + 1, most))
    value: Any
    for value in (above, -1, most + 1, True, "5", None, [], float("nan"), float("inf"), 10**400):
        refusal(fleet(), PutSetting(key, value), Invalid, key)


@pytest.mark.parametrize(
    "value",
    [[], ["api.example.org"], ["10.0.0.9", "::1", "*.example.org", "localhost", "a_b"], ["x" * 63] * 16],
)
def test_hosts_that_certificates_are_also_for(value: list[str]) -> None:
    state = do(fleet(), PutSetting(CERTIFICATE_HOSTS, value))
    assert more_hosts(state) == tuple(value)
    assert more_hosts(do(state, DeleteSetting(CERTIFICATE_HOSTS))) == ()


@pytest.mark.parametrize(
    "value",
    [
        "a",
        None,
        {},
        [1],
        [""],
        ["ü"],
        ["a b"],
        ["https://a"],
        ["a:1"],
        ["a.1"],
        ["fe80::1%eth0"],
        ["x" * 64],
        ["a"] * 17,
    ],
)
def test_what_is_no_host_for_a_certificate(value: Any) -> None:
    refusal(fleet(), PutSetting(CERTIFICATE_HOSTS, value), Invalid, "DNS names")


def test_how_far_clocks_may_differ() -> None:
    assert clock_skew_s(fleet()) == 2.0
    assert clock_skew_s(do(fleet(), PutSetting("cluster.clock_skew_s", 0.5))) == 0.5


def test_deleting_a_setting() -> None:
    assert do(fleet(), DeleteSetting("user.a")).get("setting", "user.a") is None
    assert status_of(fleet(), DeleteSetting("user.a")) == 204
    refusal(fleet(), DeleteSetting("user.b"), NotFound)
    refusal(fleet(), DeleteSetting("\ud800"), NotFound)
    refusal(fleet(), DeleteSetting("cluster.removed.p9"), Refused, "kept by the cluster")
    known = do(fleet(), PutSetting("history.days", 3))
    assert status_of(known, DeleteSetting("history.days")) == 204
