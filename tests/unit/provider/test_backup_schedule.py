"""Invariant: a backup is made by one node, when it is due; what is missing for it, or late, is warned about."""

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from provider.api.routes.backups import backups_view
from provider.backup import schedule as schedule_module
from provider.backup.concerns import warnings
from provider.backup.names import name_of
from provider.backup.recovery import RecoveryKey
from provider.backup.schedule import HOUR_MS, LEAST_MS, RETRY_MS, Backups, Schedule
from provider.cli.backup import check_follows
from provider.core import commands as c
from provider.core.entries import Change
from provider.core.state import State
from provider.settings import load_settings
from shared.errors import Invalid, Refused
from tests.support.backups import changed, content_of, founded, place, vault_of
from tests.support.history import START_MS, accept_entry, commit_of, genesis

NOW = START_MS + 10


def with_settings(state: State, **values: Any) -> State:
    return changed(state, *(Change(kind="setting", id=f"backup.{k}", spec={"value": v}) for k, v in values.items()))


def done(state: State, command: c.Command, at: int = NOW) -> State:
    return changed(state, *command.plan(state, at).changes)


SET = done(with_settings(genesis(), to="/backups", every_h=2), c.PutRecoveryKey("a" * 64, "sealed"))


def noted(state: State, at: int, *, scheduled: bool = True) -> State:
    made = {"name": "n", "where": "w", "node": "p1", "at": at, "epoch": 1, "revision": state.revision, "size_bytes": 1}
    return done(state, c.NoteBackup(made, scheduled))


def schedule(state: State) -> Schedule:
    found = Schedule.of(state)
    assert found is not None
    return found


def test_without_a_place_none_is_made() -> None:
    assert Schedule.of(genesis()) is None
    assert warnings(genesis(), NOW) == []


def test_the_first_is_due_at_once_and_the_next_after_its_time() -> None:
    assert schedule(SET).due_ms(SET, NOW) == 0
    after = noted(SET, NOW)
    assert schedule(after).due_ms(after, NOW) == NOW + 2 * HOUR_MS
    elsewhere = noted(SET, NOW, scheduled=False)
    assert schedule(elsewhere).due_ms(elsewhere, NOW) == 0, "one that somebody made elsewhere does not take its place"


def test_where_something_is_set_anew_the_next_one_does_not_wait() -> None:
    failed = done(noted(SET, NOW), c.NoteBackup(None, True, "no space"), NOW + 100)
    assert schedule(failed).due_ms(failed, NOW) > NOW + 100
    moved = with_settings(failed, to="/other")
    assert schedule(moved).due_ms(moved, NOW) == 0


def test_what_came_first_does_not_depend_on_clocks() -> None:
    """The place was set while the cluster's time was a day ahead of the maker's clock."""
    ahead = with_settings(replace(SET, now=NOW + 24 * HOUR_MS), to="/other")
    assert schedule(ahead).due_ms(ahead, NOW) == 0
    after = noted(ahead, NOW)
    assert schedule(after).due_ms(after, NOW) == NOW + 2 * HOUR_MS
    failed = done(after, c.NoteBackup(None, True, "no space"), NOW + 3 * HOUR_MS)
    assert schedule(failed).due_ms(failed, NOW + 3 * HOUR_MS) == NOW + 3 * HOUR_MS + RETRY_MS


def test_one_that_was_made_in_the_future_counts_for_nothing_and_is_warned_about() -> None:
    year = noted(SET, NOW + 366 * 24 * HOUR_MS)
    assert schedule(year).due_ms(year, NOW) == 0
    (warning,) = warnings(year, NOW)
    assert "8784.0 h from now" in warning
    assert "the clock of p1" in warning
    little = noted(SET, NOW + 5_000)
    assert schedule(little).due_ms(little, NOW) > NOW, "clocks of hosts differ a little"
    assert warnings(little, NOW) == []
    failed = done(SET, c.NoteBackup(None, True, "no space"), NOW + 24 * HOUR_MS)
    assert schedule(failed).due_ms(failed, NOW) == 0


