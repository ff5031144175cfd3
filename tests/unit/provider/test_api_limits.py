"""What is too much. Invariants: nobody gets more than rate and burst allow, nobody is held back for what others do, and
whatever clients do, what is remembered of them stays bounded."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider.api.http.heads import wrong
from provider.api.http.limits import (
    TOLD,
    Buckets,
    Connections,
    Networks,
    Patience,
    Phase,
    Place,
    Verdict,
    group,
    too_deep,
)
from provider.api.http.source import behind
from provider.settings import LimitSettings

KEYS = st.sampled_from(["a", "b", "c", "d", "e"])
PATIENCE = Patience(head_s=10, body_grace_s=5, body_min_bytes_per_s=100, idle_s=75, unread_s=60)

# ── how often ────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.lists(st.tuples(KEYS, st.floats(0, 5))), st.integers(1, 5), st.integers(1, 10))
def test_no_client_gets_more_than_its_rate_and_burst(asked: list[tuple[str, float]], rate: int, burst: int) -> None:
    buckets, now_s = Buckets(rate, burst), 0.0
    taken: dict[str, list[float]] = {}
    for key, pause_s in asked:
        now_s += pause_s
        if buckets.take(key, now_s):
            taken.setdefault(key, []).append(now_s)
    for times in taken.values():
        for first in range(len(times)):
            for last in range(first, len(times)):
                assert last - first + 1 <= burst + rate * (times[last] - times[first]) + 1e-6


@given(st.lists(KEYS), st.integers(1, 10))
def test_what_others_ask_is_not_counted_against_a_client(others: list[str], burst: int) -> None:
    buckets = Buckets(0.001, burst)
    for key in others:
        buckets.take(key, 0.0)
    assert [buckets.take("mine", 0.0) for _ in range(burst + 1)] == [True] * burst + [False]
    assert buckets.take("mine", 1000.0), "the rate gives one back"


@given(st.lists(st.integers()), st.integers(1, 5))
def test_no_more_clients_are_remembered_than_there_is_room_for(clients: list[int], size: int) -> None:
    buckets = Buckets(1, 1, size)
    for client in clients:
        buckets.take(str(client), 0.0)
        assert len(buckets) <= size
        assert not buckets.take(str(client), 0.0), "whoever asks now is not forgotten for others"


# ── how many ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.lists(st.tuples(st.sampled_from(["enter", "leave", "known"]), KEYS, st.integers(0, 500))), st.integers(1, 4))
def test_connections_are_counted_exactly(steps: list[tuple[str, str, int]], per_client: int) -> None:
    connections = Connections(per_client, 8)
    places: list[tuple[str | None, Place]] = []
    for what, client, which in steps:
        if what == "enter":
            of_client = sum(owner == client for owner, _ in places)
            place = connections.enter(client)
            free = len(places) < 8 and of_client < per_client
            room = len(places) < 8 + TOLD and of_client < per_client + TOLD
            assert place.verdict is (Verdict.SERVE if free else Verdict.TELL if room else Verdict.CUT)
            if room:
                places.append((client, place))
        elif places:
            _, place = places.pop(which % len(places))
            if what == "known":
                place.known()
                assert place.verdict is Verdict.SERVE
                places.append((None, place))
            else:
                place.leave()
                place.leave()
        assert connections.total == len(places)
        assert connections.clients == len({owner for owner, _ in places if owner is not None})
    for _, place in places:
        place.leave()
    assert (connections.total, connections.clients) == (0, 0)


@pytest.mark.parametrize(
    ("address", "whose"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::ffff:1", "2001:db8::/64"),
        ("2001:db8:0:1::1", "2001:db8:0:1::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_whose_an_address_is(address: str, whose: str) -> None:
    assert group(address) == whose


# ── how slow ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("phase", "waited_s", "received", "lost"),
    [
        (Phase.FIRST, 9, 0, False),
        (Phase.FIRST, 11, 100, True),
        (Phase.HEAD, 11, 0, True),
        (Phase.BODY, 5, 0, False),
        (Phase.BODY, 6, 99, True),
        (Phase.BODY, 6, 100, False),
        (Phase.BODY, 1005, 99_999, True),
        (Phase.ANSWER, 10**6, 0, False),
        (Phase.REST, 6, 10**9, True),
        (Phase.IDLE, 74, 0, False),
        (Phase.IDLE, 76, 0, True),
    ],
)
def test_when_patience_ends(phase: Phase, waited_s: float, received: int, *, lost: bool) -> None:
    assert PATIENCE.lost(phase, waited_s, received) is lost


# ── how deep ─────────────────────────────────────────────────────────────────────────────────────────────────────────

VALUES = st.recursive(
    st.none() | st.text(alphabet='[]{}"\\,:a😀') | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(alphabet='[{"\\'), inner, max_size=3),
    max_leaves=20,
)


def depth(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max((depth(inner) for inner in value.values()), default=0)
    return 1 + max((depth(inner) for inner in value), default=0) if isinstance(value, list) else 0


@given(value=VALUES, levels=st.integers(0, 6), ascii_only=st.booleans())
def test_the_depth_of_json_is_told_exactly(value: object, levels: int, *, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only).encode()
    assert too_deep(text, levels) is (depth(value) > levels)


@given(st.binary() | st.text(alphabet='[]{}"\\').map(str.encode))
def test_whatever_is_said_about_nonsense_nothing_fails(body: bytes) -> None:
    too_deep(body, 2)


# ── from where ───────────────────────────────────────────────────────────────────────────────────────────────────────

PROXIES = Networks(["10.0.0.0/8", "2001:db8::1"])


@pytest.mark.parametrize(
    ("connected", "forwarded", "client"),
    [
        ("192.0.2.1", ["198.51.100.7"], "192.0.2.1"),  # anybody can write that
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["203.0.113.9, 198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["203.0.113.9", "198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["198.51.100.7, 10.1.1.1 ,10.2.2.2"], "198.51.100.7"),
        ("10.0.0.1", ["10.1.1.1"], "10.1.1.1"),
        ("10.0.0.1", ["198.51.100.7, unknown"], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.7, unknown, 10.3.3.3"], "10.3.3.3"),
        ("10.0.0.1", ["198.51.100.7,"], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.7:4711"], "198.51.100.7"),
        ("10.0.0.1", ["[2001:db8::7]:4711"], "2001:db8::7"),
        ("10.0.0.1", ["2001:db8::7"], "2001:db8::7"),
        ("2001:db8::1", ["::ffff:198.51.100.7"], "198.51.100.7"),
        ("::ffff:10.0.0.1", ["198.51.100.7"], "198.51.100.7"),
    ],
)
def test_who_is_behind_a_proxy(connected: str, forwarded: list[str], client: str) -> None:
    headers = [(b"host", b"x"), *((b"x-forwarded-for", value.encode()) for value in forwarded)]
    assert behind(connected, headers, PROXIES) == client
    assert behind(connected, headers, Networks([])) == connected


@given(st.lists(st.binary(max_size=50)))
def test_garbage_never_becomes_an_address(values: list[bytes]) -> None:
    found = behind("10.0.0.1", [(b"x-forwarded-for", value) for value in values], PROXIES)
    assert group(found)


# ── what is malformed ────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.lists(st.tuples(st.binary(max_size=20).map(bytes.lower), st.binary(max_size=20))), st.binary(max_size=30))
def test_every_head_is_judged(headers: list[tuple[bytes, bytes]], target: bytes) -> None:
    why = wrong("1.1", target, [*headers, (b"host", b"x")], upgrade=False)
    assert why is None or why.isprintable()


# ── the page about it ────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_limit_is_in_the_documentation_with_its_default() -> None:
    page = (Path(__file__).parents[3] / "docs" / "LIMITS.md").read_text(encoding="utf-8")
    for name, field in LimitSettings.model_fields.items():
        default = f"{field.default:g}" if isinstance(field.default, float) else str(field.default or "none")
        default = "none" if default == "()" else default
        assert f"| `{name}` | {default} |" in page
        assert field.description
