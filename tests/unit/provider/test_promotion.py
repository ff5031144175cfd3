"""Who may be promoted, how long it is waited, and what is said meanwhile."""

import ssl
from contextlib import closing
from typing import Any

import pytest

from provider.cli.promote import Promoting
from provider.client import Client
from provider.promotion import CATCH_UP_S, TELL_EVERY_S, Patience, awaited, refusal
from provider.states import Condition, Maintenance

AWAY = Condition("critical", "log: not connected", "log")


@pytest.mark.parametrize(
    ("here", "allowed"),
    [
        (Condition("active"), True),
        (Condition("syncing", "reading the log"), True),
        (AWAY, True),
        (Condition("critical", "store: full", "store"), False),
        (Condition("out_of_sync", "truncated: gone"), False),
        (Condition("removed", "p2 was removed"), False),
    ],
)
@pytest.mark.parametrize("force", [False, True])
def test_what_waiting_cannot_mend_is_refused_also_with_force(here: Condition, allowed: bool, force: bool) -> None:
    said = refusal("p2", here, None, force=force)
    assert (said is None) == allowed
    assert said is None or (here.reason in said and "Promote another standby" in said)  # type: ignore[operator]


def test_a_node_in_maintenance_is_promoted_with_force_alone() -> None:
    working = Maintenance("new kernel", None)
    said = refusal("p2", Condition("active"), working, force=False)
    assert said is not None
    assert all(word in said for word in ("p2 is in maintenance (new kernel)", "maintenance off", "--force"))
    assert refusal("p2", Condition("active"), working, force=True) is None
    assert refusal("p2", Condition("out_of_sync", "truncated"), working, force=True) is not None


def test_a_log_without_a_sign_is_given_up_after_the_time_that_was_asked() -> None:
    patience = Patience.begin(100.0, 30.0, revision=7)
    assert patience.look(129.9, 7)
    assert not patience.look(130.0, 7)


def test_a_standby_that_goes_on_reading_is_waited_for_but_not_for_ever() -> None:
    patience, revision, now_s = Patience.begin(0.0, 30.0, revision=7), 7, 0.0
    while patience.look(now_s, revision):
        now_s, revision = now_s + 29.0, revision + 1
    assert CATCH_UP_S <= now_s < CATCH_UP_S + 30.0
    stands_still = Patience.begin(0.0, 30.0, revision=7)
    assert stands_still.look(20.0, 8)
    assert stands_still.look(49.0, 8)
    assert not stands_still.look(50.0, 8)


def test_what_is_waited_for_is_told_when_it_is_news_and_now_and_then() -> None:
    patience = Patience.begin(0.0, 30.0, revision=7)
    told = [(now_s, what) for now_s, what in _story() if patience.to_tell(now_s, what)]
    assert told == [(1.0, "log"), (1.0 + TELL_EVERY_S, "log"), (7.0, "answer")]


def _story() -> list[tuple[float, str]]:
    return [(0.5, "log"), (1.0, "log"), (2.0, "log"), (1.0 + TELL_EVERY_S, "log"), (7.0, "answer"), (8.0, "answer")]


@pytest.mark.parametrize(
    ("here", "newest", "claimed", "what", "words"),
    [
        (AWAY, 100, False, "log", "log: not connected; waiting for the brokers"),
        (Condition("critical", "store: full", "store"), 100, True, "store", "store: full"),
        (Condition("syncing", "reading the log"), 100, False, "catch up", "at revision 40, 60 to go"),
        (Condition("active"), 100, False, "catch up", "at revision 40, 60 to go"),
        (Condition("syncing", "reading the log"), 40, False, "catch up", "reading the log, at revision 40"),
        (Condition("active"), 40, False, "answer", "a record is on its way"),
        (Condition("active"), 100, True, "answer", "the claim is on its way"),
    ],
)
def test_it_says_what_it_waits_for_how_long_it_has_and_when_it_gives_up(
    here: Condition, newest: int, claimed: bool, what: str, words: str
) -> None:
    found: Any = awaited(here, Patience.begin(10.0, 30.0, revision=40), 13.0, newest, claimed=claimed)
    assert found.what == what
    assert words in found.detail
    assert "waited 3 s; given up after 30 s without a sign" in found.detail


@pytest.mark.parametrize(
    ("last", "may_go_on"), [("check", False), ("wait", False), ("barrier", True), ("survey", True), ("begin", True)]
)
def test_who_stops_looking_is_told_that_nothing_goes_on_only_where_that_is_sure(last: str, may_go_on: bool) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with closing(Client(["https://127.0.0.1:1"], token=None, tls=tls)) as client:
        promoting = Promoting("p3", client, [{"step": last, "detail": "", "ms": 1.0}])
        assert promoting.claimed == may_go_on
