"""Links that take time: a forwarder between a host's cable and the bridge, for as long as that host has slow links."""

import subprocess
import sys
from dataclasses import dataclass

from tests.testbed import forwarder
from tests.testbed.space import Space


@dataclass(slots=True)
class Detour:
    """A host whose frames go through a forwarder."""

    process: subprocess.Popen[bytes]
    delays_ms: dict[str, float]


class Delays:
    """The slow links of a bed. A link is between a host, by its port's name, and a hardware address."""

    def __init__(self, space: Space) -> None:
        self._space = space
        self._detours: dict[str, Detour] = {}

    def set(self, port: str, mac: str, delay_ms: float) -> None:
        """Frames between that host and `mac` take `delay_ms` longer, each way."""
        if port not in self._detours:
            self._detours[port] = Detour(self._detour(port), {})
        self._detours[port].delays_ms[mac] = delay_ms
        self._tell(self._detours[port], mac, delay_ms)

    def heal(self) -> None:
        """All links are as fast as ever."""
        for port in list(self._detours):
            self._end(port)
            self._space.run(
                f"ip link del {port}; ip link set {port}.h down; ip link set {port}.h name {port}\n"
                f"ip link set {port} master bed0 up"
            )

    def unplugged(self, port: str) -> None:
        """The host is off: its cable is gone, and the detour with it."""
        if port in self._detours:
            self._end(port)
            self._space.run(f"ip link del {port}; ip link set {port}.h name {port}")

    def _detour(self, port: str) -> "subprocess.Popen[bytes]":
        """The bridge keeps a port of that name, which the rules of cuts know."""
        self._space.run(f"""
            ip link set {port} down nomaster
            ip link set {port} name {port}.h
            ip link add {port} type veth peer name {port}.f
            ip link set {port} master bed0 up
            ip link set {port}.f up
            ip link set {port}.h up
        """)
        program = [sys.executable, "-I", forwarder.__file__, f"{port}.h", f"{port}.f"]
        process = subprocess.Popen(
            self._space.command(program), stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        assert process.stdout is not None
        if process.stdout.readline() != b"ready\n":
            raise OSError("the forwarder did not start; its message is above")
        return process

    def _tell(self, detour: Detour, mac: str, delay_ms: float) -> None:
        assert detour.process.stdin is not None
        detour.process.stdin.write(f"{mac} {delay_ms}\n".encode())
        detour.process.stdin.flush()

    def _end(self, port: str) -> None:
        process = self._detours.pop(port).process
        assert process.stdin is not None and process.stdout is not None
        process.stdin.close()
        process.wait()
        process.stdout.close()

    def close(self) -> None:
        """The bed has ended."""
        for port in list(self._detours):
            self._end(port)
