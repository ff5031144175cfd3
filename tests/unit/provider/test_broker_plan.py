"""Steps towards what is wanted, tried on brokers that are only played."""

from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from provider.broker.host.plan import (
    AddReplica,
    CutOff,
    DropReplica,
    Forget,
    Join,
    Leave,
    Seen,
    Step,
    WakeReplica,
    next_step,
)
from provider.broker.host.wanted import Anew, Wanted
from provider.core.documents import BrokerNode

STEADY = settings(derandomize=True)

LOG = "bellwether.log.abc"


def wanted(*members: int, gone: tuple[int, ...] = (), own: int = 1) -> Wanted:
    return Wanted(
        own=f"rabbit@p{own}",
        member=own in members,
        brokers=tuple(BrokerNode(node=f"rabbit@p{n}", version="4.0.5", address=f"10.0.0.{n}") for n in members)
        if own in members
        else (),
        gone=tuple(f"rabbit@p{n}" for n in gone) if own in members else (),
        cookie="c" * 32 if own in members else None,
        stream=LOG if own in members else None,
    )


def names(*numbers: int) -> frozenset[str]:
    return frozenset(f"rabbit@p{n}" for n in numbers)


def seen(cluster: frozenset[str], running: frozenset[str], copies: frozenset[str]) -> Seen:
    return Seen("rabbit@p1", cluster, running, {LOG: copies}, empty=False)


def test_a_removed_broker_is_waited_for_then_cut_off_then_forgotten_with_its_copy() -> None:
    wish = wanted(1, 2, gone=(3,))
    alive = seen(names(1, 2, 3), names(1, 2, 3), names(1, 2, 3))
    assert isinstance(next_step(wish, alive, patient=True), str)
    assert next_step(wish, alive, patient=False) == CutOff("rabbit@p3")
    down = seen(names(1, 2, 3), names(1, 2), names(1, 2, 3))
    assert next_step(wish, down, patient=True) == Forget("rabbit@p3")
    forgotten = seen(names(1, 2), names(1, 2), names(1, 2, 3))
    assert next_step(wish, forgotten, patient=True) == DropReplica(LOG, "rabbit@p3")
    assert next_step(wish, seen(names(1, 2), names(1, 2), names(1, 2)), patient=True) is None


def test_of_two_brokers_none_is_cut_off_from_the_other() -> None:
    answer = next_step(wanted(1, gone=(2,)), seen(names(1, 2), names(1, 2), names(1, 2)), patient=False)
    assert isinstance(answer, str)
    assert "provider broker leave" in answer


def test_of_two_brokers_one_that_is_leaving_is_not_disturbed() -> None:
    down = seen(names(1, 2), names(1), names(1, 2))
    answer = next_step(wanted(1, gone=(2,)), down, patient=True)
    assert isinstance(answer, str)
    assert "leaving" in answer
    assert next_step(wanted(1, gone=(2,)), down, patient=False) == Forget("rabbit@p2")


def test_a_broker_that_nobody_removed_is_never_forgotten() -> None:
    """A newcomer may be in the brokers' cluster before this host has read that it is a member."""
    assert next_step(wanted(1, 2), seen(names(1, 2, 4), names(1, 2), names(1, 2)), patient=False) is None


def test_an_emptied_broker_joins_again_and_the_one_with_the_log_waits_for_the_others() -> None:
    assert next_step(wanted(1, 2), Seen("rabbit@p1", names(1), names(1), {}, empty=True), patient=True) == Join()
    assert next_step(wanted(1, 2), seen(names(1), names(1), names(1)), patient=True) is None


def test_a_copy_that_does_not_run_is_started_while_enough_brokers_run() -> None:
    def asleep(running: frozenset[str], log: str = LOG) -> Seen:
        return replace(seen(names(1, 2, 3), running, names(1, 2, 3)), asleep=frozenset({log}))

    assert next_step(wanted(1, 2, 3), asleep(names(1, 2)), patient=True) == WakeReplica(LOG, alone=False)
    alone = replace(seen(names(1), names(1), names(1)), asleep=frozenset({LOG}))
    assert next_step(wanted(1), alone, patient=True) == WakeReplica(LOG, alone=True)
    assert next_step(wanted(1, 2), alone, patient=True) == WakeReplica(LOG, alone=False), "the other may have the log"
    assert next_step(wanted(1, 2, 3), asleep(names(1)), patient=False) is None, "one of three cannot"
    assert next_step(wanted(1, 2, 3), asleep(names(1, 2), "others.own"), patient=True) is None, "only the log is ours"


def test_a_removed_node_s_broker_leaves_and_then_has_nothing_to_do() -> None:
    wish = wanted(2, 3)
    assert next_step(wish, seen(names(1, 2, 3), names(1, 2, 3), names(1, 2)), patient=True) == Leave()
    assert next_step(wish, Seen("rabbit@p1", names(1), names(1), {}, empty=True), patient=True) is None


def test_a_member_without_a_copy_of_the_log_gets_one() -> None:
    assert next_step(wanted(1, 2), seen(names(1, 2), names(1, 2), names(2)), patient=True) == AddReplica(LOG)


@dataclass
class Played:
    """Brokers as RabbitMQ has them; every step may fail before or after it did its work."""

    cluster: set[str]
    running: set[str]
    copies: set[str]
    done: list[Step] = field(default_factory=list)

    def look(self) -> Seen:
        return seen(frozenset(self.cluster), frozenset(self.running), frozenset(self.copies))

    def do(self, step: Step) -> None:
        self.done.append(step)
        match step:
            case CutOff(node):
                self.running.discard(node)
            case Forget(node):
                assert node not in self.running
                self.cluster.discard(node)
            case DropReplica(_, node):
                self.copies.discard(node)
            case AddReplica():
                self.copies.add("rabbit@p1")
            case _:
                raise AssertionError(step)


few = st.sets(st.integers(2, 5))


@STEADY
@given(few, few, few, few, st.lists(st.booleans(), max_size=20))
def test_interrupted_anywhere_and_repeated_it_ends_right(
    members: set[int], gone: set[int], away: set[int], copies: set[int], interrupted: list[bool]
) -> None:
    members -= gone
    wish = wanted(1, *sorted(members), gone=tuple(sorted(gone)))
    there = Played(
        set(names(1, *members, *gone)), set(names(1, *(members | gone) - away)), set(names(*copies & (members | gone)))
    )
    for skip in [*interrupted, *[False] * 40]:
        step = next_step(wish, there.look(), patient=False)
        if step is None:
            break
        if isinstance(step, str):  # of two brokers: by hand, there
            there.running -= set(wish.gone)
        elif not skip:
            there.do(step)
    assert next_step(wish, there.look(), patient=False) is None
    assert there.cluster == set(names(1, *members))
    assert not there.copies & set(wish.gone)
    assert "rabbit@p1" in there.copies


def test_of_brokers_that_begin_anew_the_first_joins_nobody_and_the_others_join_it() -> None:
    anew = Anew(generation="abc", first="rabbit@p1", user="boss", password_hash="h" * 48)
    alone = Seen("rabbit@p1", names(1), names(1), {}, empty=True)
    first = wanted(1, 2).model_copy(update={"anew": anew})
    assert next_step(wanted(1, 2), alone, patient=True) == Join()
    assert next_step(first, alone, patient=True) is None
    other = wanted(1, 2, own=2).model_copy(update={"anew": anew})
    assert next_step(other, Seen("rabbit@p2", names(2), names(2), {}, empty=True), patient=True) == Join()
