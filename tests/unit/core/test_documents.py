"""Documents: names that are allowed, texts that stay what they are, secrets that stay inside."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from provider.core.commands import check_name
from provider.core.documents import (
    AccountName,
    AccountSpec,
    AgentStatus,
    DatabaseName,
    Document,
    HostPattern,
    Name,
    SettingKey,
    WishStatus,
    canonical,
    public_spec,
)
from provider.core.entries import JSON_MAX_DEPTH
from shared.errors import Invalid

STEADY = settings(derandomize=True)
"""The same examples in each run, however slow the machine."""
INVISIBLE = ["a\u200bb", "a\u202eb", "a\ufeffb", "a\u2028b", "a\u2029b"]
CONTROL = ["\x00", "a\x00b", "a\nb", "a\tb", "a\x7fb", "a\x85b", "a\x1b[31m"]
OUTSIDE = ["🐬", "a😀", "\ud800", "a\udfffb"]
PATHS = ["a/b", "/", "..", ".", "a\\b"]
SPACES = [" a", "a ", "a\u00a0", "\t", " "]


@pytest.mark.parametrize(
    "name", ["shop", "Shop", "a b", "x" * 64, "ü" * 64, "日本", "a`b", "a'b", 'a"b', "a;--", "%", "1"]
)
def test_a_database_may_have_any_name_that_a_server_takes(name: str) -> None:
    """Quotes and backticks too: the agent quotes names, so they need no refusing."""
    check_name("database", name, DatabaseName)


@pytest.mark.parametrize("name", ["", "x" * 65, *INVISIBLE, *CONTROL, *OUTSIDE, *PATHS, *SPACES])
def test_a_database_may_not_have_a_name_that_misleads_or_that_no_server_takes(name: str) -> None:
    with pytest.raises(Invalid) as refusal:
        check_name("database", name, DatabaseName)
    refusal.value.detail.encode()  # can be told


def test_an_accounts_name_may_be_longer() -> None:
    check_name("account", "x" * 80, AccountName)
    with pytest.raises(Invalid):
        check_name("account", "x" * 81, AccountName)


@pytest.mark.parametrize("name", ["p1", "db-1", "a_b", "x" * 63, "0"])
def test_a_member_is_named_like_a_host(name: str) -> None:
    check_name("node", name, Name)


@pytest.mark.parametrize("name", ["", "P1", "a.b", "a#", "*", "-a", "a-", "x" * 64, "a\n", "ä", "a b", "a/b", "a\x00"])
def test_a_members_name_holds_nothing_that_a_routing_key_or_a_path_would_read_otherwise(name: str) -> None:
    with pytest.raises(Invalid):
        check_name("agent", name, Name)


@pytest.mark.parametrize("key", ["user.a", "user.A:b-c_d.e", "x" * 128])
def test_keys_of_settings(key: str) -> None:
    check_name("setting", key, SettingKey)


@pytest.mark.parametrize("key", ["", ".a", "a b", "user.ä", "x" * 129, "a/b", "user.a\n", "user.\x00"])
def test_no_keys_of_settings(key: str) -> None:
    with pytest.raises(Invalid):
        check_name("setting", key, SettingKey)


@pytest.mark.parametrize("host", ["%", "localhost", "10.0.0.%", "10.0.0.0/255.0.0.0", "::1", "a_b-c.example"])
def test_hosts_of_accounts(host: str) -> None:
    assert TypeAdapter(HostPattern).validate_python(host) == host


@pytest.mark.parametrize("host", ["", "a b", "a'b", "a`b", "x" * 61, "ä", "%\n"])
def test_no_hosts_of_accounts(host: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(HostPattern).validate_python(host)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4),
    max_leaves=20,
)


@STEADY
@given(spec=st.dictionaries(st.text(), JSON, max_size=4), revision=st.integers(0, 2**63 - 1))
def test_a_document_is_the_same_after_a_stay_in_the_store(spec: dict[str, object], revision: int) -> None:
    document = Document("setting", "user.a", revision, revision, 1, 2, spec, {})
    again = Document.from_text(document.text)
    assert again == document
    assert again.text == document.text


def test_deep_values_survive_the_store() -> None:
    value: object = 1
    for _ in range(JSON_MAX_DEPTH):
        value = [value]
    document = Document("setting", "user.a", 1, 1, 1, 1, {"value": value}, {})
    assert Document.from_text(document.text) == document


def test_the_text_does_not_depend_on_the_order_of_keys() -> None:
    assert canonical({"a": 1, "b": 2}) == canonical({"b": 2, "a": 1})


def test_parent_and_name() -> None:
    assert (_document("database", "db1/shop").parent, _document("database", "db1/shop").name) == ("db1", "shop")
    assert _document("setting", "user.a").name == "user.a"


def test_secrets_are_left_out_of_what_is_shown() -> None:
    account = AccountSpec(password="sealed").model_dump(mode="json")
    assert "password" not in public_spec("account", account)
    assert public_spec("token", {"role": "admin", "sha256": "…", "expires_at": None}) == {
        "role": "admin",
        "expires_at": None,
    }
    assert "sealed" not in repr(AccountSpec(password="sealed"))


def test_what_servers_say_of_themselves_is_cut_and_made_writable_not_refused() -> None:
    assert WishStatus(message="x" * 5000).message == "x" * 1000
    assert WishStatus(message="a\ud800b").message == "a?b"
    assert AgentStatus(version="1\udfff").version == "1?"


def _document(kind: str, id_: str) -> Document:
    return Document(kind, id_, 1, 1, 1, 1, {}, {})  # type: ignore[arg-type]
