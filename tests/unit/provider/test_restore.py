"""Invariant: a restored cluster is the one that was backed up, above all that anybody can have seen of it since; and
what its agents are told first changes nothing anywhere."""

import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from provider.backup.container import Head, read, read_head
from provider.backup.content import Content, read_content
from provider.backup.recovery import RecoveryKey
from provider.backup.restore import restore
from provider.backup.restored import Told
from provider.core import commands as c
from provider.core import documents as d
from provider.core.entries import Change
from provider.core.state import State
from provider.fleet.desired import desired_for
from provider.settings import load_settings
from provider.trust.vault import Unsealable
from shared.errors import Refused
from tests.support.backups import ADMIN, BROKER, backed_up, changed, founded, place, vault_of, with_agent, with_wish
from tests.support.history import accept_claim

KEY = RecoveryKey.new()
Restored = tuple[State, Told]


def head_and_content(file: Path) -> tuple[Head, Content]:
    with file.open("rb") as source:
        head = read_head(source)
        source.seek(0)
        return head, read_content(read(source, KEY))


class Lost:
    """A cluster of p1 and p2 that was backed up, and is gone."""

    def __init__(self, root: Path) -> None:
        self.root = root
        state = with_agent(founded(root / "p1"))
        self.vault = vault_of(root / "p1", state)
        state = with_wish(with_wish(state, "shop"), "dying", "dropping")
        state = with_wish(state, "app", seal=self.vault.seal)
        one_time = d.TokenSpec(role="agent", sha256="1" * 64, expires_at=state.now + 3_600_000)
        self.state = changed(state, c.put("token", "unused", one_time), _second_node(state))
        self.made = backed_up(root / "p1", self.state, KEY.clusters_half, root / "backups")

    def restored(self, name: str = "p1", *, at: str = "new") -> Restored:
        head, content = head_and_content(Path(self.made.where))
        return restore(place(self.root / at, name), content, head, dict(BROKER), ADMIN)


def _second_node(state: State) -> Change:
    first = state.of("node")[0]
    spec = d.NodeSpec.model_validate({**first.spec, "url": "https://127.0.0.1:4"})
    return c.put("node", "p2", spec)


@pytest.fixture
def lost(tmp_path: Path) -> Lost:
    return Lost(tmp_path)


def test_it_is_the_same_cluster_with_a_log_of_its_own_and_one_node(lost: Lost) -> None:
    state, told = lost.restored()
    assert state.generation != lost.state.generation
    assert (state.primary, [node.id for node in state.of("node")], told.gone) == ("p1", ["p1"], ("p2",))
    for kind in ("authority", "agent", "instance", "user"):
        assert [one.id for one in state.of(kind)] == [one.id for one in lost.state.of(kind)]  # type: ignore[arg-type]
    assert state.get("setting", c.CLUSTER_ID) == lost.state.get("setting", c.CLUSTER_ID)
    with closing(place(lost.root / "new").open_store()) as store:
        assert store.load() == (state, None)
        assert [row.revision for row in store.history(0, 10)] == [state.revision], "the audit begins with the restore"
    assert load_settings(place(lost.root / "new").config).name == "p1"


def test_its_epoch_and_revision_are_above_all_that_can_have_been_since(lost: Lost) -> None:
    first, _ = lost.restored()
    assert first.epoch >= int(time.time()) - 60
    since = accept_claim(accept_claim(first, "p1").state, "p1").state
    head, content = head_and_content(Path(lost.made.where))
    later = replace(content.state, now=content.state.now - 10_000)  # as much earlier as the second restore is later
    second, _ = restore(place(lost.root / "third"), replace(content, state=later), head, dict(BROKER), ADMIN)
    assert second.epoch >= first.epoch
    assert second.revision > since.revision


