"""A log in memory: for an engine without a broker, with the faults that a stream can have.

stream = MemoryLogStream()
log = MemoryLog(stream)            # one for each node; they share the stream
stream.cut()                       # every log goes down and comes back; outstanding appends end UNKNOWN
stream.stop(); stream.start()      # down for longer
stream.lose(2)                     # the next two appends vanish, their outcome is UNKNOWN
stream.lose_confirms(2)            # the next two are kept, their outcome is UNKNOWN all the same
stream.duplicate(2)                # the next two are there twice
stream.truncate(5)                 # records before offset 5 are gone
stream.forget(5)                   # another history: only the first five records remain
"""

import threading
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from queue import SimpleQueue

from provider.log.port import LogSink, Position
from shared.bus import Outcome

PREFETCH = 500


class MemoryLogStream:
    """The records, and who reads them. Thread-safe."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.records: list[bytes] = []
        self.first = 0
        self.running = True
        self._logs: set[MemoryLog] = set()
        self._lose = self._lose_confirms = self._duplicate = 0

    # ── faults ──

    def cut(self) -> None:
        with self.lock:
            for log in list(self._logs):
                log.later(partial(log.lost, "the connection was cut"))

    def stop(self) -> None:
        with self.lock:
            self.running = False
            self.cut()

    def start(self) -> None:
        with self.lock:
            self.running = True
            for log in list(self._logs):
                log.later(log.connect)

    def lose(self, count: int) -> None:
        self._lose = count

    def lose_confirms(self, count: int) -> None:
        self._lose_confirms = count

    def duplicate(self, count: int) -> None:
        self._duplicate = count

    def truncate(self, first: int) -> None:
        with self.lock:
            self.records = self.records[first - self.first :]
            self.first = first

    def forget(self, count: int) -> None:
        with self.lock:
            del self.records[count:]

    # ── for logs ──

    @property
    def next(self) -> int:
        return self.first + len(self.records)

    def add(self, log: "MemoryLog") -> None:
        with self.lock:
            self._logs.add(log)

    def remove(self, log: "MemoryLog") -> None:
        with self.lock:
            self._logs.discard(log)

    def append(self, data: bytes) -> Outcome:
        with self.lock:
            if self._lose:
                self._lose -= 1
                return Outcome.UNKNOWN
            self.records.append(data)
            if self._duplicate:
                self._duplicate -= 1
                self.records.append(data)
            for log in self._logs:
                log.later(log.pump)
            if self._lose_confirms:
                self._lose_confirms -= 1
                return Outcome.UNKNOWN
            return Outcome.CONFIRMED


class MemoryLog:
    """Implements `provider.log.port.Log`. All calls of the sink come from its one thread."""

    def __init__(self, stream: MemoryLogStream, *, prefetch: int = PREFETCH) -> None:
        self._stream, self._prefetch = stream, prefetch
        self._sink: LogSink | None = None
        self._up = self._ended = self._anywhere = False
        self._at = 0
        self._stand: Position | None = None
        self._last: tuple[int, bytes] | None = None
        self._unacknowledged = 0
        self._inbox: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="memory log", daemon=True)

    @property
    def endpoints(self) -> tuple[str, ...]:
        return ()

    @property
    def readable(self) -> bool:
        return self._up and not self._ended

    @property
    def writable(self) -> bool:
        return self._up

    @property
    def blocked(self) -> str | None:
        return None

    @property
    def reads(self) -> bool:
        """Whether more is to come of it: not where the stream is found to be another one than it has read."""
        return not self._ended

    @property
    def read_up_to(self) -> int:
        """The offset of what is told next."""
        return self._at

    def start(self, position: Position | None, sink: LogSink, *, anywhere: bool = False) -> None:
        self._stand, self._sink, self._anywhere = position, sink, anywhere
        self._stream.add(self)
        self.later(self.connect)
        self._thread.start()

    def append(self, data: bytes, token: object, deadline_s: float) -> None:
        self.later(partial(self._append, data, token))

    def reread(self, reason: str) -> None:
        self.later(partial(self.lost, reason))

    def close(self) -> None:
        self._ended = True
        self._stream.remove(self)
        self._inbox.put(None)
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()

    def later(self, task: Callable[[], None]) -> None:
        self._inbox.put(task)

    # ── the log's thread ──

    def _run(self) -> None:
        while (task := self._inbox.get()) is not None:
            task()

    def connect(self) -> None:
        if self._up or self._ended or self._sink is None or not self._stream.running:
            return
        if self._last is not None:
            self._stand = Position(self._last[0], sha256(self._last[1]).hexdigest())
        self._unacknowledged = 0
        with self._stream.lock:
            reason = self._judge()
            if reason is not None:
                self._ended = True
                self._sink.on_diverged(reason)
                return
        self._up = True
        self._sink.on_up()
        self.pump()

    def _judge(self) -> str | None:
        """Why the stream is not the one that we read; else where to go on is known."""
        stream, stand = self._stream, self._stand
        if stand is None:
            self._at = stream.first
            return (
                None if stream.first == 0 or self._anywhere else f"truncated: the log begins at offset {stream.first}"
            )
        if stand.offset < stream.first:
            return f"truncated: the log begins at offset {stream.first}, and we have read up to {stand.offset}"
        if stand.offset >= stream.next:
            return f"regressed: the log ends before offset {stand.offset}"
        if sha256(stream.records[stand.offset - stream.first]).hexdigest() != stand.digest:
            return f"regressed: the log holds something else at offset {stand.offset}"
        self._at = stand.offset + 1
        return None

    def lost(self, reason: str) -> None:
        if self._up and self._sink is not None:
            self._up = False
            self._sink.on_down(reason)
        self.connect()

    def pump(self) -> None:
        while self._up and not self._ended and self._sink is not None and self._unacknowledged < self._prefetch:
            with self._stream.lock:
                if self._at >= self._stream.next:
                    return
                offset, data = self._at, self._stream.records[self._at - self._stream.first]
            self._at, self._last = offset + 1, (offset, data)
            self._unacknowledged += 1
            self._sink.on_read(offset, data, partial(self.later, partial(self._acknowledge, offset)))

    def _acknowledge(self, offset: int) -> None:
        self._unacknowledged = min(self._unacknowledged, self._at - 1 - offset)
        self.pump()

    def _append(self, data: bytes, token: object) -> None:
        if self._sink is not None:
            self._sink.on_append(token, self._stream.append(data) if self._up else Outcome.UNKNOWN)
