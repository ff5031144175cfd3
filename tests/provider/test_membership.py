"""What nodes that go leave behind: passwords that they do not know, and none that the broker may still have is lost."""

from contextlib import closing
from pathlib import Path

from provider.core.commands import BROKER_ADMIN
from provider.core.entries import Change
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
