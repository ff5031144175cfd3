"""Tells systemd how a service is doing (sd_notify(3)). Does nothing where systemd did not start us."""

import os
import socket


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