def test_what_is_sealed_can_be_unsealed_and_by_no_node_of_before(lost: Lost) -> None:
    state, _ = lost.restored()
    vault = vault_of(lost.root / "new", state)
    account = state.get("account", "db1/app")
    assert account is not None
    assert vault.unseal(account.spec["password"], "db1/app") == "a password"
    admin = state.get("credential", c.BROKER_ADMIN)
    assert admin is not None
    sealed = admin.spec["passwords"][0]
    assert vault.unseal(sealed, c.BROKER_ADMIN) == ADMIN[1]
    with pytest.raises(Unsealable):
        lost.vault.unseal(sealed, c.BROKER_ADMIN)


def test_wishes_are_held_and_what_was_being_dropped_is_left_alone(lost: Lost) -> None:
    state, told = lost.restored()
    assert (told.held, told.forgotten) == (2, ("db1/dying",))
    (instance,) = desired_for(state, "db1", vault_of(lost.root / "new", state).unseal).instances
    assert [(one.name, one.hold, one.drop) for one in instance.databases] == [("shop", True, False)]
    assert [(one.name, one.hold, one.drop) for one in instance.accounts] == [("app", True, False)]


def test_a_one_time_token_that_may_have_been_used_is_over(lost: Lost) -> None:
    state, _ = lost.restored()
    token = state.get("token", "unused")
    assert token is not None
    assert token.status["revoked_at"] is not None


def test_a_name_that_was_removed_before_does_not_come_back(lost: Lost) -> None:
    state, _ = lost.restored()
    assert state.get("setting", c.removed_key("p2")) is not None
    lost.restored("p9", at="another")
    gone = changed(lost.state, Change(kind="setting", id=c.removed_key("p7"), spec={"value": 1}))
    head, content = head_and_content(Path(lost.made.where))
    with pytest.raises(Refused, match="never comes back"):
        restore(place(lost.root / "x", "p7"), replace(content, state=gone), head, dict(BROKER), ADMIN)


def test_nothing_is_written_over(lost: Lost) -> None:
    with pytest.raises(Refused, match="provider already"):
        lost.restored(at="p1")
    (lost.root / "p1" / "provider.toml").unlink()
    with pytest.raises(Refused, match="empty store"):
        lost.restored(at="p1")


def test_one_that_was_interrupted_is_done_again(lost: Lost) -> None:
    before, _ = lost.restored()
    (lost.root / "new" / "provider.toml").unlink()
    state, _ = lost.restored()
    with closing(place(lost.root / "new").open_store()) as store:
        assert store.load() == (state, None)
        assert [row.revision for row in store.history(0, 10)] == [state.revision]
    assert state.generation != before.generation


def test_a_log_that_was_begun_by_force_and_waits_for_its_broker_is_no_interrupted_restore(lost: Lost) -> None:
    """Invariant: what may be the only copy of a state that is in use is not written over."""
    state, _ = lost.restored()
    (lost.root / "new" / "provider.toml").unlink()
    known = c.restored(state)
    assert known is not None
    value = known | {"backup": known["backup"] | {"survivor": "p3"}}
    begun = changed(state, Change(kind="setting", id=c.RESTORED, spec={"value": value}))
    with closing(place(lost.root / "new").open_store()) as store:
        store.seed(begun, None)
        with pytest.raises(Refused, match="empty store"):
            lost.restored()
        assert store.load() == (begun, None)


def test_a_host_whose_clock_is_behind_the_backup_is_refused(lost: Lost) -> None:
    head, content = head_and_content(Path(lost.made.where))
    ahead = replace(content.state, now=int(time.time() * 1000) + 3_600_000)
    with pytest.raises(Refused, match="clock"):
        restore(place(lost.root / "new"), replace(content, state=ahead), head, dict(BROKER), ADMIN)
    assert not place(lost.root / "new").config.exists()


def test_a_backup_of_a_newer_version_is_refused(lost: Lost) -> None:
    head, content = head_and_content(Path(lost.made.where))
    with pytest.raises(Refused, match=r"99\.0 made this backup"):
        restore(place(lost.root / "new"), content, replace(head, version="99.0"), dict(BROKER), ADMIN)