def test_one_that_failed_is_tried_again_soon_and_warned_about_until_one_is_made() -> None:
    failed = done(noted(SET, NOW), c.NoteBackup(None, True, "no space"), NOW + 3 * HOUR_MS)
    assert schedule(failed).due_ms(failed, NOW + 3 * HOUR_MS) == NOW + 3 * HOUR_MS + RETRY_MS
    (warning,) = warnings(failed, NOW + 3 * HOUR_MS)
    assert "3.0 h old" in warning
    assert "no space" in warning
    assert warnings(noted(failed, NOW + 4 * HOUR_MS), NOW + 4 * HOUR_MS) == []
    (first,) = warnings(done(SET, c.NoteBackup(None, True, "no space")), NOW)
    assert "no scheduled backup was made yet: no space" in first


def test_to_show_it_changes_nothing_of_the_state() -> None:
    state = done(noted(SET, NOW), c.NoteBackup(None, True, "no space"))
    first = backups_view(state, NOW)
    assert backups_view(state, NOW) == first
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


class Maker(Backups):
    """Of a node whose daemon notes what it is told, or does not answer."""

    def __init__(self, directory: Path, *, keep: int, hears: bool = True) -> None:
        self.known = founded(directory / "p1")
        self.lie, self._hears = directory / "backups", hears
        vault, key = vault_of(directory / "p1", self.known), RecoveryKey.new().clusters_half
        self.known = done(self.known, c.PutRecoveryKey(key.public, vault.seal(key.secret, c.RECOVERY)))
        self.known = with_settings(self.known, to=str(self.lie), keep=keep)
        where = place(directory / "p1")
        super().__init__(load_settings(where.config), where.files, vault, lambda: self.known, lambda: True)

    def _note(self, what: dict[str, Any]) -> bool:
        if not self._hears:
            return super()._note(what)
        before = self.known
        entry = commit_of(*c.NoteBackup(what.get("made"), True, what.get("failed")).plan(before, before.now).changes)
        accepted = accept_entry(before, entry)
        self.known = accepted.state
        self.applied([accepted])
        return True


def test_none_follows_within_a_minute_whatever_clocks_say(tmp_path: Path) -> None:
    """Each would push out an older one. Here the clock is set back years between two looks."""
    maker = Maker(tmp_path, keep=30)
    for now_ms in (NOW, NOW + 1_000, NOW + 30_000, NOW + LEAST_MS - 1):
        maker.look(now_ms)
    assert len(list(maker.lie.iterdir())) == 1
    maker.look(NOW + LEAST_MS)
    assert len(list(maker.lie.iterdir())) == 2, "what was made in the future counts for nothing"
    maker.look(int(time.time() * 1000))
    assert len(list(maker.lie.iterdir())) == 2, "the clock is right again, and the last one is as young as it says"


def test_what_a_person_sets_does_not_wait(tmp_path: Path) -> None:
    maker, now_ms = Maker(tmp_path, keep=30), int(time.time() * 1000)
    maker.look(now_ms)
    accepted = accept_entry(
        maker.known, commit_of(Change(kind="setting", id="backup.to", spec={"value": str(tmp_path / "other")}))
    )
    maker.known = accepted.state
    maker.applied([accepted])
    maker.look(now_ms + 1)
    assert len(list((tmp_path / "other").iterdir())) == 1


def test_one_that_the_cluster_could_not_be_told_of_pushes_out_no_other(tmp_path: Path) -> None:
    """Else a node that makes backups while no primary is there would soon have made all of them anew."""
    maker = Maker(tmp_path, keep=1, hears=False)
    maker.lie.mkdir()
    (maker.lie / name_of(content_of(tmp_path / "p1", maker.known).head("p1", 1000))).touch()
    for now_ms in (NOW, NOW + 30_000, NOW + RETRY_MS - 1):
        maker.look(now_ms)
    assert len(list(maker.lie.iterdir())) == 2, "it is made once, the daemon at its address does not answer"


def test_a_host_without_room_does_not_end_the_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Any:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(schedule_module, "make", full)
    maker = Maker(tmp_path, keep=1)
    maker.look(NOW)
    assert "No space left" in c.backups_done(maker.known)["failed"]["why"]


@pytest.mark.parametrize(
    ("nodes", "why"),
    [
        ([{"name": "p1", "state": "out_of_sync", "reason": "another log"}], "p1 is out_of_sync .another log."),
        ([{"name": "p2", "state": "active", "reason": None}], "p1 is removed"),
    ],
)
def test_a_node_that_the_cluster_has_left_behind_makes_none(nodes: list[dict[str, Any]], why: str) -> None:
    with pytest.raises(Refused, match=f"{why}.*on another node"):
        check_follows(nodes, "p1")
    check_follows([{"name": "p1", "state": "critical", "reason": "the log is away"}], "p1")
