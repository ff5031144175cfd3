"""Invariant: a soak notices every write that is lost, and tells what grows from what is full."""

from tests.faults.soaking.promises import Promises, value_of
from tests.faults.soaking.samples import Held, Sample, full_since, steady

KEYS = 1000


def told(promises: Promises, *writes: tuple[int, int], node: str = "p1", keyed: bool = True) -> None:
    for number, revision in writes:
        promises.tell(node, "a", value_of(number, keyed=keyed, padding="x"), revision)


def test_nothing_is_found_where_each_node_tells_what_was_acknowledged() -> None:
    promises = Promises()
    for node in ("p1", "p2"):
        told(promises, (1, 5), (2, 9), node=node)
    promises.acknowledge("a", 1, 5)
    promises.acknowledge("a", 2, 9)
    promises.conclude(["p1", "p2"])
    assert promises.broken == []
    assert promises.acknowledged == 2


def test_what_was_not_acknowledged_may_be_there_or_not() -> None:
    promises = Promises()
    promises.acknowledge("a", 1, 5)
    told(promises, (1, 5), (2, 9), node="p1")
    told(promises, (1, 5), node="p2")
    promises.conclude(["p1", "p2"])
    assert promises.broken == []


def test_a_write_that_is_missing_in_between_is_found() -> None:
    promises = Promises()
    told(promises, (1, 5), (3, 9))
    assert promises.violations == 1


def test_the_last_one_missing_on_one_node_is_found() -> None:
    promises = Promises()
    promises.acknowledge("a", 1, 5)
    promises.acknowledge("a", 2, 9)
    told(promises, (1, 5), (2, 9), node="p1")
    told(promises, (1, 5), node="p2")
    promises.conclude(["p1", "p2"])
    assert [text.partition(":")[0] for text in promises.broken] == ["p2"]


def test_one_that_is_not_where_it_was_said_to_be_is_found() -> None:
    promises = Promises()
    promises.acknowledge("a", 1, 6)
    told(promises, (1, 5))
    promises.conclude(["p1"])
    assert promises.violations == 1


def test_what_was_asked_for_again_is_there_once_with_a_key_and_may_be_there_twice_without() -> None:
    promises = Promises()
    told(promises, (1, 5), (1, 7), keyed=False)
    promises.acknowledge("a", 1, 7)
    promises.conclude(["p1"])
    assert promises.broken == []
    told(promises, (2, 8), (2, 9))
    assert promises.violations == 1


def sample(at_s: float, mb: float, keys: int = KEYS) -> Sample:
    held = {"p1": Held(rss_mb=mb, pss_mb=mb, heap_mb=mb, files=40, threads=14)}
    return Sample(at_s, held, {"p1": (2.0, 9.0)}, {"p1": 0}, {"p1": keys}, {"p1": 1.0}, written=0, p50_ms=3.0)


def test_memory_is_judged_from_when_the_keys_are_full() -> None:
    filling = [sample(t, 100 + t, keys=t) for t in range(0, KEYS, 10)]
    assert full_since(filling, keys_max=KEYS, settle_s=100) is None
    full = [*filling, *(sample(t, 1100) for t in range(KEYS, 3 * KEYS, 10))]
    since_s = full_since(full, keys_max=KEYS, settle_s=100)
    assert since_s == KEYS + 100
    found = steady(full, since_s)
    assert found.memory["p1"].flat
    assert found.memory["p1"].by == 0


def test_a_leak_is_not_flat() -> None:
    found = steady([sample(t, 100 + t / 50) for t in range(0, 1000, 10)], 0)
    assert not found.memory["p1"].flat
    assert found.files["p1"].flat
    assert found.lag_ms["p1"].flat


def test_nothing_is_said_of_a_time_that_is_too_short() -> None:
    assert steady([sample(t, 100) for t in range(0, 100, 10)], 0).window_s is None
