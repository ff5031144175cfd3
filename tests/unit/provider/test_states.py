"""How a node is, in one word: every sign in turn, and which of two counts."""

from dataclasses import replace
from typing import Any

import pytest

from provider.states import (
    FRESH_S,
    LOST_AFTER_S,
    STATES,
    SYNCING_FROM,
    Condition,
    Maintenance,
    Said,
    Signs,
    another,
    own,
    remedy,
    shown,
)

WELL = Signs(node="p2", revision=100, newest=100)


@pytest.mark.parametrize(
    ("changes", "state", "part", "reason"),
    [
        ({}, "active", None, None),
        ({"revision": 90, "newest": 100}, "active", None, None),
        ({"revision": 1, "newest": 1 + SYNCING_FROM}, "syncing", None, f"revision 1, {SYNCING_FROM} to go"),
        ({"caught_up": False}, "syncing", None, "reading the log"),
        ({"caught_up": False, "revision": 40}, "syncing", None, "at revision 40, 60 to go"),
        ({"connected": False}, "critical", "log", "log: not connected"),
        ({"connected": False, "log_problem": "refused"}, "critical", "log", "log: refused"),
        ({"log_problem": "the broker takes no writes"}, "critical", "log", "log: the broker takes no writes"),
        ({"store_problem": "the disk is full"}, "critical", "store", "store: the disk is full"),
        ({"diverged": "truncated: gone"}, "out_of_sync", None, "truncated: gone"),
        ({"member": False}, "removed", None, "p2 was removed"),
        ({"caught_up": False, "quiet_s": FRESH_S}, "syncing", None, "reading the log"),
        ({"caught_up": False, "quiet_s": 17.0}, "critical", "log", "nothing has come for 17.0 s"),
        ({"caught_up": True, "quiet_s": 17.0}, "active", None, None),
        ({"leads": True, "silent_s": FRESH_S}, "active", None, None),
        ({"leads": True, "silent_s": 7.25}, "critical", "log", "has not answered for 7.2 s"),
        ({"leads": False, "silent_s": 7.25}, "active", None, None),
    ],
)
def test_each_sign_alone(changes: dict[str, Any], state: str, part: str | None, reason: str | None) -> None:
    found = own(replace(WELL, **changes))
    assert (found.state, found.part) == (state, part)
    assert reason in found.reason if reason is not None and found.reason is not None else found.reason == reason


def test_of_two_signs_the_graver_one_counts() -> None:
    graver: list[dict[str, Any]] = [
        {"member": False},
        {"diverged": "regressed: another log"},
        {"store_problem": "full"},
        {"connected": False},
        {"log_problem": "blocked"},
        {"caught_up": False},
        {"leads": True, "silent_s": 60.0},
        {"newest": 10_000},
    ]
    for number, first in enumerate(graver):
        alone = own(replace(WELL, **first))
        for other in graver[number + 1 :]:
            both = own(replace(WELL, **{**other, **first}))
            assert (both.state, both.part) == (alone.state, alone.part), (first, other)


@pytest.mark.parametrize(
    ("silent_s", "listening_s", "state"),
    [
        (0.5, 60.0, "active"),
        (LOST_AFTER_S, 60.0, "active"),
        (LOST_AFTER_S + 1, 60.0, "lost"),
        (LOST_AFTER_S + 1, None, "unknown"),
        (LOST_AFTER_S + 1, 1.0, "unknown"),
        (None, 60.0, "lost"),
        (None, 1.0, "unknown"),
        (None, None, "unknown"),
    ],
)
def test_silence_counts_only_where_others_could_be_heard(
    silent_s: float | None, listening_s: float | None, state: str
) -> None:
    said = Said("active", None, silent_s) if silent_s is not None else None
    found = another(said, here="p1", listening_s=listening_s)
    assert found.state == state
    assert (found.reason is None) == (state == "active")
    assert ("p1" in (found.reason or "")) == (state == "unknown" or (state == "lost" and said is None))


def test_what_another_node_says_of_itself_is_passed_on() -> None:
    store = another(Said("critical", "store: the disk is full", 0.1), here="p1", listening_s=9.0)
    assert store == Condition("critical", "store: the disk is full", "store")
    assert another(Said("critical", "log: away", 0.1), here="p1", listening_s=9.0).part == "log"
    assert another(Said("dreaming", "of a later version", 0.1), here="p1", listening_s=9.0).state == "unknown"


@pytest.mark.parametrize("state", STATES)
def test_maintenance_covers_what_is_to_be_expected_and_hides_nothing(state: Any) -> None:
    under = Condition(state, None if state == "active" else "for a reason")
    found = shown(under, Maintenance("new kernel", "2026-01-02T03:04:05Z"))
    if state in ("removed", "out_of_sync"):
        assert found == under
        return
    assert found.state == "maintenance"
    assert found.reason is not None
    assert found.reason.startswith("new kernel, since 2026-01-02T03:04:05Z")
    assert (f"{state} (for a reason)" in found.reason) == (state != "active")
    assert shown(under, None) == under


def test_maintenance_without_words() -> None:
    assert shown(Condition("active"), Maintenance()) == Condition("maintenance", "no reason given")


@pytest.mark.parametrize("writes", [True, False])
@pytest.mark.parametrize("primary", [True, False])
@pytest.mark.parametrize("state", STATES)
def test_there_is_always_something_to_do_except_where_all_is_well(state: Any, primary: bool, writes: bool) -> None:
    assert (remedy(Condition(state), "p1", primary=primary, writes=writes) is None) == (state == "active")


def test_a_lost_standby_whom_writes_wait_for_is_not_to_be_removed_but_brought_back() -> None:
    """To remove it is a write, too."""
    said = remedy(Condition("lost"), "p2", primary=False, writes=False) or ""
    assert ("go on" in said, "bellwether nodes remove" in said) == (False, False)
    assert "bring p2 back" in said
    assert "failover --operation promote --force" in said
    away = remedy(Condition("critical", "log: it has not answered for 9.0 s", "log"), "p1", primary=True, writes=False)
    assert "failover --operation promote --force" in (away or "")


def test_where_a_broker_has_no_room_nobody_is_sent_to_the_network_or_told_to_use_force() -> None:
    """All nodes are in it together, also those whose own disks are empty: the host has to be found."""
    here = own(replace(WELL, log_problem="the broker takes no writes (low on disk)"))
    assert (here.state, here.part, here.no_room) == ("critical", "log", True)
    said = remedy(here, "p1", primary=True, writes=False) or ""
    assert ("rabbitmq-diagnostics alarms" in said, "--force" in said) == (True, False)
    silent = Said("active", None, 60.0)
    assert another(silent, here="p2", listening_s=900.0, no_room=True).state == "unknown", "nobody can say anything"
    assert another(silent, here="p2", listening_s=900.0).state == "lost"


def test_what_to_do_depends_on_who_and_which_part() -> None:
    lost = Condition("lost")
    assert "failover --operation promote" in (remedy(lost, "p1", primary=True) or "")
    assert "go on without it" in (remedy(lost, "p1", primary=False) or "")
    assert "make room" in (remedy(Condition("critical", "store: full", "store"), "p1", primary=True) or "").lower()
    assert "broker" in (remedy(Condition("critical", "log: away", "log"), "p1", primary=True) or "")
