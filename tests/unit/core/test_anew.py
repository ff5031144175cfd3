"""Invariant: what begins another log is above all that anybody can have seen of the one before, keeps all documents of
those who are left, and leaves no way in to those who are not."""

import time
from dataclasses import replace
from pathlib import Path

import pytest

from provider.core import commands as c
from provider.core import documents as d
from provider.core.anew import Begun, Left, gone_on
from provider.core.entries import Change
from provider.core.replica import Asker
from provider.core.state import State
from provider.settings import load_settings
from provider.trust.membership import Membership
from provider.trust.vault import Vault
from shared.errors import Refused
from tests.support.backups import changed, founded, place, vault_of, with_agent, with_wish

GENERATION = "fedcba9876543210"


class Cluster:
    """Of p1, the primary, p2 and p3; p3 is left. All are p1's image, but for their names."""

    def __init__(self, root: Path) -> None:
        state = with_agent(founded(root))
        self.vault = vault_of(root, state)
        first = state.of("node")[0]
        for number, name in enumerate(("p2", "p3"), start=4):
            spec = {**first.spec, "url": f"https://127.0.0.1:{number}", "token_sha256": str(number) * 64}
            state = changed(state, c.put("node", name, d.NodeSpec.model_validate(spec)))
        state = with_wish(with_wish(state, "shop"), "dying", "dropping")
        one_time = d.TokenSpec(role="node", sha256="1" * 64, expires_at=state.now + 3_600_000)
        self.state = changed(state, c.put("token", "unused", one_time))
        self.membership = Membership(load_settings(place(root).config), place(root).files, self.vault)

    def begun(self, *lost: str, now: int | None = None) -> Begun:
        kept = {node.id for node in self.state.of("node")} - {"p3", *lost}
        left = Left("p3", frozenset(kept), *self.membership.without(self.state, *lost))
        at = now if now is not None else int(time.time() * 1000)
        return gone_on(self.state, left, GENERATION, at, Asker("node:p3", None))


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


def test_it_is_the_same_cluster_with_another_log_and_those_who_are_left(cluster: Cluster) -> None:
    state = cluster.begun("p1", "p2").state
    assert (state.generation, state.primary) == (GENERATION, "p3")
    assert [node.id for node in state.of("node")] == ["p3"]
    assert state.get("setting", c.CLUSTER_ID) == cluster.state.get("setting", c.CLUSTER_ID)
    assert state.get("agent", "db1") == cluster.state.get("agent", "db1")
    assert state.epoch > cluster.state.epoch
    assert state.revision > cluster.state.revision + 1_000_000


def test_who_is_kept_is_a_member_with_a_part_in_every_key(cluster: Cluster) -> None:
    begun = cluster.begun("p1")
    assert begun.lost == ("p1",)
    assert [node.id for node in begun.state.of("node")] == ["p2", "p3"]
    newest = max(begun.state.of("key"), key=lambda key: int(key.id[1:]))
    assert set(newest.spec["wrapped"]) == {"p2", "p3"}
    known = c.beginning(begun.state)
    assert known is not None
    assert (known.by, known.kept, known.lost) == ("p3", ("p2", "p3"), ("p1",))
    assert c.first_revision(begun.state) == begun.state.revision


def test_who_was_given_up_never_comes_back_and_is_told_who_went_on(cluster: Cluster) -> None:
    state = cluster.begun("p1", "p2").state
    assert state.get("setting", c.removed_key("p1")) is not None
    told = c.given_up(state, "p2")
    assert told is not None
    assert told[0] == "4" * 64
    assert all(word in told[1] for word in ("p3 went on without p2", "--force", str(cluster.state.revision)))
    assert c.given_up(cluster.state, "p2") is None
    removed = Change(kind="setting", id=c.removed_key("p7"), spec={"value": 1})
    assert c.given_up(changed(cluster.state, removed), "p7") is None, "one that was removed in order"


def test_what_is_sealed_from_now_on_opens_for_nobody_who_was_given_up(cluster: Cluster) -> None:
    state = cluster.begun("p1", "p2").state
    ids = {key.id for key in state.of("key")}
    assert ids - {key.id for key in cluster.state.of("key")}
    assert all("p1" not in key.spec["wrapped"] for key in state.of("key"))
    admin = state.get("credential", c.BROKER_ADMIN)
    assert admin is not None
    newest = max(ids, key=lambda id_: int(id_[1:]))
    assert all(sealed.split(":")[1] == newest for sealed in admin.spec["passwords"])
    assert not Vault(dict.fromkeys(ids - {newest}, b"0" * 32)).knows(newest)


def test_wishes_are_held_and_one_time_tokens_are_over(cluster: Cluster) -> None:
    begun = cluster.begun("p1", "p2")
    assert (begun.held, begun.forgotten) == (1, ("db1/dying",))
    wish, token = begun.state.get("database", "db1/shop"), begun.state.get("token", "unused")
    assert wish is not None
    assert wish.status["phase"] == "held"
    assert token is not None
    assert token.status["revoked_at"] is not None
    assert c.restored(begun.state) is not None


def test_the_next_log_of_all_is_none_that_was_begun_by_force(cluster: Cluster) -> None:
    state = replace(cluster.begun("p1", "p2").state, generation="another")
    assert c.beginning(state) is None
    assert c.first_revision(state) == 0


def test_a_clock_that_is_behind_is_refused(cluster: Cluster) -> None:
    with pytest.raises(Refused, match="clock"):
        cluster.begun("p1", "p2", now=cluster.state.now - 3_600_000)


def test_it_can_be_done_again_and_is_above_the_first_time(cluster: Cluster) -> None:
    first = cluster.begun("p1")
    state: State = first.state
    left = Left("p3", frozenset(), "k9", state_key(state))
    again = gone_on(state, left, "0" * 16, state.now + 1, Asker("node:p3", None))
    assert again.state.epoch > first.state.epoch
    assert again.state.revision > first.state.revision
    assert again.lost == ("p2",)


def state_key(state: State) -> d.KeySpec:
    return d.KeySpec(wrapped={"p3": state.of("key")[0].spec["wrapped"].get("p3", "x")})
