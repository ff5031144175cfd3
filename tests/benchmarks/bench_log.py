"""What a log of our own costs: publish → read back on one stream, over TLS, with the links that a provider uses.

    .venv/bin/python tests/benchmarks/bench_log.py [ENTRIES]

Prints milliseconds and records a second. Needs RabbitMQ installed; starts and ends one of its own. A timing is a figure
to look at, never an assertion.
"""

import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "deploy")]

from provider.log.port import Position  # noqa: E402
from provider.log.stream import StreamLog  # noqa: E402
from shared.bus import Outcome  # noqa: E402
from shared.logs import configure  # noqa: E402
from tests.support.brokers import RabbitRig  # noqa: E402

RECORD = b"x" * 500
TIMEOUT_S = 60.0


class Sink:
    """Counts; `wait` returns once that many were read."""

    def __init__(self) -> None:
        self.up = threading.Event()
        self.confirmed_s: list[float] = []
        self.confirmed = threading.Semaphore(0)
        self._read = self._wanted = 0
        self._reached = threading.Event()

    def on_read(self, offset: int, data: bytes, ack: Callable[[], None]) -> None:
        self._read += 1
        if self._read % 50 == 0 or self._read == self._wanted:
            ack()
        if self._read == self._wanted:
            self._reached.set()

    def on_append(self, token: object, outcome: Outcome) -> None:
        if not outcome.ok:
            raise RuntimeError(f"an append ended {outcome}")
        self.confirmed_s.append(time.perf_counter())
        self.confirmed.release()

    def on_up(self) -> None:
        self.up.set()

    def on_down(self, reason: str, *, reads: bool = False) -> None:
        print(f"down: {reason}")

    def on_diverged(self, reason: str) -> None:
        raise RuntimeError(reason)

    def expect(self, more: int) -> None:
        self._reached.clear()
        self._wanted = self._read + more

    def wait(self) -> None:
        if not self._reached.wait(TIMEOUT_S):
            raise TimeoutError(f"{self._read} of {self._wanted} records after {TIMEOUT_S:g} s")


def open_log(rig: RabbitRig, position: Position | None = None) -> tuple[StreamLog, Sink]:
    log = StreamLog(
        generation="benchmark",
        make_link=lambda _name, topology, up, down: rig.make_link(topology, up, down),
        max_length_bytes=1_000_000_000,
        segment_bytes=100_000_000,
    )
    sink = Sink()
    log.start(position, sink)
    return log, sink


def main() -> None:
    entries = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    configure("WARNING")
    with tempfile.TemporaryDirectory() as directory:
        began_s = time.perf_counter()
        rig = RabbitRig(Path(directory))
        print(f"broker started in                 {time.perf_counter() - began_s:8.2f} s")
        try:
            measure(rig, entries)
        finally:
            rig.end()


def measure(rig: RabbitRig, entries: int) -> None:
    log, sink = open_log(rig)
    sink.up.wait(TIMEOUT_S)
    read_back, confirmed = [], []
    for _ in range(entries):
        sink.expect(1)
        before_s = time.perf_counter()
        log.append(RECORD, None, TIMEOUT_S)
        sink.wait()
        read_back.append(1000 * (time.perf_counter() - before_s))
        sink.confirmed.acquire(timeout=TIMEOUT_S)  # it can come after the record
        confirmed.append(1000 * (sink.confirmed_s[-1] - before_s))
    for what, figures in (("publish → read back", read_back), ("publish → confirm", confirmed)):
        cuts = statistics.quantiles(figures, n=100)
        print(f"{what:22} p50, p99   {cuts[49]:8.2f} {cuts[98]:8.2f} ms")

    pipelined = 10 * entries
    sink.expect(pipelined)
    before_s = time.perf_counter()
    for _ in range(pipelined):
        log.append(RECORD, None, TIMEOUT_S)
    sink.wait()
    print(f"pipelined, read back              {pipelined / (time.perf_counter() - before_s):8.0f} /s")
    log.close()

    before_s = time.perf_counter()
    log, sink = open_log(rig)
    sink.expect(entries + pipelined)
    sink.wait()
    print(f"reading from the beginning        {(entries + pipelined) / (time.perf_counter() - before_s):8.0f} /s")
    log.close()


if __name__ == "__main__":
    main()
