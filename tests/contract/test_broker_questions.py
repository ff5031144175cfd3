"""A real RabbitMQ answers what brokers are asked in Erlang as it is understood. Each question costs a second."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from localcluster.broker import PROGRAMS, VHOST
from localcluster.process import as_user

from provider.broker.host.questions import ASK, about, ask_copy, ask_entry, copy, entry
from tests.support.brokers import RabbitRig


def asked(rabbit: RabbitRig, question: str) -> str:
    return rabbit.broker.ctl("eval", question)


@contextmanager
def asking(rabbit: RabbitRig, question: str) -> Iterator[str]:
    """The first line of the answer; who asked stays until the block's end."""
    command = as_user(rabbit.broker.owner, [PROGRAMS / "rabbitmqctl", "--quiet", "eval", question])
    environment = rabbit.broker._environment()
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield process.stdout.readline()
        process.communicate(timeout=60)


def test_a_broker_says_what_it_is_and_what_it_holds(rabbit: RabbitRig) -> None:
    told = about(asked(rabbit, ASK))
    assert (told.node, told.running, told.store_ended) == (rabbit.broker.node, True, False)
    assert told.cluster == told.seen == (rabbit.broker.node,)
    assert VHOST in told.vhosts
    assert not told.tls, "it was not told to"
    assert len(told.some) <= told.queues
    assert told.founded is (told.queues > 0)


def test_one_after_the_other_has_its_turn_and_it_ends_with_the_asker(rabbit: RabbitRig) -> None:
    node = rabbit.broker.node
    question = ask_entry([node], "localhost", "127.0.0.1", 0.2)
    with asking(rabbit, question) as answer:
        first = entry(answer)
        assert (first.known, first.turn, first.cluster) == ({node: "127.0.0.1"}, True, {})
        assert not entry(asked(rabbit, question)).turn
    assert entry(asked(rabbit, question)).turn


def test_a_stream_that_is_not_there_is_said_to_be_missing(rabbit: RabbitRig) -> None:
    found = copy(asked(rabbit, ask_copy(VHOST, "bellwether.log.nothing", 5.0, add=True)))
    assert (found.running, found.there, found.added) == (True, False, None)
