"""Tells systemd how a service is doing (sd_notify(3)). Does nothing where systemd did not start us."""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self


def notify(state: str) -> None:
    """Send `state`, such as `READY=1` or `STOPPING=1`. Never raises: a service works also where nobody listens."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):  # the abstract namespace
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.connect(address)
            channel.sendall(state.encode())
    except OSError:
        return


@dataclass(frozen=True, slots=True)
class Watchdog:
    """When to tell systemd that we are alive: a service that hangs is killed then, and begins anew (`WatchdogSec=`).

    Pure: times are given, in monotonic seconds. Who asks sends `WATCHDOG=1` every `pause_s`, as long as all `is_well`.
    """

    limit_s: float | None
    """systemd waits this long for a sign of life; None: it does not wait for any."""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Self:
        """What systemd asks of this very process, see sd_watchdog_enabled(3)."""
        if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
            return cls(None)
        try:
            limit_s = int(environ.get("WATCHDOG_USEC", "0")) / 1e6
        except ValueError:
            limit_s = 0.0
        return cls(limit_s if limit_s > 0 else None)

    @property
    def pause_s(self) -> float | None:
        """Between two signs: three of them may be late before systemd loses its patience."""
        return None if self.limit_s is None else self.limit_s / 4

    def is_well(self, now_s: float, beat_s: float) -> bool:
        """Whether the part whose last turn was at `beat_s` still turns. Half the limit is more than any turn may take;
        the other half passes until systemd acts.
        """
        return self.limit_s is not None and now_s - beat_s < self.limit_s / 2
