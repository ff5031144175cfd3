"""What a host's systemd says of its boot, as systemd-nspawn passes it on (sd_notify)."""

import socket
import threading
from pathlib import Path

LARGEST = 65_536


class Notices:
    """A socket at `path` and a thread that reads it until it is closed: who is not heard blocks the host's systemd."""

    def __init__(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._changed = threading.Condition()
        self._said: list[str] = []
        self._thread = threading.Thread(target=self._listen, name=f"notices {path.name}", daemon=True)
        self._thread.start()

    def wait_for(self, start: str, timeout_s: float) -> str | None:
        """The first line that begins so, without that beginning, once it has come; None where it does not."""

        def found() -> list[str]:
            return [line for line in self._said if line.startswith(start)]

        with self._changed:
            self._changed.wait_for(found, timeout_s)
            return next((line.removeprefix(start) for line in found()), None)

    def close(self) -> None:
        """Again does no harm."""
        if self._thread.is_alive():
            self._socket.shutdown(socket.SHUT_RD)
            self._thread.join()
        self._socket.close()

    def _listen(self) -> None:
        while text := self._socket.recv(LARGEST):
            with self._changed:
                self._said += text.decode(errors="replace").splitlines()
                self._changed.notify_all()
