"""What every `shared.bus.Link` promises, of the one in memory and of the one to RabbitMQ."""

import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from localcluster.ports import free_ports

from shared.bus import Delivery, Exchange, Outcome, Queue, Subscription, Topology
from tests.support.brokers import USER, RabbitRig, Rig, Seen, Watched, name, wait_for

Connect = Callable[..., Watched]


@pytest.fixture
def connect(rig: Rig) -> Iterator[Connect]:
    """Starts a link with a topology; all are closed at the end."""
    with ExitStack() as stack:

        def start(topology: Topology = Topology(), *, endpoints: tuple[str, ...] = ()) -> Watched:  # noqa: B008
            watched = Watched(lambda up, down: rig.make_link(topology, up, down, endpoints=endpoints)).start()
            stack.callback(watched.link.close)
            return watched

        yield start


def reading(queue: Queue, seen: Seen[Delivery], *, prefetch: int = 100, exchange: Exchange | None = None) -> Topology:
    subscription = Subscription(queue.name, seen.append, prefetch)
    return Topology([] if exchange is None else [exchange], [queue], [subscription])


# ── publishing ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_confirmed_message_arrives_as_it_was_sent(connect: Connect) -> None:
    seen: Seen[Delivery] = Seen()
    queue = Queue(name("q"), exclusive=True)
    link = connect(reading(queue, seen)).up()
    assert link.send("", queue.name, b'{"v": 1}') is Outcome.CONFIRMED
    delivery = seen.at_least(1)[0]
    assert (delivery.body, delivery.key, delivery.content_type) == (b'{"v": 1}', queue.name, "application/json")
    assert delivery.user_id == USER
    assert delivery.offset is None


def test_a_message_that_no_queue_is_bound_for_is_unroutable(connect: Connect) -> None:
    exchange = Exchange(name("x"), "topic")
    link = connect(Topology(exchanges=[exchange])).up()
    assert link.send(exchange.name, "nobody") is Outcome.UNROUTABLE
    assert link.send("", name("nobody")) is Outcome.UNROUTABLE


def test_routable_and_unroutable_messages_on_their_way_together_are_told_apart(connect: Connect) -> None:
    queue = Queue(name("q"), exclusive=True)
    link = connect(Topology(queues=[queue])).up()
    outcomes: Seen[tuple[int, Outcome]] = Seen()
    for number in range(100):
        key = queue.name if number % 3 else "nobody"
        link.link.publish("", key, b"{}", on_done=lambda outcome, number=number: outcomes.append((number, outcome)))
    assert sorted(outcomes.at_least(100)) == sorted(
        ((number, Outcome.CONFIRMED if number % 3 else Outcome.UNROUTABLE) for number in range(100)),
        key=lambda pair: pair[0],
    )


def test_pipelined_messages_are_confirmed_once_each_and_arrive_in_order(connect: Connect) -> None:
    seen: Seen[Delivery] = Seen()
    queue = Queue(name("q"), exclusive=True)
    link = connect(reading(queue, seen, prefetch=2000)).up()
    outcomes: Seen[Outcome] = Seen()
    for number in range(1000):
        link.link.publish("", queue.name, b"%d" % number, on_done=outcomes.append)
    assert outcomes.at_least(1000) == [Outcome.CONFIRMED] * 1000
    assert [one.body for one in seen.at_least(1000)] == [b"%d" % number for number in range(1000)]


