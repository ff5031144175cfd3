"""A server that does a TLS handshake, hears what it is told, and hangs up."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass


@dataclass
class Heard:
    """What clients have said to it."""

    text: str = ""


@contextmanager
def serving(tls: ssl.SSLContext) -> Iterator[tuple[int, Heard]]:
    """Its port at 127.0.0.1, and what it hears, for as long as the block lasts."""
    heard, over = Heard(), threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.1)

        def run() -> None:
            while not over.is_set():
                with suppress(OSError):
                    plain, _ = listener.accept()
                    plain.settimeout(5)
                    with plain, tls.wrap_socket(plain, server_side=True) as connection:
                        heard.text += connection.recv(65536).decode("latin-1")

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1], heard
        finally:
            over.set()
            thread.join(10)
