"""Two that join at once neither wait for each other nor join each other; a broker that is in the cluster and does not
let anybody in, or is away, is never left out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider.broker.host.commands import BrokerAway
from provider.broker.host.company import Answer, company
from provider.broker.host.questions import About
from provider.core.documents import BrokerNode
from shared.errors import BellwetherError, Invalid, Refused

NODES = ("rabbit@p1", "rabbit@p2", "rabbit@p3")
PEERS = [BrokerNode(node=node, version="4.0.5", address=f"10.0.0.{n}") for n, node in enumerate(NODES, 1)]
P1, P2, P3 = PEERS
NO_COOKIE = Refused("it does not accept the cluster's Erlang cookie")
AWAY = BrokerAway("it does not run, or cannot be reached")


def told(node: str, *cluster: str, queues: int = 0, running: bool = True) -> About:
    return About(
        clock_ms=0,
        node=node,
        running=running,
        version="4.0.5",
        plugins=(),
        cluster=cluster if running else (),
        seen=cluster if running else (),
        queues=queues,
    )


FIRST = told("rabbit@p1", "rabbit@p1", queues=1)
STOPPED = told("rabbit@p2", running=False)
NEW = told("rabbit@p2", "rabbit@p2")


@pytest.mark.parametrize("other", [NO_COOKIE, STOPPED, NEW, AWAY], ids=["own cookie", "stopped", "empty", "away"])
def test_who_is_joining_at_this_moment_is_left_out(other: Answer) -> None:
    found = company([P1, P2], {"rabbit@p1": FIRST, "rabbit@p2": other})
    assert (found.brokers, found.joining) == ((P1,), (P2,))


@pytest.mark.parametrize("other", [NO_COOKIE, STOPPED, AWAY], ids=["own cookie", "stopped", "away"])
def test_who_is_in_the_cluster_is_waited_for(other: Answer) -> None:
    first = told("rabbit@p1", "rabbit@p1", "rabbit@p2", queues=1)
    with pytest.raises(BellwetherError) as said:
        company([P1, P2], {"rabbit@p1": first, "rabbit@p2": other})
    assert said.value is other or "rabbit@p2 is stopped" in str(said.value)


@pytest.mark.parametrize("only", [NO_COOKIE, AWAY], ids=["own cookie", "away"])
def test_where_nobody_is_in_a_cluster_the_answer_of_the_first_counts(only: BellwetherError) -> None:
    with pytest.raises(type(only), match=str(only)):
        company([P1], {"rabbit@p1": only})
    with pytest.raises(type(only), match=str(only)):
        company([P1, P2], {"rabbit@p1": only, "rabbit@p2": NEW})


def test_two_empty_brokers_do_not_begin_a_cluster_of_their_own() -> None:
    with pytest.raises(BrokerAway, match="no broker of the cluster holds anything yet"):
        company([P2], {"rabbit@p2": NEW})


def test_one_that_was_emptied_behind_the_others_backs_is_known_to_them() -> None:
    first = told("rabbit@p1", "rabbit@p1", "rabbit@p3", queues=1)
    found = company([P1, P2], {"rabbit@p1": first, "rabbit@p2": NO_COOKIE})
    assert "rabbit@p3" in found.known


def test_who_joined_in_between_is_known_by_the_address_that_the_others_have() -> None:
    met = company([P1, P2], {"rabbit@p1": FIRST, "rabbit@p2": NO_COOKIE})
    found = met.with_those({"rabbit@p2": "10.0.0.9", "rabbit@p3": "10.0.0.3"}, [P1, P2])
    assert [(one.node, one.address) for one in found[2:]] == [("rabbit@p3", "10.0.0.3")]
    assert found[:2] == [P1, P2]
    for node, address in (("rabbit@p3", "127.0.0.1"), ("rabbit@p 3\n", "10.0.0.3")):
        with pytest.raises(Invalid):
            met.with_those({node: address}, [P1, P2])


clusters = st.lists(st.sampled_from(NODES), max_size=3, unique=True)
answers = st.one_of(
    st.sampled_from([NO_COOKIE, AWAY]),
    st.builds(
        lambda cluster, queues, running: told("rabbit@p1", *cluster, queues=queues, running=running),
        clusters,
        st.integers(0, 1),
        st.booleans(),
    ),
)


@given(st.tuples(answers, answers, answers))
def test_nobody_is_joined_that_is_not_in_a_cluster_and_nobody_of_a_cluster_is_left_out(
    said: tuple[Answer, Answer, Answer],
) -> None:
    by_node = {
        node: answer.model_copy(update={"node": node}) if isinstance(answer, About) else answer
        for node, answer in zip(NODES, said, strict=True)
    }
    try:
        found = company(PEERS, by_node)
    except BellwetherError:
        return
    assert found.brokers
    assert {*found.brokers, *found.joining} == {*PEERS}
    for peer in found.brokers:
        answer = by_node[peer.node]
        assert isinstance(answer, About) and answer.founded
    for peer in found.joining:
        answer = by_node[peer.node]
        alone = isinstance(answer, About) and answer.running and not answer.founded
        assert alone or peer.node not in found.known
