"""What every `provider.log.port.Log` promises: one in memory, and the stream over links in memory and to RabbitMQ."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from hashlib import sha256

import pytest

from provider.log.port import Log, Position
from provider.log.stream import StreamLog
from shared.bus import Link, Outcome, Subscription, Topology
from tests.support.brokers import MemoryRig, RabbitRig, Rig, Seen, Watched, name
from tests.support.memory_log import MemoryLog, MemoryLogStream

SEGMENT_BYTES = 500_000  # small, so that a test can make retention remove one


class Sink:
    """Keeps what a log tells; acknowledges at once unless it is told not to."""

    def __init__(self, *, acknowledge: bool = True) -> None:
        self.read: Seen[tuple[int, bytes]] = Seen()
        self.acks: list[Callable[[], None]] = []
        self.appended: Seen[tuple[object, Outcome]] = Seen()
        self.ups: Seen[None] = Seen()
        self.downs: Seen[str] = Seen()
        self.reads: list[bool] = []
        """With each of these, whether reading goes on."""
        self.diverged: Seen[str] = Seen()
        self.verdict: Seen[str] = Seen()
        """Ups and divergences, in their order."""
        self._acknowledge = acknowledge

    def on_read(self, offset: int, data: bytes, ack: Callable[[], None]) -> None:
        self.acks.append(ack)
        self.read.append((offset, data))
        if self._acknowledge:
            ack()

    def on_append(self, token: object, outcome: Outcome) -> None:
        self.appended.append((token, outcome))

    def on_up(self) -> None:
        self.ups.append(None)
        self.verdict.append("up")

    def on_down(self, reason: str, *, reads: bool = False) -> None:
        self.reads.append(reads)
        self.downs.append(reason)

    def on_diverged(self, reason: str) -> None:
        self.diverged.append(reason)
        self.verdict.append("diverged")

    @property
    def data(self) -> list[bytes]:
        return [data for _, data in self.read]

    def position(self, index: int = -1) -> Position:
        """Of one record that was read."""
        offset, data = self.read[index]
        return Position(offset, sha256(data).hexdigest())


class Place:
    """One stream, and as many logs on it as asked for."""

    def __init__(self, rig: Rig | None) -> None:
        self.rig = rig
        self.generation = name("g")
        self.stream = f"bellwether.log.{self.generation}"
        self.memory = MemoryLogStream()
        self.links: dict[str, Link] = {}
        """Of the log that was made last, by what they are for."""
        self._stack = ExitStack()

    def make(self, *, prefetch: int = 500) -> Log:
        if self.rig is None:
            return MemoryLog(self.memory, prefetch=prefetch)
        rig = self.rig

        def make_link(name: str, topology: Topology, up: Callable[[str], None], down: Callable[[str], None], /) -> Link:
            self.links[name] = rig.make_link(topology, up, down)
            return self.links[name]

        return StreamLog(
            generation=self.generation,
            make_link=make_link,
            max_length_bytes=2 * SEGMENT_BYTES,
            segment_bytes=SEGMENT_BYTES,
            prefetch=prefetch,
            probe_after_s=0.2,
        )

    def open(self, position: Position | None = None, *, prefetch: int = 500, acknowledge: bool = True) -> "Opened":
        opened = Opened(self.make(prefetch=prefetch), Sink(acknowledge=acknowledge))
        self._stack.callback(opened.log.close)
        opened.log.start(position, opened.sink)
        return opened

    def cut(self) -> None:
        (self.memory if self.rig is None else self.rig).cut()

    def truncate(self) -> None:
        if self.rig is None:
            self.memory.truncate(self.memory.next - 1)
        else:
            self.rig.truncate(self.stream)

    def forget(self) -> None:
        if self.rig is None:
            self.memory.forget(0)
        else:
            self.rig.forget(self.stream)

    def end(self) -> None:
        self._stack.close()
        if self.rig is not None:
            self.rig.delete_queue(self.stream)


class Opened:
    def __init__(self, log: Log, sink: Sink) -> None:
        self.log, self.sink = log, sink

    def up(self, times: int = 1) -> "Opened":
        self.sink.ups.at_least(times)
        return self

    def write(self, *records: bytes) -> None:
        """Append, and wait until all are confirmed."""
        before = len(self.sink.appended)
        for data in records:
            self.log.append(data, data, 20.0)
        outcomes = self.sink.appended.at_least(before + len(records))[before:]
        assert outcomes == [(data, Outcome.CONFIRMED) for data in records]


@pytest.fixture(params=["memory log", "stream in memory", "stream on RabbitMQ"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    if request.param == "stream on RabbitMQ":
        rabbit: RabbitRig = request.getfixturevalue("rabbit")
        place = Place(rabbit)
    else:
        place = Place(None if request.param == "memory log" else MemoryRig())
    yield place
    place.end()


def numbered(count: int, start: int = 0) -> list[bytes]:
    return [b"record %d" % number for number in range(start, start + count)]


# ── appending and reading ────────────────────────────────────────────────────────────────────────────────────────────


def test_what_is_appended_is_read_back_once_by_every_node(place: Place) -> None:
    first, second = place.open().up(), place.open().up()
    assert first.log.readable
    assert first.log.writable
    first.write(b"a")
    second.write(b"b")
    for node in (first, second):
        assert [data for _, data in node.sink.read.at_least(2)] == [b"a", b"b"]


def test_pipelined_appends_keep_their_order(place: Place) -> None:
    node = place.open().up()
    node.write(*numbered(1000))
    node.sink.read.at_least(1000)
    assert node.sink.data == numbered(1000)
    offsets = [offset for offset, _ in node.sink.read]
    assert offsets == sorted(set(offsets))


def test_a_barrier_reads_to_the_end(place: Place) -> None:
    place.open().up().write(*numbered(50))
    late = place.open().up()
    late.log.append(b"barrier", "token", 20.0)
    late.sink.read.until(lambda _: b"barrier" in late.sink.data)
    assert late.sink.data == [*numbered(50), b"barrier"]
    assert late.sink.appended.at_least(1) == [("token", Outcome.CONFIRMED)]


@pytest.mark.parametrize("index", [0, 7, 19])
def test_reading_goes_on_after_any_position(place: Place, index: int) -> None:
    writer = place.open().up()
    writer.write(*numbered(20))
    writer.sink.read.at_least(20)
    reader = place.open(writer.sink.position(index)).up()
    writer.write(b"last")
    reader.sink.read.until(lambda _: b"last" in reader.sink.data)
    assert reader.sink.data == [*numbered(19 - index, index + 1), b"last"]
    assert not reader.sink.diverged


def test_no_more_than_prefetch_is_delivered_before_an_acknowledgement(place: Place) -> None:
    place.open().up().write(*numbered(40))
    reader = place.open(prefetch=10, acknowledge=False).up()
    for upto in (10, 20, 30, 40):
        reader.sink.read.at_least(upto)
        reader.sink.acks[upto - 1]()
    assert reader.sink.data == numbered(40)


def test_after_closing_nothing_is_delivered(place: Place) -> None:
    writer, reader = place.open().up(), place.open().up()
    writer.write(b"a")
    reader.sink.read.at_least(1)
    reader.log.close()
    writer.write(b"b")
    writer.sink.read.at_least(2)
    assert reader.sink.data == [b"a"]
    assert not reader.log.readable


# ── connections that break ───────────────────────────────────────────────────────────────────────────────────────────


def test_a_lost_connection_costs_no_record_and_delivers_none_twice(place: Place) -> None:
    node = place.open().up()
    node.write(*numbered(10))
    node.sink.read.at_least(10)
    for times in (2, 3):
        place.cut()
        node.sink.downs.at_least(times - 1)
        node.up(times)
        node.write(*numbered(10, 10 * (times - 1)))
    node.sink.read.at_least(30)
    assert node.sink.data == numbered(30)
    assert not node.sink.diverged


def test_a_connection_that_breaks_while_records_flow_loses_and_repeats_nothing(place: Place) -> None:
    writer = place.open().up()
    writer.write(*numbered(500))
    reader = place.open(prefetch=50).up()
    reader.sink.read.at_least(50)
    place.cut()
    reader.up(2)
    writer.up(2)
    writer.write(b"last")
    reader.sink.read.until(lambda _: b"last" in reader.sink.data)
    assert reader.sink.data == [*numbered(500), b"last"]


def test_where_only_writing_is_interrupted_reading_goes_on_and_that_is_said(rig: Rig) -> None:
    """It is what a witness rests on: see provider/core/following.py."""
    place = Place(rig)
    try:
        node = place.open().up()
        node.write(b"a")
        node.sink.read.at_least(1)
        place.links["log-append"].restart("a test")
        node.up(2).write(b"b")
        assert node.sink.reads == [True]
        place.links["log-read"].restart("a test")
        node.up(3).write(b"c")
        assert node.sink.reads == [True, False]
        node.sink.read.at_least(3)
        assert node.sink.data == [b"a", b"b", b"c"]
    finally:
        place.end()


def test_without_a_connection_an_append_ends_unknown(place: Place) -> None:
    if place.rig is None:
        place.memory.stop()
        node = place.open()
        node.log.append(b"a", "token", 0.1)
        assert node.sink.appended.at_least(1) == [("token", Outcome.UNKNOWN)]
        return
    node = place.open().up()
    place.rig.crash()
    try:
        node.sink.downs.until(lambda _: not node.log.writable)
        node.log.append(b"a", "token", 0.1)
        assert node.sink.appended.at_least(1) == [("token", Outcome.UNKNOWN)]
    finally:
        place.rig.revive()
    node.sink.ups.until(lambda ups: len(ups) >= 2, 60.0)
    node.write(b"b")


def test_a_broker_that_takes_no_messages_ends_appends_at_their_deadline(rig: Rig) -> None:
    place = Place(rig)
    node = place.open().up()
    rig.block()
    try:
        node.log.append(b"a", 1, 0.3)
        node.log.append(b"b", 2, 0.3)
        assert sorted(node.sink.appended.at_least(2)) == [(1, Outcome.UNKNOWN), (2, Outcome.UNKNOWN)]
    finally:
        rig.unblock()
    node.log.append(b"barrier", 3, 20.0)
    node.sink.read.until(lambda _: b"barrier" in node.sink.data)
    place.end()


# ── a store and a log that do not belong together ────────────────────────────────────────────────────────────────────


def test_a_log_that_begins_after_our_position_is_truncated(place: Place) -> None:
    writer = place.open().up()
    writer.write(*numbered(5))
    writer.sink.read.at_least(5)
    behind = writer.sink.position(1)
    place.truncate()
    for position in (behind, None):
        reader = place.open(position)
        assert reader.sink.diverged.at_least(1)[0].startswith("truncated")
        assert reader.sink.data == []
        assert not reader.log.readable


def test_a_log_that_holds_something_else_at_our_position_has_regressed(place: Place) -> None:
    writer = place.open().up()
    writer.write(*numbered(5))
    writer.sink.read.at_least(5)
    other = Position(writer.sink.position(2).offset, sha256(b"something else").hexdigest())
    reader = place.open(other)
    assert reader.sink.diverged.at_least(1)[0].startswith("regressed")
    assert reader.sink.data == []


def test_a_log_that_ends_before_our_position_has_regressed_once_anything_is_appended(place: Place) -> None:
    writer = place.open().up()
    writer.write(*numbered(3))
    writer.sink.read.at_least(3)
    beyond = Position(writer.sink.position().offset + 100, sha256(b"of another log").hexdigest())
    reader = place.open(beyond)
    reader.sink.verdict.at_least(1)
    reader.log.append(b"barrier", "token", 20.0)
    assert reader.sink.diverged.at_least(1)[0].startswith("regressed")
    assert reader.sink.data == []


def test_a_log_that_is_replaced_while_we_read_has_regressed(place: Place) -> None:
    node = place.open().up()
    node.write(*numbered(10))
    node.sink.read.at_least(10)
    place.forget()
    place.cut()
    node.sink.verdict.at_least(2)
    node.log.append(b"barrier", "token", 20.0)
    assert node.sink.diverged.at_least(1)[0].startswith("regressed")
    assert node.sink.data == numbered(10)


def test_a_log_that_loses_its_end_under_an_open_connection_has_regressed() -> None:
    """A cluster's broker takes over what the others are left with, and its readers with it, without a word."""
    rig = MemoryRig()
    place = Place(rig)
    node = place.open().up()
    node.write(*numbered(10))
    node.sink.read.at_least(10)
    rig.broker.streams[place.stream].forget(5)
    node.log.append(b"barrier", "token", 20.0)
    assert node.sink.diverged.at_least(1)[0].startswith("regressed")
    assert node.sink.data == numbered(10)
    place.end()


def test_somebody_elses_new_records_do_not_make_a_lagging_replica_look_regressed(rabbit: RabbitRig) -> None:
    """A replica that lags shows new records before ours: only one that we append ourselves proves anything."""
    place = Place(rabbit)
    writer = place.open().up()
    writer.write(*numbered(3))
    ahead = Position(5, sha256(b"record 5").hexdigest())
    reader = place.open(ahead).up()  # only the probe made it come up
    writer.write(*numbered(5, 3))
    reader.sink.read.until(lambda _: b"record 7" in reader.sink.data)
    assert reader.sink.data == [b"record 6", b"record 7"]
    assert not reader.sink.diverged
    place.end()


def test_nobody_reads_a_stream_that_does_not_exist_but_it_is_waited_for(rabbit: RabbitRig) -> None:
    stream = name("nothing")
    watched = Watched(lambda up, down: rabbit.make_link(_reading(stream), up, down)).start()
    assert stream in watched.downs.at_least(1)[0]
    watched.link.close()


def _reading(stream: str) -> Topology:
    return Topology(subscriptions=[Subscription(stream, lambda _delivery: None)])
