"""Packets that arrive later: held in a queue of the kernel's (nfqueue) until their time has come.

The kernels of test machines have no netem. A rule of netfilter hands packets to a queue by number; whoever has bound
that hears of each and says when it goes on. None is copied: only its number is told.
"""

import itertools
import select
import socket
import struct
import threading
import time
from collections import deque

NETLINK_NETFILTER, SOL_NETLINK, NETLINK_NO_ENOBUFS = 12, 270, 5
_SUBSYSTEM = 3 << 8  # NFNL_SUBSYS_QUEUE
PACKET, CONFIG, VERDICTS = _SUBSYSTEM | 0, _SUBSYSTEM | 2, _SUBSYSTEM | 3
_REQUEST, _ACK = 0x1, 0x4
_COMMAND, _COPY, _LENGTH, _MASK, _FLAGS, _HEADER = 1, 2, 3, 4, 5, 1
BIND, COPY_META, SEGMENTS_TOO, ACCEPT = 1, 1, 4, 1
HELD_MAX = 65_536
RECEIVED_BYTES = 1 << 16
TURN_S = 0.2

_numbers = itertools.count(1)


class Delay:
    """A queue whose packets go on `delay_s` seconds after they came. A thread of its own, until `end`."""

    def __init__(self, delay_s: float) -> None:
        """Raises `OSError` where the kernel has no such queues, or we may not have one."""
        self.number = next(_numbers)
        """What a rule calls it."""
        self._delay_s = delay_s
        self._ending = threading.Event()
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
        try:
            self._socket.bind((0, 0))
            self._socket.setsockopt(SOL_NETLINK, NETLINK_NO_ENOBUFS, 1)
            self._configure(_COMMAND, struct.pack(">BxH", BIND, 0))
            self._configure(_COPY, struct.pack(">IB", 0, COPY_META))
            self._configure(_LENGTH, struct.pack(">I", HELD_MAX))
            flags = struct.pack(">I", SEGMENTS_TOO)
            self._configure(_MASK, flags, _FLAGS, flags)
        except OSError:
            self._socket.close()
            raise
        self._thread = threading.Thread(target=self._run, name=f"delay {self.number}")
        self._thread.start()

    def end(self) -> None:
        """What it holds goes on now. Nothing may be sent to it any more: the kernel would drop that."""
        self._ending.set()
        self._thread.join()
        self._socket.close()

    def _configure(self, *attributes: int | bytes) -> None:
        self._send(CONFIG, *attributes, flags=_REQUEST | _ACK)
        answer = self._socket.recv(RECEIVED_BYTES)
        (error,) = struct.unpack_from("=i", answer, 16)
        if error:
            raise OSError(-error, f"nfqueue {self.number} cannot be set up")

    def _send(self, kind: int, *attributes: int | bytes, flags: int = _REQUEST) -> None:
        body = struct.pack(">BBH", socket.AF_UNSPEC, 0, self.number)
        for name, value in zip(attributes[::2], attributes[1::2], strict=True):
            assert isinstance(name, int)
            assert isinstance(value, bytes)
            body += struct.pack("=HH", 4 + len(value), name) + value + bytes(-len(value) % 4)
        self._socket.send(struct.pack("=IHHII", 16 + len(body), kind, flags, 0, 0) + body)

    def _run(self) -> None:
        held: deque[tuple[float, int]] = deque()
        while not self._ending.is_set():
            wait_s = max(0.0, held[0][0] - time.monotonic()) if held else TURN_S
            if select.select([self._socket], [], [], min(wait_s, TURN_S))[0]:
                due_s = time.monotonic() + self._delay_s
                held.extend((due_s, number) for number in _packets(self._socket.recv(RECEIVED_BYTES)))
            self._release(held, time.monotonic())
        while select.select([self._socket], [], [], 0)[0]:
            held.extend((0.0, number) for number in _packets(self._socket.recv(RECEIVED_BYTES)))
        self._release(held, float("inf"))

    def _release(self, held: deque[tuple[float, int]], now_s: float) -> None:
        """Those whose time has come: all up to the last of them, in the order in which they came."""
        last = None
        while held and held[0][0] <= now_s:
            last = held.popleft()[1]
        if last is not None:
            self._send(VERDICTS, 2, struct.pack(">II", ACCEPT, last))


def _packets(data: bytes) -> list[int]:
    """The numbers of the packets that were put into the queue."""
    found = []
    while len(data) >= 20:
        length, kind = struct.unpack_from("=IH", data)
        at = 20
        while kind == PACKET and at < length:
            size, name = struct.unpack_from("=HH", data, at)
            if name & 0x7FFF == _HEADER:
                found.append(struct.unpack_from(">I", data, at + 4)[0])
                break
            at += size + -size % 4
        data = data[length + -length % 4 :]
    return found
