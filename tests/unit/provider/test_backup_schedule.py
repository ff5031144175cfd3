"""Invariant: a backup is made by one node, when it is due; what is missing for it, or late, is warned about."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from provider.api.routes.backups import backups_view
from provider.backup.concerns import warnings
from provider.backup.recovery import RecoveryKey
from provider.backup.schedule import HOUR_MS, RETRY_MS, Backups, Schedule
from provider.backup.targets import name_of
from provider.core import commands as c
from provider.core.entries import Change
from provider.core.state import State
from provider.settings import load_settings
from shared.errors import Invalid
from tests.support.backups import changed, content_of, founded, place, vault_of
from tests.support.history import START_MS, genesis

NOW = START_MS + 10


def with_settings(state: State, **values: Any) -> State:
    return changed(state, *(Change(kind="setting", id=f"backup.{k}", spec={"value": v}) for k, v in values.items()))


def done(state: State, command: c.Command, at: int = NOW) -> State:
    return changed(state, *command.plan(state, at).changes)


SET = done(with_settings(genesis(), to="/backups", every_h=2), c.PutRecoveryKey("a" * 64, "sealed"))


def noted(state: State, at: int, *, scheduled: bool = True) -> State:
    made = {"name": "n", "where": "w", "node": "p1", "at": at, "epoch": 1, "revision": 1, "size_bytes": 1}
    return done(state, c.NoteBackup(made, scheduled))


def schedule(state: State) -> Schedule:
    found = Schedule.of(state)
    assert found is not None
    return found


def test_without_a_place_none_is_made() -> None:
    assert Schedule.of(genesis()) is None
    assert warnings(genesis(), NOW) == []


def test_the_first_is_due_at_once_and_the_next_after_its_time() -> None:
    assert schedule(SET).due_ms(SET) == 0
    after = noted(SET, NOW)
    assert schedule(after).due_ms(after) == NOW + 2 * HOUR_MS
    elsewhere = noted(SET, NOW, scheduled=False)
    assert schedule(elsewhere).due_ms(elsewhere) == 0, "one that somebody made elsewhere does not take its place"


def test_where_something_is_set_anew_the_next_one_does_not_wait() -> None:
    failed = done(noted(SET, NOW), c.NoteBackup(None, True, "no space"), NOW + 100)
    assert schedule(failed).due_ms(failed) > NOW + 100
    moved = with_settings(replace(failed, now=NOW + 200), to="/other")
    assert schedule(moved).due_ms(moved) == 0


def test_one_that_failed_is_tried_again_soon_and_warned_about_until_one_is_made() -> None:
    failed = done(noted(SET, NOW), c.NoteBackup(None, True, "no space"), NOW + 3 * HOUR_MS)
    assert schedule(failed).due_ms(failed) == NOW + 3 * HOUR_MS + RETRY_MS
    (warning,) = warnings(failed, NOW + 3 * HOUR_MS)
    assert "3.0 h old" in warning
    assert "no space" in warning
    assert warnings(noted(failed, NOW + 4 * HOUR_MS), NOW + 4 * HOUR_MS) == []
    (first,) = warnings(done(SET, c.NoteBackup(None, True, "no space")), NOW)
    assert "no scheduled backup was made yet: no space" in first


def test_to_show_it_changes_nothing_of_the_state() -> None:
    state = done(noted(SET, NOW), c.NoteBackup(None, True, "no space"))
    first = backups_view(state)
    assert backups_view(state) == first
    assert c.backups_done(state)["last"]["at"] == NOW
    assert str(first["last"]["at"]).endswith("Z")


def test_one_that_is_late_is_warned_about() -> None:
    after = noted(SET, NOW)
    assert warnings(after, NOW + 3 * HOUR_MS) == []
    assert "5.0 h old" in warnings(after, NOW + 5 * HOUR_MS)[0]


def test_without_a_recovery_key_it_is_said_what_to_do() -> None:
    (warning,) = warnings(with_settings(genesis(), to="/backups"), NOW)
    assert "provider backup key" in warning


def test_the_primary_makes_them_or_the_node_that_is_named_while_it_is_a_member() -> None:
    assert schedule(SET).maker(SET) == "p1"
    named = with_settings(SET, node="p2")
    assert schedule(named).maker(named) == "p2"
    gone = with_settings(SET, node="p9")
    assert schedule(gone).maker(gone) == "p1"


@pytest.mark.parametrize(
    ("key", "good", "bad"),
    [
        (
            "backup.to",
            ["/backups", "s3://bucket", "s3://bucket/a/b"],
            ["backups", "s3://", "s3://UP/x", 3, "/a\nb"],
        ),
        ("backup.every_h", [0.5, 24], [0, -1, "1", True, 10_000]),
        ("backup.keep", [1, 30], [0, "3"]),
        ("backup.node", ["p1"], ["P 1", ""]),
        ("backup.s3_endpoint", ["https://s3.example.org", "http://127.0.0.1:9000"], ["ftp://x", "https://u@h"]),
    ],
)
def test_settings_are_looked_at_before_they_are_taken(key: str, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        assert c.PutSetting(key, value).plan(genesis(), NOW).status == 201
    for value in bad:
        with pytest.raises(Invalid, match=key):
            c.PutSetting(key, value).plan(genesis(), NOW)


def test_one_that_the_cluster_could_not_be_told_of_pushes_out_no_other(tmp_path: Path) -> None:
    """Else a node that makes backups while no primary is there would soon have made all of them anew."""
    state = founded(tmp_path / "p1")
    vault, lie = vault_of(tmp_path / "p1", state), tmp_path / "backups"
    key = RecoveryKey.new().clusters_half
    state = done(state, c.PutRecoveryKey(key.public, vault.seal(key.secret, c.RECOVERY)))
    state = with_settings(state, to=str(lie), keep=1)
    lie.mkdir()
    (lie / name_of(content_of(tmp_path / "p1", state).head("p1", 1000))).touch()
    where = place(tmp_path / "p1")
    backups = Backups(load_settings(where.config), where.files, vault, lambda: state, lambda: True)
    for now_ms in (NOW, NOW + 30_000, NOW + RETRY_MS - 1):
        backups.look(now_ms)
    assert len(list(lie.iterdir())) == 2, "it is made once, the daemon at its address does not answer"
