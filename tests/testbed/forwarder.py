"""`python forwarder.py ONE TWO`: carries frames between two interfaces, those of chosen hosts with a delay each way.

The kernel of a test machine need not know netem. What is on stdin: lines `MAC MS`, after each of which frames from and
to that hardware address are held back for so many milliseconds (0: no more); its end is ours. Standard library only.

Frames come with a virtio header (PACKET_VNET_HDR): what the sender's kernel left to the network card, cutting into
segments and checksums, is still to be done, and passes on to the receiver as it is.
"""

import contextlib
import heapq
import os
import select
import socket
import sys
import time

SOL_PACKET, PACKET_VNET_HDR, PACKET_IGNORE_OUTGOING = 263, 15, 23
ETH_P_ALL = 3
HEADER = 10
LARGEST = 65_536 + 64
BUFFER = 4 * 1024 * 1024


def opened(interface: str) -> socket.socket:
    found = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    found.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    found.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
    found.bind((interface, ETH_P_ALL))
    found.setblocking(False)
    return found


class Forwarder:
    def __init__(self, one: socket.socket, two: socket.socket) -> None:
        self._other = {one: two, two: one}
        self._delays_s: dict[bytes, float] = {}
        self._held: list[tuple[float, int, socket.socket, bytes]] = []
        self._count = 0

    def run(self) -> None:
        poll = select.poll()
        by_number = {one.fileno(): one for one in self._other}
        for number in (0, *by_number):
            poll.register(number, select.POLLIN)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while True:
            wait_ms = max(0.0, self._held[0][0] - time.monotonic()) * 1000 if self._held else None
            for number, _ in poll.poll(wait_ms):
                if number == 0:
                    text = os.read(0, 65_536)
                    if not text:
                        return
                    self._configure(text.decode())
                else:
                    self._take(by_number[number])
            self._send_due()

    def _configure(self, text: str) -> None:
        for line in text.splitlines():
            mac, delay_ms = line.split()
            self._delays_s[bytes.fromhex(mac.replace(":", ""))] = float(delay_ms) / 1000

    def _take(self, source: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                frame = source.recv(LARGEST)
                to, by = frame[HEADER : HEADER + 6], frame[HEADER + 6 : HEADER + 12]
                delay_s = self._delays_s.get(to, 0.0) or self._delays_s.get(by, 0.0)
                self._count += 1  # what comes together stays in order
                heapq.heappush(self._held, (time.monotonic() + delay_s, self._count, self._other[source], frame))

    def _send_due(self) -> None:
        now_s = time.monotonic()
        while self._held and self._held[0][0] <= now_s:
            _, _, target, frame = heapq.heappop(self._held)
            with contextlib.suppress(OSError):  # a full queue loses it, as a network would
                target.send(frame)


if __name__ == "__main__":
    Forwarder(opened(sys.argv[1]), opened(sys.argv[2])).run()
