"""What nodes that come are given; and those that go leave behind passwords that they do not know, and none that the
broker may still have is lost."""

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from provider.api.routes.joining import JoinBody, own_broker_of
from provider.core.commands import BROKER_ADMIN
from provider.core.documents import BrokerNode
from provider.core.entries import Change
from provider.core.state import State
from provider.founding import Place, init
from provider.settings import load_settings
from provider.trust.membership import Membership
from provider.trust.vault import Vault, data_keys, unwrap
from tests.support.history import accept_entry, commit_of


def test_the_broker_may_still_have_any_password_from_before_several_removals(tmp_path: Path) -> None:
    """It had the second one when its management API went away; then three nodes were removed."""
    place = Place(tmp_path / "p1" / "provider.toml", "p1", "https://127.0.0.1:1")
    place.config.parent.mkdir(mode=0o700)
    broker = {"endpoints": ["amqps://127.0.0.1:1"], "management": "https://127.0.0.1:1"}
    init(place, broker, ("operator", "first"))
    own = place.files.secrets_key.read_text()
    with closing(place.open_store()) as store:
        state, _ = store.load()
    vault = Vault(data_keys(state.of("key"), "p1", own))
    membership = Membership(load_settings(place.config), place.files, vault)
    seen: list[str] = []
    for number in range(14):
        passwords = [password for _, password in membership.broker_admin(state)]
        assert len(passwords) <= 10
        assert passwords[-1] == "first", "a broker that is made anew begins with it"
        assert passwords[: len(seen[:8])] == seen[:8]
        id_, key, credentials = membership.without(state, f"p{number + 2}")
        vault.add(id_, unwrap(key.wrapped["p1"], own, id_))
        spec = credentials[BROKER_ADMIN].model_dump(mode="json")
        changes = [
            Change(kind="key", id=id_, spec=key.model_dump(mode="json")),
            Change(kind="credential", id=BROKER_ADMIN, spec=spec),
        ]
        state = accept_entry(state, commit_of(*changes)).state
        seen.insert(0, membership.broker_admin(state)[0][1])
    assert len(set(seen)) == 14


@pytest.mark.parametrize(
    ("management", "url", "own", "given"),
    [
        ("https://127.0.0.1:15671", "https://p2:8443", False, False),
        ("https://localhost:15671", "https://10.0.0.2:8443", False, False),
        ("https://127.0.0.1:15671", "https://p2:8443", True, True),
        ("https://127.0.0.1:15671", "https://127.0.0.1:8444", False, True),
        ("https://p1:15671", "https://p2:8443", False, True),
    ],
)
def test_a_management_api_that_only_its_own_host_reaches_is_not_handed_out(
    tmp_path: Path, management: str, url: str, own: bool, given: bool
) -> None:
    """On another host nobody answers there, or somebody else's RabbitMQ."""
    place = Place(tmp_path / "p1" / "provider.toml", "p1", "https://127.0.0.1:1")
    place.config.parent.mkdir(mode=0o700)
    init(place, {"endpoints": ["amqps://127.0.0.1:1"], "management": management}, ("operator", "first"))
    with closing(place.open_store()) as store:
        state, _ = store.load()
    membership = Membership(load_settings(place.config), place.files, Vault({}))
    broker = membership.given_to_node(state, "", url, own_broker=own)["broker"]
    assert broker.get("management") == (management if given else None)
    assert broker["endpoints"] == ["amqps://127.0.0.1:1"]


def body(number: int, **more: Any) -> JoinBody:
    said = {"csr": "", "public_key": "0" * 64, "token_sha256": "0" * 64, "broker_password_hash": "h" * 48}
    return JoinBody.model_validate({"name": f"p{number}", "url": f"https://p{number}:1", "version": "1"} | said | more)


def broker(number: int) -> BrokerNode:
    return BrokerNode(node=f"rabbit@p{number}", version="4.0.5", address=f"10.0.0.{number}")


@pytest.mark.parametrize("holder", ["p1", "p2", None])
def test_a_newcomer_s_broker_is_taken_where_any_member_has_one(holder: str | None) -> None:
    """The primary may be the one that has none."""
    specs: dict[str, Any] = {name: {} for name in ("p1", "p2")}
    if holder is not None:
        specs[holder] = {"broker": broker(int(holder[1])).model_dump(mode="json")}
    changes = tuple(Change(kind="node", id=name, spec=spec) for name, spec in specs.items())
    state = State.genesis(generation="g", primary="p1", now=0, changes=changes)
    own = broker(3) if holder is not None else None
    assert own_broker_of(state, body(3, broker=broker(3).model_dump())) == own
    assert own_broker_of(state, body(3)) is None
