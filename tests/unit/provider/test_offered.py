"""Invariant: a state that was handed out is there for whoever goes on with it, and is not kept for ever."""

from provider.recovery.offered import KEPT, Offered
from tests.support.history import accept_values, genesis


def test_the_last_ones_are_there() -> None:
    offered = Offered()
    states = [one.state for one in accept_values(genesis(), range(KEPT + 1))]
    for state in states:
        offered.keep(state, None)
    assert offered.get(states[0].digest) is None
    assert [offered.get(state.digest) for state in states[1:]] == [(state, None) for state in states[1:]]


def test_one_is_forgotten_unless_it_was_handed_out_again() -> None:
    offered, state = Offered(), genesis()
    first = offered.keep(state, None)
    second = offered.keep(state, None)
    offered.forget(state.digest, first)
    assert offered.get(state.digest) == (state, None)
    offered.forget(state.digest, second)
    assert offered.get(state.digest) is None
    offered.forget(state.digest, second)