def test_many_threads_publish_on_one_link(connect: Connect) -> None:
    queue = Queue(name("q"), exclusive=True)
    link = connect(Topology(queues=[queue])).up()
    outcomes: Seen[Outcome] = Seen()

    def publish() -> None:
        for _ in range(100):
            link.link.publish("", queue.name, b"{}", on_done=outcomes.append)

    threads = [threading.Thread(target=publish) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.at_least(800) == [Outcome.CONFIRMED] * 800


def test_without_a_connection_a_message_ends_unknown_at_its_deadline(rig: Rig, connect: Connect) -> None:
    link = connect(endpoints=(rig.dead_endpoint,))
    link.downs.at_least(1)
    assert link.send("", "anything", deadline_s=0.05) is Outcome.UNKNOWN
    assert link.link.endpoint is None


def test_a_message_from_before_the_connection_is_sent_when_it_is_there_in_time(rig: Rig) -> None:
    seen: Seen[Delivery] = Seen()
    queue = Queue(name("q"), exclusive=True)
    link = Watched(lambda up, down: rig.make_link(reading(queue, seen), up, down))
    outcomes: Seen[Outcome] = Seen()
    link.link.publish("", queue.name, b"early", on_done=outcomes.append, deadline_s=20.0)
    link.start()
    assert outcomes.at_least(1) == [Outcome.CONFIRMED]
    assert seen.at_least(1)[0].body == b"early"
    link.link.close()


def test_a_message_for_this_connection_alone_is_not_kept_for_the_next(rig: Rig, connect: Connect) -> None:
    seen: Seen[Delivery] = Seen()
    queue = Queue(name("q"), durable=True)
    link = connect(reading(queue, seen)).up()
    outcomes: Seen[Outcome] = Seen()
    rig.block()
    try:
        link.send("", queue.name, b"first", deadline_s=0.3)
        wait_for(lambda: link.link.blocked)
        link.link.publish("", queue.name, b"old", on_done=outcomes.append, deadline_s=60.0, lasting=False)
        rig.cut()
        assert outcomes.at_least(1) == [Outcome.UNKNOWN]
    finally:
        rig.unblock()
    assert link.up(2).send("", queue.name, b"last") is Outcome.CONFIRMED
    assert b"old" not in {one.body for one in seen.until(lambda all_: any(one.body == b"last" for one in all_))}
    rig.delete_queue(queue.name)


def test_without_a_connection_a_message_that_is_for_none_other_ends_at_once(rig: Rig, connect: Connect) -> None:
    link = connect(endpoints=(rig.dead_endpoint,))
    outcomes: Seen[Outcome] = Seen()
    link.link.publish("", "anything", b"{}", on_done=outcomes.append, deadline_s=600.0, lasting=False)
    assert outcomes.at_least(1) == [Outcome.UNKNOWN]


def test_closing_settles_what_is_outstanding_and_refuses_what_comes_later(rig: Rig, connect: Connect) -> None:
    link = connect(endpoints=(rig.dead_endpoint,))
    outcomes: Seen[Outcome] = Seen()
    link.link.publish("", "anything", b"{}", on_done=outcomes.append, deadline_s=600.0)
    link.link.close()
    assert outcomes.at_least(1) == [Outcome.UNKNOWN]
    link.link.publish("", "anything", b"{}", on_done=outcomes.append, deadline_s=600.0)
    assert outcomes.at_least(2) == [Outcome.UNKNOWN] * 2
    link.link.close()


def test_an_exchange_that_does_not_exist_is_an_unknown_outcome_and_the_link_lives(connect: Connect) -> None:
    queue = Queue(name("q"), exclusive=True)
    link = connect(Topology(queues=[queue])).up()
    assert link.send(name("no-exchange"), "key") is Outcome.UNKNOWN
    link.up(2)
    assert link.send("", queue.name) is Outcome.CONFIRMED


def test_a_callback_that_fails_harms_nobody_else(connect: Connect) -> None:
    queue = Queue(name("q"), exclusive=True)
    link = connect(Topology(queues=[queue])).up()

    def fail(_outcome: Outcome) -> None:
        raise ValueError("a bug of the caller's")

    link.link.publish("", queue.name, b"{}", on_done=fail)
    assert link.send("", queue.name) is Outcome.CONFIRMED


# ── routing and queues ───────────────────────────────────────────────────────────────────────────────────────────────


def test_a_topic_exchange_routes_by_key(connect: Connect) -> None:
    exchange = Exchange(name("x"), "topic")
    everything: Seen[Delivery] = Seen()
    some: Seen[Delivery] = Seen()
    all_queue = Queue(name("all"), bindings=[(exchange.name, "#")], exclusive=True)
    some_queue = Queue(name("some"), bindings=[(exchange.name, "db1"), (exchange.name, "*.up")], exclusive=True)
    connect(reading(all_queue, everything, exchange=exchange)).up()
    connect(reading(some_queue, some, exchange=exchange)).up()
    sender = connect(Topology(exchanges=[exchange])).up()
    for key in ("db1", "db2", "db2.up", "a.b.up", "db1"):
        assert sender.send(exchange.name, key) is Outcome.CONFIRMED
    assert [one.key for one in everything.at_least(5)] == ["db1", "db2", "db2.up", "a.b.up", "db1"]
    assert [one.key for one in some.at_least(3)] == ["db1", "db2.up", "db1"]


def test_an_exclusive_queue_is_locked_to_others_and_goes_with_its_connection(connect: Connect) -> None:
    queue = Queue(name("q"), exclusive=True)
    first = connect(Topology(queues=[queue])).up()
    second = connect(Topology(queues=[queue]))
    assert queue.name in second.downs.at_least(1)[0]
    first.link.close()
    second.up()
    assert second.send("", queue.name) is Outcome.CONFIRMED
    second.link.close()
    assert connect().up().send("", queue.name) is Outcome.UNROUTABLE


def test_no_more_than_prefetch_is_delivered_before_an_acknowledgement(connect: Connect) -> None:
    seen: Seen[Delivery] = Seen()
    queue = Queue(name("q"), exclusive=True)
    link = connect(reading(queue, seen, prefetch=10)).up()
    for number in range(25):
        assert link.send("", queue.name, b"%d" % number) is Outcome.CONFIRMED
    assert len(seen.at_least(10)) == 10
    seen[9].ack()  # all ten
    assert len(seen.at_least(20)) == 20
    seen[14].ack()
    assert [one.body for one in seen.at_least(25)] == [b"%d" % number for number in range(25)]


def test_acknowledgements_may_come_late_twice_and_out_of_order(connect: Connect) -> None:
    seen: Seen[Delivery] = Seen()
    queue = Queue(name("q"), exclusive=True)
    link = connect(reading(queue, seen, prefetch=4)).up()
    for _ in range(12):
        link.send("", queue.name)
    for upto in (4, 8):
        first, *_, last = seen.at_least(upto)
        last.ack()
        first.ack()
        last.ack()
    assert len(seen.at_least(12)) == 12
    assert len(link.ups) == 1


# ── faults ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_dead_endpoint_is_passed_over(rig: Rig, connect: Connect) -> None:
    link = connect(endpoints=(rig.dead_endpoint, rig.endpoint)).up()
    assert link.ups == [rig.endpoint]
    assert link.link.endpoint == rig.endpoint
    rig.cut()
    link.up(2)
    assert link.ups == [rig.endpoint] * 2


def test_a_connection_that_the_broker_drops_comes_back_with_its_topology(rig: Rig, connect: Connect) -> None:
    exchange = Exchange(name("x"), "topic")
    seen: Seen[Delivery] = Seen()
    queue = Queue(name("q"), bindings=[(exchange.name, "#")], exclusive=True)
    link = connect(reading(queue, seen, exchange=exchange)).up()
    rig.cut()
    link.downs.at_least(1)
    link.up(2)
    assert link.send(exchange.name, "after") is Outcome.CONFIRMED
    assert seen.at_least(1)[-1].key == "after"


def test_a_link_that_is_told_to_begins_anew_with_its_topology(connect: Connect) -> None:
    queue, seen = Queue(name("q"), exclusive=True), Seen[Delivery]()
    link = connect(reading(queue, seen)).up()
    link.link.restart("nothing is heard")
    assert link.downs.at_least(1) == ["nothing is heard"]
    link.up(2)
    assert link.send("", queue.name, b'{"after": 1}') is Outcome.CONFIRMED
    assert seen.at_least(1)[0].body == b'{"after": 1}'


def test_what_was_not_acknowledged_is_delivered_again_and_a_stale_acknowledgement_does_nothing(
    rig: Rig, connect: Connect
) -> None:
    seen: Seen[Delivery] = Seen()
    queue = Queue(name("q"), durable=True)
    link = connect(reading(queue, seen, prefetch=2)).up()
    for body in (b"1", b"2", b"3"):
        link.send("", queue.name, body)
    seen.at_least(2)
    rig.cut()
    link.up(2)
    again = seen.at_least(4)[2:]
    assert [one.body for one in again] == [b"1", b"2"]
    seen[1].ack()  # of the former connection: on this one it would cover both
    again[0].ack()
    assert seen.at_least(5)[4].body == b"3"
    assert len(seen) == 5
    rig.delete_queue(queue.name)


def test_a_broker_that_crashes_and_comes_back_is_found_again(rig: Rig, connect: Connect) -> None:
    seen: Seen[Delivery] = Seen()
    queue = Queue(name("q"), durable=True)
    link = connect(reading(queue, seen)).up()
    outcomes: Seen[Outcome] = Seen()
    rig.crash()
    try:
        link.downs.at_least(1)
        assert link.link.endpoint is None
        assert link.send("", queue.name, deadline_s=0.05) is Outcome.UNKNOWN
        link.link.publish("", queue.name, b"patient", on_done=outcomes.append, deadline_s=60.0)
    finally:
        rig.revive()
    assert outcomes.until(len, 60.0) == [Outcome.CONFIRMED]
    assert seen.at_least(1)[0].body == b"patient"
    rig.delete_queue(queue.name)


def test_a_subscription_whose_queue_is_deleted_begins_anew(rig: Rig, connect: Connect) -> None:
    seen: Seen[Delivery] = Seen()
    queue = Queue(name("q"), durable=True)
    link = connect(reading(queue, seen)).up()
    rig.delete_queue(queue.name)
    assert queue.name in link.downs.at_least(1)[0]
    link.up(2)
    assert link.send("", queue.name) is Outcome.CONFIRMED
    seen.at_least(1)
    rig.delete_queue(queue.name)


def test_a_broker_that_takes_no_messages_ends_them_at_their_deadline_and_goes_on_afterwards(
    rig: Rig, connect: Connect
) -> None:
    queue = Queue(name("q"), durable=True)
    link = connect(Topology(queues=[queue])).up()
    rig.block()
    try:
        assert link.send("", queue.name, b"too late", deadline_s=0.3) is Outcome.UNKNOWN
        wait_for(lambda: link.link.blocked)  # a busy broker says so later
        outcomes: Seen[Outcome] = Seen()
        link.link.publish("", queue.name, b"patient", on_done=outcomes.append, deadline_s=60.0)
    finally:
        rig.unblock()
    assert outcomes.at_least(1) == [Outcome.CONFIRMED]
    assert link.link.blocked is None
    assert len(link.ups) == 1
    rig.delete_queue(queue.name)


def test_a_broker_that_hangs_ends_messages_at_their_deadline_and_closing_does_not_wait_for_it(
    rabbit: RabbitRig,
) -> None:
    queue = Queue(name("q"), exclusive=True)
    link = Watched(lambda up, down: rabbit.make_link(Topology(queues=[queue]), up, down)).start().up()
    process = rabbit.broker.process
    assert process is not None
    process.suspend()
    try:
        assert link.send("", queue.name, deadline_s=0.2) is Outcome.UNKNOWN
        link.link.close(timeout_s=0.2)
    finally:
        process.resume()
    assert link.link.endpoint is None


def test_a_broker_that_hangs_is_given_up_after_its_heartbeat_and_found_again_when_it_wakes(rabbit: RabbitRig) -> None:
    queue = Queue(name("q"), exclusive=True)
    topology = Topology(queues=[queue])
    link = Watched(lambda up, down: rabbit.make_link(topology, up, down, heartbeat_s=1)).start().up()
    process = rabbit.broker.process
    assert process is not None
    process.suspend()
    try:
        assert "silent" in link.downs.at_least(1)[0]
    finally:
        process.resume()
    link.up(2)
    # On a busy machine it may be silent for a second again.
    wait_for(lambda: link.send("", queue.name, deadline_s=5.0) is Outcome.CONFIRMED)
    link.link.close()


def test_a_link_that_closes_leaves_no_socket_open_and_breaks_no_callback_of_pikas(
    rabbit: RabbitRig, caplog: pytest.LogCaptureFixture
) -> None:
    """Closed as it is in use, with one channel and with several; and closed at different moments of connecting."""
    seen: Seen[Delivery] = Seen()
    for repetition in range(10):
        topology = reading(Queue(name("q"), exclusive=True), seen)
        Watched(lambda up, down: rabbit.make_link(Topology(), up, down)).start().up().link.close()
        Watched(lambda up, down, wanted=topology: rabbit.make_link(wanted, up, down)).start().up().link.close()
        connecting = Watched(lambda up, down, wanted=topology: rabbit.make_link(wanted, up, down)).start()
        threading.Event().wait(repetition * 0.004)  # it takes some 30 ms
        connecting.link.close()
        gc.collect()  # an open socket that nobody owns is a warning, and a warning is an error
    assert [record.getMessage() for record in caplog.records if record.name == "pika.callback"] == []


def test_a_link_that_fled_from_its_home_returns_as_soon_as_it_would_be_served_there(
    rabbit: RabbitRig, tmp_path: Path
) -> None:
    """It is looked at beside the connection in use, and nothing is read twice or missed on the way there."""
    stream = Queue(name("stream"), {"x-queue-type": "stream"}, durable=True)
    home = f"amqps://127.0.0.1:{free_ports(1)[0]}"
    endpoints = (home, rabbit.endpoint)
    read: Seen[int] = Seen()

    def on_delivery(delivery: Delivery) -> None:
        delivery.ack()
        read.append(delivery.offset or 0)

    def where_it_stands() -> dict[str, object]:
        return {"x-stream-offset": read[-1] + 1 if read else "first"}

    reading = Subscription(stream.name, on_delivery, arguments=where_it_stands)
    writer = Watched(lambda up, down: rabbit.make_link(Topology(queues=[stream]), up, down)).start().up()
    reader = Watched(
        lambda up, down: rabbit.make_link(
            Topology(subscriptions=[reading]), up, down, endpoints=endpoints, home_after_s=0.1
        )
    )
    reader.start().up()
    try:
        assert reader.link.endpoint == rabbit.endpoint
        for _ in range(5):
            assert writer.send("", stream.name) is Outcome.CONFIRMED
        read.at_least(5)
        with rabbit.second_door(tmp_path, int(home.rpartition(":")[2])):
            reader.up(2)
            assert reader.link.endpoint == home
            assert reader.downs.at_least(1)[-1] == "back to the broker where it belongs"
            assert writer.send("", stream.name) is Outcome.CONFIRMED
            assert list(read.at_least(6)) == list(range(6))
        reader.up(3)
        assert reader.link.endpoint == rabbit.endpoint, "its home is gone: the other one serves"
    finally:
        reader.link.close()
        writer.link.close()
    rabbit.delete_queue(stream.name)
