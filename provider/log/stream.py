"""The log as a RabbitMQ stream, over two links: one only for appends, one that reads.

Offsets are no sequence: a broker clamps one that is out of range without a word. So reading begins AT the last record
that was read, and what comes first must be that very record. It is known by its bytes and not delivered again.

    what comes first                  what it means
    that offset, those bytes          goes on where we stopped
    that offset, other bytes          regressed: another log, or one that was put back to an earlier time
    a higher offset                   truncated: retention has removed what we would have to read
    nothing                           the log ends before us; or a lagging replica, which will catch up

The last case is decided by `provider.log.probe`. What comes later has a higher offset each time, or it is not the same
log any more: regressed, too.
"""

import threading
from functools import partial
from hashlib import sha256

from provider.log.port import LogSink, Position
from provider.log.probe import EndProbe, MakeLink
from shared.bus import Delivery, Outcome, Queue, Subscription, Topology

PREFETCH = 500
"""Most records that are delivered and not acknowledged. Acknowledgements are credit: this many per round trip."""
PROBE_AFTER_S = 0.5
"""How long the record where we stand may take before the end of the log is probed. Normally it takes a round trip."""


class StreamLog:
    """Implements `provider.log.port.Log` on the stream `bellwether.log.<generation>`.

    The append link declares it each time it connects; reading begins after that. Retention removes whole segments once
    there are more than `max_length_bytes`, or that are older than `max_age_s`. `initial_replicas` matters only when the
    stream is made. The broker refuses a declaration whose figures are not those that the stream was made with.
    """

    def __init__(
        self,
        *,
        generation: str,
        make_link: MakeLink,
        max_length_bytes: int,
        segment_bytes: int,
        max_age_s: int | None = None,
        initial_replicas: int | None = None,
        prefetch: int = PREFETCH,
        probe_after_s: float = PROBE_AFTER_S,
    ) -> None:
        self.stream = f"bellwether.log.{generation}"
        self._make_link = make_link
        self._probe_after_s = probe_after_s
        arguments: dict[str, object] = {
            "x-queue-type": "stream",
            "x-max-length-bytes": max_length_bytes,
            "x-stream-max-segment-size-bytes": segment_bytes,
            "x-queue-leader-locator": "client-local",
        }
        if max_age_s is not None:
            arguments["x-max-age"] = f"{max_age_s}s"
        if initial_replicas is not None:
            arguments["x-initial-cluster-size"] = initial_replicas
        stream = Queue(self.stream, arguments, durable=True)
        self._writer = make_link("log-append", Topology(queues=(stream,)), self._writer_up, self._writer_down)
        reading = Subscription(self.stream, self._delivered, prefetch, self._begin_reading)
        self._reader = make_link("log-read", Topology(subscriptions=(reading,)), self._reader_up, self._reader_down)
        # Links call from their own threads: the lock makes one story of it. It is also held while the sink is told of
        # ups and downs, so that they arrive in order. What is read needs none: it has one thread.
        self._lock = threading.Lock()
        self._sink: LogSink | None = None
        self._reader_begun = self._writer_is_up = self._reader_is_up = self._told_up = self._ended = False
        self._anywhere = False
        self._offset: int | None = None
        self._digest = ""
        self._data: bytes | None = None
        """Of the last record, once one was read: then the digest is taken from it, when needed."""
        self._proven = False
        self._probe: EndProbe | None = None
        self._probe_watches = False

    @property
    def endpoints(self) -> tuple[str, ...]:
        links = (self._reader, self._writer)
        return tuple(endpoint for link in links if (endpoint := link.endpoint) is not None)

    @property
    def readable(self) -> bool:
        return self._reader_is_up and (self._proven or self._probe_watches) and not self._ended

    @property
    def writable(self) -> bool:
        return self._writer_is_up

    @property
    def blocked(self) -> str | None:
        return self._writer.blocked

    def start(self, position: Position | None, sink: LogSink, *, anywhere: bool = False) -> None:
        self._sink, self._anywhere = sink, anywhere
        if position is not None:
            self._offset, self._digest = position.offset, position.digest
        self._writer.start()

    def append(self, data: bytes, token: object, deadline_s: float) -> None:
        if self._sink is None:
            raise RuntimeError("append before start")
        probe = self._probe
        if probe is not None:
            probe.expect(data)
        # Over the next connection it may only be written once others were asked (`core.replica`).
        done = partial(self._appended, token)
        self._writer.publish("", self.stream, data, on_done=done, deadline_s=deadline_s, lasting=False)

    def reread(self, reason: str) -> None:
        # A broker that has forgotten who reads has forgotten who writes as well, and would not tell of the next leader.
        self._reader.restart(reason)
        self._writer.restart(reason)

    def close(self) -> None:
        self._ended = True
        self._end_probe()
        if self._reader_begun:
            self._reader.close()
        self._writer.close()

    def _appended(self, token: object, outcome: Outcome) -> None:
        """Appending link's thread. While brokers elect a leader this takes seconds; longer: we were not told of it."""
        if outcome is Outcome.UNKNOWN and self._writer.endpoint is not None and self._writer.blocked is None:
            self._writer.restart("what was appended was not confirmed in time; connecting anew")
        if self._sink is not None:
            self._sink.on_append(token, outcome)

    # ── up and down, on several threads ──────────────────────────────────────────────────────────────────────────────

    def _writer_up(self, _endpoint: str) -> None:
        with self._lock:
            begin, self._reader_begun = not self._reader_begun, True
            self._writer_is_up = True
            self._tell_up()
        if begin and not self._ended:
            self._reader.start()

    def _writer_down(self, reason: str) -> None:
        with self._lock:
            self._writer_is_up = False
            self._tell_down(reason, reads=self._reader_is_up and self._proven)

    def _reader_up(self, _endpoint: str) -> None:
        if self._offset is not None and not self._proven:
            self._probe = EndProbe(
                stream=self.stream,
                offset=self._offset,
                make_link=self._make_link,
                after_s=self._probe_after_s,
                on_watching=self._watching,
                on_shorter=self._shorter,
            )
            self._probe.start()
        with self._lock:
            self._reader_is_up = True
            self._tell_up()

    def _reader_down(self, reason: str) -> None:
        self._end_probe()
        with self._lock:
            self._reader_is_up = False
            self._tell_down(reason)

    def _watching(self) -> None:
        with self._lock:
            self._probe_watches = True
            self._tell_up()

    def _tell_up(self) -> None:
        if self._sink is not None and self._writer_is_up and self.readable and not self._told_up:
            self._told_up = True
            self._sink.on_up()

    def _tell_down(self, reason: str, *, reads: bool = False) -> None:
        self._told_up = False
        if self._sink is not None and not self._ended:
            self._sink.on_down(reason, reads=reads)

    def _end_probe(self) -> None:
        probe, self._probe, self._probe_watches = self._probe, None, False
        if probe is not None:
            probe.end()

    # ── what is read, on the reading link's thread ───────────────────────────────────────────────────────────────────

    def _begin_reading(self) -> dict[str, object]:
        """A subscription begins: from where we stand, that record included."""
        if self._data is not None:
            self._digest, self._data = sha256(self._data).hexdigest(), None
        self._proven = self._offset is None
        return {"x-stream-offset": "first" if self._offset is None else self._offset}

    def _delivered(self, delivery: Delivery) -> None:
        offset, data = delivery.offset, delivery.body
        if self._ended or self._sink is None or offset is None:
            return
        if not self._proven:
            delivery.ack()
            self._judge(offset, data)
        elif self._offset is None and offset > 0 and not self._anywhere:
            self._diverge(f"truncated: the log begins at offset {offset}, and this node has nothing of what was before")
        elif self._data is not None and self._offset is not None and offset <= self._offset:
            # The log may change under an open connection: where other brokers lost its end, ours takes what is left.
            self._diverge(f"regressed: the log goes on at offset {offset}, and this node has read up to {self._offset}")
        else:
            self._offset, self._data = offset, data
            self._sink.on_read(offset, data, delivery.ack)

    def _judge(self, offset: int, data: bytes) -> None:
        """The first record since we connected: is it the one where we stand?"""
        stand = self._offset or 0
        if offset > stand:
            self._diverge(f"truncated: the log begins at offset {offset}, and this node has read only up to {stand}")
        elif offset < stand or sha256(data).hexdigest() != self._digest:
            self._diverge(f"regressed: the log holds something else at offset {offset} than what this node read there")
        else:
            self._proven = True
            self._end_probe()
            with self._lock:
                self._tell_up()

    def _shorter(self, offset: int) -> None:
        self._diverge(f"regressed: the log ends at offset {offset}, and this node has read up to {self._offset}")

    def _diverge(self, reason: str) -> None:
        with self._lock:
            if self._ended or self._sink is None:
                return
            self._ended = True
            self._sink.on_diverged(reason)
        self._end_probe()
        self._reader.close(timeout_s=0.0)
